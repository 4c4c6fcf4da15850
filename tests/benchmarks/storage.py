"""What each storage option takes off a file of EfficientNet-Lite0, and what it does to the outputs.

    OMP_NUM_THREADS=1 python tests/benchmarks/storage.py [--bits 2 4] [--granularity tensor channel] [--pictures N]

No recovery. "difference" is of the logits from those of the same codebooks stored as float32, relative to their root
mean square, on crops of photographs.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import lloydmax
import torch
from lloydmax.checkpoint import inspect
from lloydmax.report import environment
from published.lite import crops, network

HALF = {"floats": "float16", "codes": "entropy"}
STORAGES: dict[str, dict[str, str]] = {
    "the default": {},
    "floats: float16, codes: entropy": HALF,
    "and norms: merged": {**HALF, "norms": "merged"},
    "and layout: compact": {**HALF, "norms": "merged", "layout": "compact"},
    "and codebooks: int8": {**HALF, "norms": "merged", "layout": "compact", "codebooks": "int8"},
}


@torch.no_grad()
def table(bits: int, granularity: str, pictures: int) -> None:
    """One row for each storage, each with the options of the one before."""
    print(f"{bits} bits, {granularity}\n")
    print("| storage | file | bits a weight | codes and codebooks | other tensors | names, checksums | difference |")
    print("|---|---|---|---|---|---|---|")
    inputs, model, exact = crops(pictures, 0), network(), None
    weights = sum(parameter.numel() for parameter in model.parameters())
    rule = {"layers": "all", "centroids": 1 << bits, "granularity": granularity}
    with TemporaryDirectory() as folder:
        for name, storage in STORAGES.items():
            result = lloydmax.compress(model, {"quantize": [rule], "storage": storage}, progress=False)
            size = result.save(Path(folder) / "file")
            found = inspect(Path(folder) / "file")
            logits = result.model(inputs)
            exact = logits if exact is None else exact
            others = sum(item.bytes for item in found.tensors)
            change = float((logits - exact).square().mean().sqrt() / exact.square().mean().sqrt())
            print(
                f"| {name} | {size:,} | {8 * size / weights:.3f} | {size - others - found.overhead:,} | {others:,} "
                f"| {found.overhead:,} | {change:.1e} |",
                flush=True,
            )
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=int, nargs="*", default=[2, 4])
    parser.add_argument("--granularity", nargs="*", default=["tensor", "channel"])
    parser.add_argument("--pictures", type=int, default=50)
    given = parser.parse_args()
    print(", ".join(f"{key} {value}" for key, value in environment().items()), end="\n\n")
    for granularity in given.granularity:
        for bits in given.bits:
            table(bits, granularity, given.pictures)


if __name__ == "__main__":
    main()
