"""Methods by their own packages: GGUF's k- and i-quants by ggml, HQQ by hqq, AutoRound by auto-round.

Each is left out where its package is missing: ``pip install gguf pywhispercpp hqq auto-round`` (pywhispercpp brings the
ggml library, whose ``ggml_quantize_chunk`` is what llama.cpp quantizes with).
"""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from language.uniform import Rounded, size


def missing(*packages: str) -> str | None:
    """Which of these is not installed."""
    return next((one for one in packages if importlib.util.find_spec(one) is None), None)


def gguf(rows: Tensor, kind: str, importance: Tensor | None) -> Rounded:
    """One of ggml's types, with an importance of each column; where it needs rows of another length, what llama.cpp
    takes instead."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

    known = GGMLQuantizationType[kind]
    block, taken = GGML_QUANT_SIZES[known]
    if rows.shape[1] % block:
        return gguf(rows, _INSTEAD[kind], importance)
    columns = rows.shape[1]
    given = np.ascontiguousarray(rows.numpy())
    heavy = np.ones(columns, np.float32) if importance is None else np.ascontiguousarray(importance.float().numpy())
    made = np.zeros((len(rows), columns // block * taken), np.uint8)
    quantize = _ggml().ggml_quantize_chunk
    quantize.restype = ctypes.c_size_t
    quantize.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    quantize(int(known), given.ctypes.data, made.ctypes.data, 0, len(rows), columns, heavy.ctypes.data)
    return torch.from_numpy(quants.dequantize(made, known)), 8 * taken / block


_INSTEAD = {
    **dict.fromkeys(("Q2_K", "Q3_K", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"), "IQ4_NL"),
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}


def _ggml() -> ctypes.CDLL:
    spec = importlib.util.find_spec("_pywhispercpp")
    if spec is None or spec.origin is None:
        raise SystemExit("ggml is missing: pip install pywhispercpp")
    path = next(Path(spec.origin).parent.glob("libggml-base*.so*"))
    return ctypes.CDLL(str(path))


def hqq(rows: Tensor, bits: int, group: int) -> Rounded:
    """Badri & Shaji (2023), half-quadratic quantization, without data."""
    from hqq.core.quantize import Quantizer

    made, meta = Quantizer.quantize(
        rows.clone(), nbits=bits, group_size=group, axis=1, device="cpu", compute_dtype=torch.float32, optimize=True
    )
    found = Quantizer.dequantize(made, meta).float().reshape(rows.shape)
    return found, bits + 32 / group


def autoround(model: nn.Module, data: Tensor, bits: int, group: int, tokenizer: Any) -> tuple[nn.Module, float]:
    """Cheng et al. (2024): signs of gradients choose the rounding, 200 steps. Works on the model in place; the linear
    layers of its blocks only."""
    from auto_round import AutoRound

    length = data.shape[1]
    given = [{"input_ids": ids[None], "attention_mask": torch.ones_like(ids[None])} for ids in data]
    made = AutoRound(
        model, tokenizer, bits=bits, group_size=group, sym=False, iters=200, seqlen=length, nsamples=len(data),
        batch_size=8, dataset=given, device_map="cpu", amp=False,
    )  # fmt: skip
    found = made.quantize()
    return (found[0] if isinstance(found, tuple) else found), size(bits, group)
