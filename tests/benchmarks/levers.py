"""What each lever of the recipe that ``lloydmax.recipe_for`` makes is worth: the same recipe with one thing changed.

    OMP_NUM_THREADS=1 python tests/benchmarks/levers.py [--network NAME] [--bits 2.3] [--steps 60] [--only GLOB] [PART]

Parts: ``allocation`` (importances and their exponent, no recovery), ``recovery`` (options of ``distill``), each a table
of agreement with the teacher and KL divergence on test inputs. ``--only`` runs the rows of ``recovery`` whose titles
match. Networks and inputs are those of ``accuracy_at_size.py``, with its ``--folder``.
"""

from __future__ import annotations

import argparse
import copy
import time
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import lloydmax
from lloydmax.choosing import rates
from lloydmax.data import unlabelled
from lloydmax.outputs import Yardstick
from lloydmax.report import environment
from published import teachers
from size.networks import Network, networks
from size.ours import Batches

EXPONENTS = (0.0, 1 / 3, 2 / 3, 1.0)
VARIANTS: dict[str, dict[str, Any]] = {
    "as recipe_for makes it": {},
    "codes fixed": {"codes": "fixed"},
    "codes annealed": {"codes": "anneal"},
    "codes nearest or next": {"codes": "round"},
    "codes learn three times as fast": {"codes_lr": 3e-3},
    "codes learn ten times as fast": {"codes_lr": 1e-2},
    "codes annealed, ten times as fast": {"codes": "anneal", "codes_lr": 1e-2},
    "codes nearest or next, ten times as fast": {"codes": "round", "codes_lr": 1e-2},
    "no features": {"features": 0.0},
    "features count once": {"features": 1.0},
    "no views": {"augment": [], "mixup": 0.0, "cutmix": 0.0},
    "no mixtures": {"mixup": 0.0, "cutmix": 0.0},
    "statistics of the batch": {"batch_norm": "train"},
    "squared difference of the outputs": {"loss": "mse"},
    "one learning rate for all": {"relative_lr": False, "lr": 1e-4},
}


class Levers:
    """One network at one size.

    Args:
        network: of :mod:`size.networks`.
        bits: of the whole file.
        steps: of ``distill``.
        most: test inputs.
        only: a glob of the rows of ``recovery``.
    """

    def __init__(self, network: Network, bits: float, steps: int, most: int, only: str = "*") -> None:
        self.model, self.steps, self.only = network.model(), steps, only
        self.data = Batches(network.unlabelled())
        test = network.test()
        self.yardstick = Yardstick(self.model, unlabelled(test.batch(0, most), self.model), most)
        self.recipe = lloydmax.recipe_for(self.model, bits, self.data).data()

    def row(self, title: str, recipe: dict[str, Any]) -> str:
        """Compress by a recipe; the figures as a line of a table."""
        start = time.process_time()
        result = lloydmax.compress(copy.deepcopy(self.model), recipe, self.data, progress=False)
        seconds = time.process_time() - start
        found = self.yardstick.measure(result.model)
        bits = 8 * result.report.bytes.file / sum(p.numel() for p in self.model.parameters())
        share = "" if found.top1 is None else f"{100 * found.top1:.1f} %"
        return f"| {title} | {share} | {found.kl or found.mse:.4f} | {bits:.3f} | {seconds:.0f} |"

    def allocation(self) -> None:
        """Importances and their exponent."""
        plain = copy.deepcopy(self.recipe) | {"recover": []}
        for kind in ("fisher", "inputs"):
            rules = [rule | {"importance": kind} for rule in plain["quantize"]]
            for exponent in EXPONENTS if kind == "fisher" else (rates.TEMPER,):
                before, rates.TEMPER = rates.TEMPER, exponent
                try:
                    title = f"{kind}, exponent {exponent:.2f}" if exponent else "the same share of every layer's energy"
                    print(self.row(title, plain | {"quantize": rules}), flush=True)
                finally:
                    rates.TEMPER = before

    def recovery(self) -> None:
        """Options of the training."""
        (step,) = self.recipe["recover"]
        if fnmatchcase("no recovery", self.only):
            print(self.row("no recovery", self.recipe | {"recover": []}), flush=True)
        for title, options in VARIANTS.items():
            if not fnmatchcase(title, self.only):
                continue
            print(self.row(title, self.recipe | {"recover": [step | {"steps": self.steps} | options]}), flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["allocation", "recovery"], metavar="PART")
    parser.add_argument("--network", default="fashion-demo")
    parser.add_argument("--bits", type=float, default=2.3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--most", type=int, default=600, help="test inputs")
    parser.add_argument("--only", default="*", metavar="GLOB", help="rows of the recovery, e.g. 'codes*'")
    parser.add_argument("--folder", type=Path, default=Path("build/accuracy_at_size"))
    arguments = parser.parse_args()
    network = networks(arguments.folder, teachers.FOLDER)[arguments.network]
    print(f"{network.title}, {arguments.bits:g} bits a weight, {arguments.steps} steps of 32. {environment()}")
    levers = Levers(network, arguments.bits, arguments.steps, arguments.most, arguments.only)
    for part in arguments.parts:
        print(f"\n| {part} | agreement | KL | bits a weight | CPU seconds |\n|---|---|---|---|---|", flush=True)
        {"allocation": levers.allocation, "recovery": levers.recovery}[part]()


if __name__ == "__main__":
    main()
