"""What the native core costs: whole networks against coremltools, small layers, packing, products from codes.

    OMP_NUM_THREADS=1 python tests/benchmarks/native.py [networks] [fitting] [packing] [loading] [running]

Times are process CPU time on one thread. Networks have torchvision's shapes and weights drawn from Student's t with 5
degrees of freedom, as trained ones nearly are; ours is the whole of ``lloydmax.compress`` without data, theirs the
whole of ``PostTrainingPalettizer.compress``. ``LLOYDMAX_NATIVE=0`` measures the twins in Python.
"""

from __future__ import annotations

import copy
import itertools
import logging
import math
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lloydmax
import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from kmeans import fit, weights
from lloydmax import native
from lloydmax.format import packing
from lloydmax.native.library import PATHS, ready
from torch import nn

NETWORKS = ("mobilenet_v2", "resnet18", "resnet50")
SETTINGS = ((256, "tensor"), (16, "tensor"), (16, "channel"))


def least(work: Callable[[], Any], times: int = 3) -> float:
    found = math.inf
    for _ in range(times):
        start = time.process_time()
        work()
        found = min(found, time.process_time() - start)
    return found


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = getattr(torchvision.models, name)(weights=None).eval()
    generator = np.random.default_rng(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                drawn = generator.standard_t(5, parameter.shape).astype(np.float32)
                parameter.copy_(torch.from_numpy(drawn) * parameter.std())
    return model


def networks() -> None:
    sys.modules["tensorflow"] = None  # type: ignore[assignment]  # coremltools imports it for nothing here
    import triton  # noqa: F401
    from coremltools.optimize.torch.palettization import PostTrainingPalettizer, PostTrainingPalettizerConfig

    logging.disable(logging.CRITICAL)
    for name in NETWORKS:
        model = network(name)
        for k, granularity in SETTINGS:
            theirs: dict[str, Any] = {"n_bits": int(math.log2(k)), "granularity": "per_tensor"}
            if granularity == "channel":
                theirs |= {"granularity": "per_grouped_channel", "group_size": 1}
            config = PostTrainingPalettizerConfig.from_dict({"global_config": theirs})
            recipe = {"quantize": [{"layers": "all", "centroids": k, "granularity": granularity}]}
            own = least(lambda: lloydmax.compress(model, recipe, progress=False))  # noqa: B023
            other = least(lambda: PostTrainingPalettizer(copy.deepcopy(model), config).compress(), 1)  # noqa: B023
            print(f"{name} {k}/{granularity}: {own:.2f} s; coremltools {other:.2f} s = {other / own:.1f}x", flush=True)


def fitting() -> None:
    for rows, m, k in ((4096, 4096, 16), (1000, 320, 16), (4000, 9, 4), (512, 2304, 256)):
        weight = weights(rows, m)
        spent = least(lambda: fit(weight, k, "channel"))  # noqa: B023
        print(f"{rows} x {m}, {k}/channel: {spent:.2f} s, {spent / weight.numel() * 1e9:.1f} ns a weight", flush=True)
    for n, k in ((1000, 16), (60_000, 256), (1 << 22, 32), (1 << 24, 256)):
        weight = weights(1, n)[0]
        spent = least(lambda: fit(weight, k), 5)  # noqa: B023
        print(f"{n:,} weights, {k}/tensor: {spent * 1e3:.2f} ms, {spent / n * 1e9:.1f} ns a weight", flush=True)


def packed() -> None:
    drawn = np.random.default_rng(0).normal(size=1 << 23)
    for bits in (2, 4, 5, 8):
        most = (1 << bits) - 1
        codes = torch.from_numpy(np.clip(drawn * most / 6 + most / 2, 0, most).astype(np.uint8))
        stream, coded = packing.pack(codes, bits), packing.entropy_encode(codes, bits)
        works: dict[str, Callable[[], Any]] = {
            "pack": lambda: packing.pack(codes, bits),  # noqa: B023
            "unpack": lambda: packing.unpack(stream, bits, len(codes)),  # noqa: B023
            "encode": lambda: packing.entropy_encode(codes, bits),  # noqa: B023
            "decode": lambda: packing.entropy_decode(coded, bits, len(codes)),  # noqa: B023
        }
        speeds = (f"{name} {len(codes) / least(work, 2) / 1e6:,.0f}" for name, work in works.items())
        print(f"{bits} bits, million codes a second:", *speeds, flush=True)


def loading() -> None:
    """A network of 102 MB from its file, by coding; of the last, rows and columns differ, so that contexts pay."""
    plain = network("resnet50")
    varied, generator = copy.deepcopy(plain), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in varied.parameters():
            for axis in range(2 if parameter.dim() > 1 else 0):
                shape = [size if place == axis else 1 for place, size in enumerate(parameter.shape)]
                parameter.mul_((torch.randn(shape, generator=generator) / 2).exp())
    with tempfile.TemporaryDirectory() as folder:
        for model, codes in ((plain, "packed"), (plain, "entropy"), (plain, "arithmetic"), (varied, "arithmetic")):
            file = Path(folder) / "model.safetensors"
            recipe = {"quantize": [{"layers": "all", "centroids": 16}], "storage": {"codes": codes}}
            lloydmax.compress(model, recipe, progress=False).save(file)
            with torch.device("meta"):
                empty = torchvision.models.resnet50()
            spent = least(lambda: lloydmax.load(file, copy.deepcopy(empty)))  # noqa: B023
            print(f"{codes}: {file.stat().st_size:,} bytes, loaded in {spent:.2f} s", flush=True)


def running() -> None:
    library, best = ready(), ready().lm_path_taken()
    for path in range(best, 0, -1):
        library.lm_take_path(path)
        print(f"path {PATHS[path]}, ratios to float32", flush=True)
        _products()
        _convolutions()
    library.lm_take_path(best)


def _products() -> None:
    side = 4096
    for k, granularity in itertools.product((4, 16, 32, 256), ("tensor", "channel")):
        codes = torch.randint(0, k, (side, side), dtype=torch.uint8)
        tables = torch.randn(1 if granularity == "tensor" else side, k) * 0.02
        dense = tables.expand(side, -1).gather(1, codes.long())
        closed, shared = native.close_codes(codes, native.bits_of(tables)), side // len(tables)
        cells = []
        for batch in (1, 4, 32, 256):
            x = torch.randn(batch, side)
            plain = least(lambda: F.linear(x, dense), 5)  # noqa: B023
            wanted = F.linear(x.double(), dense.double())
            for fast in (False, True) if batch == 1 else (False,):
                found = native.linear_codes(x, closed, tables, side, shared, fast)
                spent = least(lambda: native.linear_codes(x, closed, tables, side, shared, fast), 5)  # noqa: B023
                off = float((found - wanted).norm() / wanted.norm())
                cells.append(f"{batch}{' fast' if fast else ''} {spent / plain:.2f} ({off:.0e} off)")
        print(f"  {side} x {side}, {k}/{granularity}, batch", ", ".join(cells), flush=True)


def _convolutions() -> None:
    for inner, outer, size, kernel in ((64, 64, 224, 3), (256, 256, 56, 3), (512, 512, 14, 3), (256, 64, 56, 1)):
        x, width, around = torch.randn(1, inner, size, size), inner * kernel * kernel, (kernel // 2,) * 2
        codes, tables = torch.randint(0, 16, (outer, width), dtype=torch.uint8), torch.randn(1, 16)
        dense, closed = tables[0][codes.long()].view(outer, inner, kernel, kernel), native.close_codes(codes, 4)
        square = ((kernel, kernel), (1, 1), around, (1, 1), 1)
        plain = least(lambda: F.conv2d(x, dense, padding=around), 7)  # noqa: B023
        spent = least(lambda: native.convolve_codes(x, closed, tables, outer, outer, None, *square), 7)  # noqa: B023
        print(f"  {kernel} x {kernel}, {inner} to {outer} channels, {size} x {size}: {spent / plain:.2f}", flush=True)


def main() -> None:
    warnings.simplefilter("ignore")
    flags = next(
        (line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "?"
    )
    print(f"{flags.split(':')[-1].strip()}, core: {native.path()}, torch {torch.__version__}")
    parts = {"networks": networks, "fitting": fitting, "packing": packed, "loading": loading, "running": running}
    for name, part in parts.items():
        if len(sys.argv) == 1 or name in sys.argv[1:]:
            part()


if __name__ == "__main__":
    main()
