"""What the sweep costs and how it ranks, and what searched centroids save against the same number everywhere.

    python tests/benchmarks/search.py [--only NAME ...] [--threads N]

The first table compares the estimated sweep with one that measures every layer and number of centroids by a full pass
(no labels, no recovery). The second gives, for the bytes of a uniform 3-bit and 4-bit file, the damage of the uniform
choice and of the searched one, both on inputs that the search did not see. Teachers that were not trained yet
(tests/benchmarks/published/teachers.py) are left out.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import lloydmax
import numpy as np
import torch
from lloydmax import demo
from lloydmax.data import unlabelled
from lloydmax.report import environment
from lloydmax.teacher.agreement import Comparison
from torch import Tensor, nn
from torchvision.models import resnet50

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "plugin" / "integrations"), str(HERE / "published")]

ALL = {"quantize": [{"layers": "all"}]}
CENTROIDS = (2, 4, 8, 16, 32, 64, 128, 256)
SEEN, UNSEEN = 256, 500
T = TypeVar("T")


@dataclass
class Case:
    """A network, inputs for the search, other inputs, and labels of these where there are any."""

    model: nn.Module
    seen: Tensor
    unseen: Tensor
    labels: Tensor | None = None


def demo_case() -> Case:
    images, labels = demo.test_set()
    return Case(demo.network(), images[:SEEN], images[-UNSEEN:], labels[-UNSEEN:])


def published(name: str) -> Case:
    from teachers import fashion, normalized, teacher

    model = teacher(name)
    images, labels = fashion()
    return Case(model, normalized(images[:SEEN]), normalized(images[-UNSEEN:]), labels[-UNSEEN:])


def efficientnet_case() -> Case:
    from ao_models import efficientnet, photos

    crops = photos(144, 128)
    return Case(efficientnet(), crops[:96], crops[96:])


def resnet50_case() -> Case:
    """The full-size network with random weights and the batch statistics of the photographs."""
    from ao_models import photos

    torch.manual_seed(0)
    model, crops = resnet50(), photos(160, 64)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
        model.train()(crops[:64])
        model.fc.weight *= 8
    return Case(model.eval(), crops[:24], crops[24:])


SWEPT: dict[str, Callable[[], Case]] = {
    "demo": demo_case,
    "ResNet-50 (random weights, 64 px)": resnet50_case,
    "ResNet-50 (32 px)": lambda: published("resnet50"),
}
SEARCHED: dict[str, Callable[[], Case]] = {
    "demo": demo_case,
    "VGG-16 (32 px)": lambda: published("vgg16"),
    "MobileNet-v2 (32 px)": lambda: published("mobilenet_v2"),
    "ResNet-50 (32 px)": lambda: published("resnet50"),
    "EfficientNet-Lite0 (ImageNet)": efficientnet_case,
}


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    ranks = [np.argsort(np.argsort(values)).astype(float) for values in (one, other)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def compare_sweeps(name: str, case: Case, samples: int) -> None:
    cache = lloydmax.Cache()
    data = case.seen[:samples]
    lloydmax.sweep(case.model, ALL, data[:2], CENTROIDS, cache=cache)  # both find the codebooks fitted
    estimated, cheap = _timed(lambda: lloydmax.sweep(case.model, ALL, data, CENTROIDS, cache=cache))
    measured, dear = _timed(lambda: lloydmax.sweep(case.model, ALL, data, CENTROIDS, estimate=False, cache=cache))
    both = [[row.damage for row in sweep.rows] for sweep in (estimated, measured)]
    each = [
        spearman(*([row.damage for row in sweep.rows if row.centroids == k] for sweep in (estimated, measured)))
        for k in (4, 8, 16)
    ]
    print(
        f"{name:36} {len(measured.by_unit()):4} {len(data):5} {estimated.passes:8.1f} {measured.passes:8.1f} "
        f"{measured.passes / estimated.passes:6.1f} {cheap:8.1f} {dear:8.1f} "
        f"{spearman(*both):9.4f} {each[0]:6.2f} {each[1]:6.2f} {each[2]:6.2f}",
        flush=True,
    )


def compare_cost(name: str, case: Case, inputs: int) -> None:
    """With as many inputs as a sweep has in earnest; the passes that would measure everything are timed on three."""
    cache, data = lloydmax.Cache(), case.unseen[:inputs]
    lloydmax.sweep(case.model, ALL, data[:2], CENTROIDS, cache=cache)
    estimated, cheap = _timed(lambda: lloydmax.sweep(case.model, ALL, data, CENTROIDS, cache=cache))
    comparison = Comparison(case.model, unlabelled(data, case.model), inputs)
    _, three = _timed(lambda: [comparison.measure(case.model) for _ in range(3)])
    dear = three / 3 * len(estimated.rows)
    print(
        f"{name}, {inputs} inputs: {cheap:.0f} s; {len(estimated.rows)} passes at {three / 3:.2f} s would take "
        f"{dear:.0f} s, {dear / cheap:.1f} times as much",
        flush=True,
    )


def _timed(run: Callable[[], T]) -> tuple[T, float]:
    """The result, and CPU seconds: what else runs on the machine does not count."""
    started = time.process_time()
    return run(), time.process_time() - started


def compare_choices(name: str, case: Case) -> None:
    cache, started = lloydmax.Cache(), time.perf_counter()
    with tempfile.TemporaryDirectory() as workdir:
        for bits in (3, 4):
            uniform = {"quantize": [{"layers": "all", "centroids": 2**bits}]}
            room = lloydmax.plan(case.model, uniform).predicted_bytes
            found = lloydmax.search(
                case.model, ALL, case.seen, {"bytes": room}, centroids=CENTROIDS[:-1], cache=cache, workdir=workdir
            )
            for label, recipe in (("uniform", uniform), ("searched", found.recipe)):
                evaluate = None if case.labels is None else _accuracy(case.unseen, case.labels)
                report = lloydmax.compress(case.model, recipe, case.unseen, evaluate=evaluate, progress=False).report
                scores = [stage.score for stage in report.stages]
                shown = "" if scores[0] is None else f"{100 * scores[0]:9.2f} {100 * (scores[1] or 0):9.2f}"
                kl, agreement = report.kl.before or 0.0, report.agreement.before or 0.0
                print(f"{name:30} {bits:4} {label:9} {report.bytes.file:11,} {kl:9.5f} {100 * agreement:9.2f} {shown}")
        print(f"{'':30} both searches with all measurements: {time.perf_counter() - started:.0f} s", flush=True)


def _accuracy(inputs: Tensor, labels: Tensor) -> Callable[[nn.Module], float]:
    return lambda model: float((torch.cat([model(x) for x in inputs.split(100)]).argmax(1) == labels).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[*SWEPT, *SEARCHED])
    parser.add_argument("--part", choices=["sweep", "search", "both"], default="both")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(", ".join(f"{key} {value}" for key, value in environment().items()))

    def cases(table: dict[str, Callable[[], Case]]) -> list[tuple[str, Case]]:
        made = []
        for name in [name for name in table if name in arguments.only]:
            try:
                made.append((name, table[name]()))
            except (FileNotFoundError, ImportError, SystemExit) as missing:
                print(f"{name}: left out ({missing})")
        return made

    if arguments.part != "search":
        print(
            f"\n{'one layer at a time':36} {'':4} {'':5} {'passes over all':>17} {'times':>6} {'CPU seconds':>17} "
            f"{'Spearman':>9} {'at k=4':>6} {'8':>6} {'16':>6}\n"
            f"{'':34} {'layers':>6} {'inputs':>5} {'estimate':>6} {'measured':>8} {'fewer':>6} {'estimate':>8} "
            f"{'measured':>8}"
        )
        for name, case in cases(SWEPT):
            compare_sweeps(name, case, 64 if name == "demo" else 128)
            if name.startswith("ResNet-50 (random"):
                compare_cost(name, case, 128)
    if arguments.part != "sweep":
        print(
            f"\n{'at the same bytes':30} {'bits':>4} {'centroids':9} {'file':>11} {'KL':>9} {'agree %':>9} "
            f"{'acc. of original, compressed %':>9}"
        )
        for name, case in cases(SEARCHED):
            compare_choices(name, case)


if __name__ == "__main__":
    main()
