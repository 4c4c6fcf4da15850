"""Checkpoints of Any-Precision LLM: :func:`from_any_precision`.

Park et al., "Any-Precision LLM: Low-Cost Deployment of Multiple, Different-Sized LLMs" (ICML 2024). A linear layer is
``qweight`` ``(parent bits, outputs, inputs / 32)`` int32, a bit plane of the codes each, the highest first, and a table
``lut<bits>`` ``(outputs, 2^bits)`` float16 for each number of bits, whose codes are the highest planes. The bytes of a
plane are transposed for a warp of 32 threads.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from lloydmax.errors import CheckpointError
from lloydmax.importing.checkpoints import Source, checked, filled

_MOST = 8
_WARP = 32
"""Threads of a warp; each has a word of four bytes."""
_PARTS = ("qweight", *(f"lut{bits}" for bits in range(1, _MOST + 1)))


def from_any_precision(source: Source, model: nn.Module, bits: int | None = None) -> nn.Module:
    """The original architecture with tables and codes of an Any-Precision LLM; nothing is clustered anew.

    Args:
        source: the folder that it wrote, its file, or the state dict.
        model: the uncompressed architecture, with any values or on the meta device; float16, or a dtype that holds the
            tables exactly. Changed in place; as it was where that fails.
        bits: of the codes, one of those that the checkpoint has tables for; ``None``: the most.

    Returns:
        The model, out of its wrapper, in evaluation mode.

    Raises:
        CheckpointError: not such a checkpoint, damaged, of another model, or without tables of so many bits.
            ModelError: the model is not a network, or a script.
    """

    def tables(layer: str, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        planes = checked(layer, tensors, "qweight", torch.int32, 3)
        held = sorted(int(part.removeprefix("lut")) for part in tensors if part != "qweight")
        wanted = (max(held) if held else 0) if bits is None else bits
        if wanted not in held or wanted > len(planes):
            raise CheckpointError(f"{layer} has tables of {', '.join(map(str, held)) or 'no'} bits, not of {wanted}")
        table = checked(layer, tensors, f"lut{wanted}", None, 2)
        if tuple(table.shape) != (planes.shape[1], 1 << wanted):
            raise CheckpointError(
                f"{layer}: a table of {tuple(table.shape)} and codes of {tuple(planes.shape)} do not belong together"
            )
        return table, _codes(planes[:wanted])

    return filled(source, model, _PARTS, tables, "Any-Precision LLM")


def _codes(planes: Tensor) -> Tensor:
    """Codes ``(outputs, inputs)`` of bit planes, the highest first."""
    words = planes.cpu().numpy().astype("<i4", copy=False)
    count = words.shape[-1]
    cuts = [*range(0, count, _WARP), count]
    codes = np.zeros((words.shape[1], 32 * count), np.uint8)
    for plane in words:
        rows = []
        for start, end in itertools.pairwise(cuts):
            each = np.ascontiguousarray(plane[:, start:end]).view(np.uint8).reshape(len(plane), end - start, 4)
            rows.append(each[:, :, ::-1].transpose(0, 2, 1).reshape(len(plane), -1))
        codes = codes << 1 | np.unpackbits(np.concatenate(rows, 1), axis=1)
    return torch.from_numpy(codes)
