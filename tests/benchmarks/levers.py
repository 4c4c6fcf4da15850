"""What each lever of the recipe that ``lloydmax.recipe_for`` makes is worth: the same recipe with one thing changed.

    OMP_NUM_THREADS=1 python tests/benchmarks/levers.py [PART] [--network NAME] [--bits 2.3] [--steps 60] [--only ...]

Parts: ``allocation`` (importances and their exponent, no recovery), ``plain`` (k-means without data), ``recovery``
(options of ``distill``, and another step before it), each a table of agreement with the teacher and KL divergence on
test inputs, or, with ``--held-out``, on a fifth of the unlabelled inputs that recovery does not get: whoever chooses by
these figures has not seen the test.
``--only`` runs the rows whose titles match. Networks and inputs are those of ``accuracy_at_size.py``, with its
``--folder``.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lloydmax
from lloydmax.data import unlabelled
from lloydmax.fitting import price
from lloydmax.report import environment
from lloydmax.teacher.agreement import Comparison
from lloydmax_strategies import kmeans
from published import teachers
from size.networks import Network, Prepared, networks
from size.ours import Batches

EXPONENTS = (1 / 3, 2 / 3, 1.0)
MEANS, RECONSTRUCTED, ALONE = "centroids that are means", "reconstruct before it", "no other step before it"
VARIANTS: dict[str, dict[str, Any]] = {
    "as recipe_for makes it": {},
    RECONSTRUCTED: {},
    ALONE: {},
    MEANS: {},
    "codes fixed": {"codes": "fixed"},
    "codes annealed": {"codes": "anneal"},
    "codes learn three times as fast": {"codes_lr": 3e-3},
    "codes learn ten times as fast": {"codes_lr": 1e-2},
    "codes annealed, ten times as fast": {"codes": "anneal", "codes_lr": 1e-2},
    "all else learns three times as fast": {"lr": 3e-3},
    "one learning rate for all else": {"relative_lr": False, "lr": 1e-4},
    "no features": {"features": 0.0},
    "features count once": {"features": 1.0},
    "no views": {"augment": [], "mixup": 0.0, "cutmix": 0.0},
    "no mixtures": {"mixup": 0.0, "cutmix": 0.0},
    "pictures of 0.58 times the size": {"resize": 0.58},
    "all learns a third as fast": {"codes_lr": 3e-4, "lr": 3e-4},
    "statistics of the batch": {"batch_norm": "train"},
    "squared difference of the outputs": {"loss": "mse"},
}


class Levers:
    """One network at one size.

    Args:
        network: of :mod:`size.networks`.
        given: ``bits`` of the whole file, ``steps`` of ``distill``, ``most`` test inputs, ``held_out``, ``only`` (globs
            of rows) and ``device``.
    """

    def __init__(self, network: Network, given: argparse.Namespace) -> None:
        self.model, self.steps, self.only = network.model().to(given.device), given.steps, given.only
        inputs, test = network.unlabelled(), network.test()
        if given.held_out:
            kept = 4 * len(inputs) // 5
            test = Prepared(inputs.raw[kept:], inputs.prepare)
            inputs = Prepared(inputs.raw[:kept], inputs.prepare)
        self.data, self.cache = Batches(inputs), lloydmax.Cache()
        most = min(given.most, len(test))
        self.comparison = Comparison(self.model, unlabelled(test.batch(0, most), self.model), most)
        self.recipe = lloydmax.recipe_for(self.model, given.bits, self.data).data()

    def row(self, title: str, recipe: dict[str, Any]) -> None:
        """Compress by a recipe; print the figures as a line of a table."""
        if not any(fnmatchcase(title, pattern) for pattern in self.only):
            return
        start = time.perf_counter()
        result = lloydmax.compress(copy.deepcopy(self.model), recipe, self.data, progress=False, cache=self.cache)
        seconds = time.perf_counter() - start
        found = self.comparison.measure(result.model)
        bits = 8 * result.report.bytes.file / sum(p.numel() for p in self.model.parameters())
        share = "" if found.top1 is None else f"{100 * found.top1:.1f} %"
        print(f"| {title} | {share} | {found.kl or found.mse:.4f} | {bits:.3f} | {seconds:.0f} |", flush=True)

    def allocation(self) -> None:
        """Importances and their exponent, and centroids as they come out of k-means."""
        rules = {
            kind: [rule | {"importance": kind} for rule in self.recipe["quantize"]]
            for kind in (None, "fisher", "inputs")
        }
        plain = self.recipe | {"recover": []}
        for kind in rules:
            for exponent in EXPONENTS if kind == "fisher" else (price.TEMPER,):
                title = f"{kind}, exponent {exponent:.2f}" if kind else "no importance"
                with patch.object(price, "TEMPER", exponent):
                    self.row(title, plain | {"quantize": rules[kind]})
        with self._means():
            self.row("no importance, centroids that are means", plain | {"quantize": rules[None]})
            self.row("fisher, centroids that are means", plain | {"quantize": rules["fisher"]})

    def plain(self) -> None:
        """k-means by itself, no data, with and without the option ``unbiased``."""
        for granularity in ("tensor", "channel"):
            for centroids in (3, 4, 8, 16):
                for unbiased in (False, True):
                    rule = {"layers": "all", "granularity": granularity, "centroids": centroids, "unbiased": unbiased}
                    title = f"{centroids} centroids a {granularity}, {'unbiased' if unbiased else 'means'}"
                    self.row(title, {"version": 1, "quantize": [rule], "storage": self.recipe["storage"]})

    def recovery(self) -> None:
        """Options of the training."""
        self.row("no recovery", self.recipe | {"recover": []})
        *first, step = self.recipe["recover"]
        self.row("no training", self.recipe | {"recover": first})
        reconstruct = {"step": "reconstruct", "samples": 256}
        for title, options in VARIANTS.items():
            before = {RECONSTRUCTED: [*first, reconstruct], ALONE: []}.get(title, first)
            with self._means() if title == MEANS else nullcontext():
                self.row(title, self.recipe | {"recover": [*before, step | {"steps": self.steps} | options]})

    @contextmanager
    def _means(self) -> Iterator[None]:
        """Centroids as k-means finds them, not over their gain."""
        as_found = patch.object(kmeans, "unbiased", lambda codebook, weight: codebook)
        with as_found, patch.object(self, "cache", lloydmax.Cache()):
            yield


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["allocation", "plain", "recovery"], metavar="PART")
    parser.add_argument("--network", default="fashion-demo")
    parser.add_argument("--bits", type=float, default=2.3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--most", type=int, default=600, help="test inputs")
    parser.add_argument("--held-out", action="store_true", help="measure on a fifth of the unlabelled inputs")
    parser.add_argument("--only", nargs="+", default=["*"], metavar="GLOB", help="rows, e.g. 'codes*'")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--teachers", type=Path, default=teachers.FOLDER)
    parser.add_argument("--folder", type=Path, default=Path("build/accuracy_at_size"))
    arguments = parser.parse_args()
    network = networks(arguments.folder, arguments.teachers)[arguments.network]
    where = "held-out unlabelled inputs" if arguments.held_out else "test inputs"
    print(f"{network.title}, {arguments.bits:g} bits a weight, {arguments.steps} steps of 32, {where}. {environment()}")
    levers = Levers(network, arguments)
    for part in arguments.parts:
        print(f"\n| {part} | agreement | KL | bits a weight | seconds |\n|---|---|---|---|---|", flush=True)
        {"allocation": levers.allocation, "plain": levers.plain, "recovery": levers.recovery}[part]()


if __name__ == "__main__":
    main()
