"""Checkpoints of SqueezeLLM: :func:`from_squeezellm`.

Kim et al., "SqueezeLLM: Dense-and-Sparse Quantization" (ICML 2024). A linear layer is
``lookup_table`` ``(outputs, 2^bits)`` float32 and ``qweight`` ``(inputs * bits / 32, outputs)`` int32: each column is a
stream of codes, lowest bits first.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from lloydmax.errors import CheckpointError
from lloydmax.importing.checkpoints import Source, checked, filled

_SPARSE = ("rows", "cols", "vals", "full_rows", "full_row_indices", "startrows")
_PARTS = ("qweight", "lookup_table", *_SPARSE)


def from_squeezellm(source: Source, model: nn.Module) -> nn.Module:
    """The original architecture with the tables and codes of a SqueezeLLM checkpoint; nothing is clustered anew.

    Args:
        source: the file (``.pt``) that its ``pack.py`` wrote, a folder that has one, or the state dict.
        model: the uncompressed architecture, with any values or on the meta device; float32, or a dtype that holds the
            tables exactly. Changed in place; as it was where that fails.

    Returns:
        The model, out of its wrapper, in evaluation mode.

    Raises:
        CheckpointError: not such a checkpoint, damaged, of another model, or one with outliers in sparse matrices,
            which no codebook holds. ModelError: the model is not a network, or a script.
    """
    return filled(source, model, _PARTS, _tables, "SqueezeLLM")


def _tables(layer: str, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    sparse = sum(tensors[part].numel() for part in ("vals", "full_rows") if part in tensors)
    if sparse:
        raise CheckpointError(
            f"{layer} adds {sparse:,} outliers in a sparse matrix to its table, which no codebook holds: pack it "
            "without --include_sparse"
        )
    table = checked(layer, tensors, "lookup_table", None, 2)
    words = checked(layer, tensors, "qweight", torch.int32, 2)
    bits = table.shape[1].bit_length() - 1
    if table.shape[1] != 1 << bits or not 1 <= bits <= 8 or words.shape[1] != len(table) or words.shape[0] % bits:
        raise CheckpointError(
            f"{layer}: a table of {tuple(table.shape)} and codes of {tuple(words.shape)} do not belong together"
        )
    stream = np.ascontiguousarray(words.cpu().numpy().T).astype("<i4", copy=False).view(np.uint8)
    each = np.unpackbits(stream, axis=1, bitorder="little").reshape(len(table), -1, bits)
    codes = np.packbits(each, axis=2, bitorder="little")[..., 0]
    return table, torch.from_numpy(codes)
