"""What reconstruction gives EfficientNet-Lite0 without any training, at files of 3.3 and 2.3 bits a weight.

    OMP_NUM_THREADS=1 python tests/benchmarks/reconstruct.py FOLDER [--bits 2.3] [--samples 256] [--side 128]

FOLDER keeps the photographs of ``size/photos.py``. The recipe is that of ``lloydmax.recipe_for`` with ``effort=0``,
which ends in a re-normalization; after that come ``reconstruct`` and another re-normalization. Every stage is a row.
Agreement and KL divergence are on photographs of other originals; the error is that of the layers' outputs, before and
after, mean of all layers.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lloydmax
import numpy as np
import torch
import torch.nn.functional as F
from lloydmax.report import environment
from published import lite
from size import photos
from size.networks import Prepared, outputs, quality
from torch import Tensor, nn

WAYS: dict[str, dict[str, Any]] = {"plain": {}, "refit": {"refit": True}, "no bias": {"bias": False}}
STEPS = ("renormalize", "reconstruct", "renormalize")


def prepared(array: np.ndarray, side: int) -> Tensor:
    """What the network takes, ``(N, 3, side, side)``."""
    parts = torch.from_numpy(np.array(array)).split(100)
    small = [F.interpolate(part.float(), (side, side), mode="bilinear", antialias=True) for part in parts]
    return (torch.cat(small) - 127) / 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bits", type=float, nargs="*", default=[3.3, 2.3])
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--side", type=int, default=lite.SIDE)
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS))
    given = parser.parse_args()
    found, model = photos.split(given.folder), lite.network()
    every = found["recovery"][:: max(1, len(found["recovery"]) // given.samples)][: given.samples]
    data, test = (prepared(array, given.side) for array in (every, found["test"]))
    inputs = Prepared(test, lambda x: x)
    wanted = outputs(model, inputs)
    print(", ".join(f"{key} {value}" for key, value in environment().items()))
    print(f"{len(data)} photographs for recovery, {len(test)} of the test, {given.side} x {given.side} pixels\n")
    print("| bits | options | stage | agreement | KL (nats) |\n|---|---|---|---|---|", flush=True)
    cache = lloydmax.Cache()
    for bits in given.bits:
        base = lloydmax.recipe_for(model, bits=bits, data=data, effort=0).data()
        for way in given.ways:
            stages = iter(["original", "compressed", *(f"{n}: {name}" for n, name in enumerate(STEPS, start=1))])

            def evaluate(
                student: nn.Module, told: str = f"| {bits:g} | {way} |", stages: Iterator[str] = stages
            ) -> float:
                good = quality(outputs(student, inputs), wanted, torch.empty(0, dtype=torch.long), False)
                print(f"{told} {next(stages)} | {good['agreement']:.1%} | {good['kl']:.3f} |", flush=True)
                return good["agreement"]

            step = {"step": "reconstruct", "samples": given.samples, **WAYS[way]}
            made = base | {"recover": [*base["recover"], step, *base["recover"]]}
            result = lloydmax.compress(model, made, data, evaluate=evaluate, progress=False, cache=cache)
            said, report = result.report.recovery[len(base["recover"])], result.report
            print(
                f"{report.bytes.file:,} bytes; output error {said['error_before']:.4f} -> {said['error']:.4f}; "
                f"{said['codes_changed']:.0%} of the codes changed; {said['layers']} layers, not {said['skipped']}; "
                f"{report.seconds['reconstruct']:.0f} s of {sum(report.seconds.values()):.0f} s\n",
                flush=True,
            )


if __name__ == "__main__":
    main()
