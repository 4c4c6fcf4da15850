"""Writes golden files, and beside each what it must decode to for ever.

    python tests/plugin/format/golden_files.py FOLDER WRITER [NAME ...]

A file is written once, by the oldest version that can, and not again: those whose case says 0.1 by commit c638b41, with
this script and ``golden_models.py`` run there. ``WRITER`` is what wrote it, for the record. Without names: those that
are not there yet.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from golden_models import CASES, Case
from lloydmax.checkpoint import contents, round_floats, save
from torch import Tensor, nn

GOLDEN = Path(__file__).parent / "golden"
CODES = {
    **{"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "complex64": "C64", "bool": "BOOL"},
    **{"float8_e5m2fnuz": "F8_E5M2FNUZ", "float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e4m3fn": "F8_E4M3"},
    **{"float8_e5m2": "F8_E5M2"},
    **{f"{kind}int{bits}": f"{kind or 'i'}{bits}".upper() for kind in ("", "u") for bits in (8, 16, 32, 64)},
}


def digests(model: nn.Module) -> dict[str, list[Any]]:
    """dtype, shape and digest of every tensor of a model, decoded, by name; as the stand-alone reader gives them."""
    values, tied = contents(model)
    dense = {name: value if isinstance(value, Tensor) else value.dequantize() for name, value in values.items()}
    dense |= {name: dense[own] for name, own in tied.items()}
    return {name: _digest(tensor.detach()) for name, tensor in sorted(dense.items())}


def _digest(tensor: Tensor) -> list[Any]:
    data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    code = CODES[str(tensor.dtype).removeprefix("torch.")]
    return [code, list(tensor.shape), hashlib.blake2b(data, digest_size=8).hexdigest()]


def write(case: Case, path: Path) -> dict[str, list[Any]]:
    """Write one file; what it must decode to."""
    model = case.compressed()
    if case.rules:
        round_floats(model, case.storage)
    save(model, path, case.recipe if case.rules else None, case.storage)
    return digests(model)


def expected(name: str) -> dict[str, list[Any]]:
    """What a golden file decodes to."""
    found: dict[str, list[Any]] = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))["tensors"]
    return found


if __name__ == "__main__":
    folder, writer, *names = sys.argv[1:]
    for name in names or [name for name in CASES if not (GOLDEN / f"{name}.json").exists()]:
        tensors = write(CASES[name], Path(folder) / f"{name}.safetensors")
        rows = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in tensors.items())
        text = f'{{"writer": {json.dumps(writer)}, "tensors": {{\n{rows}\n}}}}\n'
        (Path(folder) / f"{name}.json").write_text(text, encoding="utf-8")
