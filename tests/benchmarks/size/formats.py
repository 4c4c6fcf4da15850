"""One student as files of format 1, 2 and 3: bytes, what they go to, and what rounding does to the outputs.

    LLOYDMAX_ZOO=CHECKPOINTS OMP_NUM_THREADS=1 python tests/benchmarks/size/formats.py [--networks a,b] [--bits 1.5,2]

Networks are those of the zoo. Codes and centroids are those of ``recipe_for`` without its steps and without inputs,
made for a file of format 2; the others hold the same codes. "changed" is the root mean square by which outputs change
where floats are stored as in a format, and "by the codes" that by which codes have changed them, both relative to the
outputs of the original. The last column is the time of reading the codes of format 3, and of format 2.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lloydmax
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from lloydmax.checkpoint import inspect, round_floats, save
from lloydmax.defaults import plain_recipe
from lloydmax.format.reader import File
from lloydmax.report import environment
from zoo.network import Missing, outputs
from zoo.registry import NETWORKS

FORMATS: dict[int, dict[str, str]] = {
    1: {"floats": "float16", "codes": "entropy"},
    2: {"floats": "float16", "codes": "entropy", "norms": "merged", "layout": "compact"},
    3: {"floats": "fixed", "codes": "arithmetic", "norms": "merged", "layout": "tight"},
}
INPUTS = 64


def flat(found: Any) -> Tensor:
    """Outputs as one vector."""
    return torch.cat([part.double().reshape(-1) for part in (found if isinstance(found, list) else [found])])


def seconds(path: Path) -> float:
    """Of the processor, to read all codes."""
    start = time.process_time()
    with File(path) as file:
        for name in file.document.parameters:
            for _ in file.codes(name):
                pass
    return time.process_time() - start


def row(name: str, bits: float, model: nn.Module, inputs: Tensor, folder: Path) -> str:
    """One student in all formats."""
    recipe = plain_recipe(model, bits).data()
    student = lloydmax.compress(model, recipe | {"storage": FORMATS[2]}, progress=False).model
    exact, before = flat(outputs(model, inputs)), flat(outputs(student, inputs))
    sizes, parts, changed, times = [], [], 0.0, {}
    for number, storage in FORMATS.items():
        stored, path = copy.deepcopy(student), folder / str(number)
        round_floats(stored, storage)
        sizes.append(save(stored, path, recipe, storage))
        found = inspect(path)
        assert found.format == number
        others = sum(item.bytes for item in found.tensors)
        parts.append(f"{found.bytes - others - found.overhead:,} + {others:,} + {found.overhead:,}")
        changed = float((flat(outputs(stored, inputs)) - before).square().mean().sqrt())
        times[number] = seconds(path)
    scale = float(exact.square().mean().sqrt())
    wrong = float((before - exact).square().mean().sqrt()) / scale
    return (
        f"| {name} | {bits:g} | {sizes[0]:,} | {sizes[1]:,} | {sizes[2]:,} | {100 * (sizes[2] / sizes[1] - 1):+.1f} % "
        f"| {parts[1]} | {parts[2]} | {changed / scale:.4f} | {wrong:.4f} | {times[3]:.2f} s, {times[2]:.2f} s |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=lambda text: text.split(","), default=list(NETWORKS))
    parser.add_argument("--bits", type=lambda text: [float(part) for part in text.split(",")], default=[1.5, 2, 3, 4])
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(", ".join(f"{key} {value}" for key, value in environment().items()), end="\n\n")
    print("codes and codebooks + other tensors + names, checksums\n")
    print(
        "| network | bits | format 1 | format 2 | format 3 | 3 against 2 | of format 2 | of format 3 | changed |",
        end="",
    )
    print(" by the codes | reading |\n|---|---|---|---|---|---|---|---|---|---|---|")
    for name in given.networks:
        try:
            loaded = NETWORKS[name].load()
        except Missing as missing:
            print(f"{name}: {missing}", file=sys.stderr)
            continue
        with TemporaryDirectory() as folder:
            for bits in given.bits:
                print(row(name, bits, loaded.model, loaded.test[:INPUTS], Path(folder)), flush=True)


if __name__ == "__main__":
    main()
