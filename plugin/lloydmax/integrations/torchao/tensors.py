"""Codebooks as tensors of torchao's prototypes: the way back of :func:`lloydmax.from_torchao`."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from lloydmax.codebook.codebook import Codebook
from lloydmax.errors import IntegrationError
from lloydmax.network.copying import deep_copy
from lloydmax.network.given import network
from lloydmax.network.private import bare, refuse_scripts
from lloydmax.runtime.modes import own_modes
from lloydmax.student.attachment import codebooks
from lloydmax.student.dense import decompressed

_MOST = 20
"""Weights that are named."""


def to_torchao(model: nn.Module) -> nn.Module:
    """A model whose linear layers hold tensors of ``torchao.prototype.quantization.codebook_coreml`` in place of
    codebooks, with the same centroids and codes: it runs, and is saved by ``torch.save``, without lloydmax.

    torchao multiplies by such tensors in ``nn.Linear`` only. Other weights in codebooks become ordinary ones, as do
    codes of more than 8 bits or of several weights, and one warning names them.

    Args:
        model: with codebooks; not changed.

    Returns:
        A copy, in evaluation mode, with the same values.

    Raises:
        IntegrationError: torchao is not installed or lacks these tensors, or no codebook can become one. ModelError:
            not a network, or a script.
    """
    refuse_scripts(network(model))
    with own_modes(), torch.no_grad():
        held = codebooks(bare(deep_copy(model, {})))
        made = decompressed(bare(deep_copy(model, {}))).eval()
        known: dict[int, nn.Parameter] = {}
        left = []
        for name, codebook in held.items():
            parent, _, leaf = name.rpartition(".")
            owner = made.get_submodule(parent)
            dense = owner._parameters.get(leaf)
            tensor = _tensor(codebook) if type(owner) is nn.Linear and leaf == "weight" else None
            if tensor is None or dense is None:
                left.append(name)
                continue
            owner._parameters[leaf] = known.setdefault(id(dense), nn.Parameter(tensor, requires_grad=False))
    if not known:
        raise IntegrationError(
            "no codebook of this model can become a tensor of torchao: those of linear layers can, with codes of "
            "at most 8 bits for single weights"
        )
    if left:
        named = ", ".join(left[:_MOST]) + (" ..." if len(left) > _MOST else "")
        warnings.warn(
            f"{len(left)} weights in codebooks have no tensor in torchao and become ordinary: {named}", stacklevel=2
        )
    return made


def _tensor(codebook: Codebook) -> Tensor | None:
    """torchao's tensor with the same values; ``None`` where it has none."""
    try:
        from torchao.prototype.quantization.codebook_coreml import CodebookQuantizedTensor
    except ImportError as error:
        raise IntegrationError(
            f'torchao is not installed, or lacks codebook tensors ({error}); run: pip install "lloydmax[torchao]"'
        ) from error
    bits = max(1, codebook.bits)
    if codebook.block > 1 or len(codebook.shape) != 2 or bits > 8:
        return None
    table, (rows, columns) = codebook.centroids.reshape(-1, codebook.k), codebook.shape
    kind, _, size = codebook.granularity.partition(":")
    along = codebook.axis
    if kind == "tensor":
        block = [rows, columns]
    elif kind == "weights":
        block = [1, int(size)] if along == 0 else [int(size), 1]
    else:
        block = [int(size or 1), columns] if along == 0 else [rows, int(size or 1)]
    if rows % block[0] or columns % block[1]:
        return None
    last = table[:, -1:].expand(-1, 2**bits - codebook.k)
    parts = (rows // block[0], columns // block[1])
    tables = torch.cat([table, last], 1)
    tables = tables.view(*(parts if along == 0 else parts[::-1]), 2**bits, 1)
    tables = tables if along == 0 else tables.transpose(0, 1)
    codes = codebook.codes.to(torch.uint8)
    dtype = table.dtype
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return None
    made: Tensor = CodebookQuantizedTensor(
        codes.contiguous(), tables.contiguous(), getattr(torch, f"uint{bits}"), block, codebook.shape, dtype
    )
    return made if torch.equal(made.dequantize(), codebook.dequantize()) else None
