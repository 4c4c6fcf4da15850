"""Our search for a budget against Optuna's TPE at equal time, and at five times as much.

    python tests/benchmarks/study.py [--bits 3] [--times 1 5] [--threads N]

The demo's network, centroids from 2 to 256 for each layer, codebooks only. ``lloydmax.search`` finds the centroids for
a number of bits. Then TPE has the same process time for trials that keep within the same bytes of file: one trial
compresses; codebooks and the teacher's outputs are shared by a cache. It begins with 2, 4 and 8 centroids everywhere.
Both see the same inputs; the divergence from the original is measured on others.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import lloydmax
import optuna
import torch
from lloydmax import demo
from lloydmax.data import unlabelled
from lloydmax.plan import plan
from lloydmax.report import environment
from lloydmax.teacher.agreement import Comparison
from torch import Tensor, nn

CENTROIDS = [2, 4, 8, 16, 32, 64, 128, 256]
SEEN, UNSEEN = 256, 500


def study(model: nn.Module, seen: Tensor, most: int, seconds: float, seed: int) -> tuple[Any, int, int]:
    """The best recipe that TPE finds within these bytes and this process time, its bytes, and the trials."""
    layers = list(plan(model, {"quantize": [{"layers": "all"}]}).parameters)
    rules = [{"layers": name.rpartition(".")[0], "centroids": CENTROIDS} for name in layers]
    recipe, cache = lloydmax.Recipe.load({"quantize": rules}), lloydmax.Cache()

    def objective(trial: optuna.Trial) -> float:
        report = lloydmax.compress(model, recipe.suggest(trial), seen, cache=cache, progress=False).report
        trial.set_user_attr("bytes", report.bytes.file)
        return float(report.stages[-1].agreement.kl)

    sampler = optuna.samplers.TPESampler(
        seed=seed, multivariate=True, constraints_func=lambda trial: [trial.user_attrs["bytes"] - most]
    )
    made = optuna.create_study(sampler=sampler)
    for k in (2, 4, 8):
        made.enqueue_trial(dict.fromkeys(recipe.space().named(), k))
    start = time.process_time()
    made.optimize(objective, n_trials=10_000, callbacks=[_until(start + seconds)])
    kept = [trial for trial in made.trials if trial.user_attrs["bytes"] <= most]
    best = min(kept, key=lambda trial: trial.value)
    return recipe.resolved(best.params), best.user_attrs["bytes"], len(made.trials)


def _until(end: float) -> Any:
    def stop(study: optuna.Study, _: object) -> None:
        if time.process_time() >= end:
            study.stop()

    return stop


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bits", nargs="+", type=float, default=[3.0])
    parser.add_argument("--times", nargs="+", type=float, default=[1.0, 5.0])
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    print(*environment().items(), f"Optuna {optuna.__version__}", flush=True)
    model, images = demo.network(), demo.test_set()[0]
    seen, unseen = images[:SEEN], images[-UNSEEN:]
    comparison = Comparison(model, unlabelled(unseen, model), len(unseen))

    def told(name: str, recipe: Any, size: int, seconds: float, runs: str) -> None:
        found = comparison.measure(lloydmax.compress(model, recipe, progress=False).model)
        print(f"{name:22} {size:8,} {seconds:8.1f} {runs:>7} {found.kl:9.4f} {found.top1:9.2%}", flush=True)

    for bits in asked.bits:
        print(f"\n{bits:g} bits                 bytes   CPU s  trials        KL agreement", flush=True)
        recipe = {"quantize": [{"layers": "all", "centroids": CENTROIDS}]}
        start = time.process_time()
        found = lloydmax.search(model, recipe, seen, {"bits": bits}, progress=False)
        spent = time.process_time() - start
        size = lloydmax.compress(model, found.recipe, progress=False).report.bytes.file
        told("search", found.recipe, size, spent, "")
        for times in asked.times:
            for seed in (0, 1):
                start = time.process_time()
                chosen, taken, trials = study(model, seen, size, times * spent, seed)
                told(f"TPE, {times:g} x, seed {seed}", chosen, taken, time.process_time() - start, str(trials))


if __name__ == "__main__":
    main()
