"""Models of torchao's prototype codebooks: :func:`from_torchao`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lloydmax.codebook.codebook import Codebook
from lloydmax.errors import IntegrationError
from lloydmax.importing.tables import codebook_of
from lloydmax.network.copying import deep_copy
from lloydmax.network.private import bare, refuse_scripts
from lloydmax.runtime.modes import own_modes
from lloydmax.student.attachment import attach_all, finish

_HOME = "torchao.prototype.quantization.codebook"
"""Where torchao keeps its codebook tensors; it is not imported here."""


def from_torchao(model: nn.Module) -> nn.Module:
    """A model whose weights are codebook tensors of torchao's prototypes, with codebooks; nothing is clustered anew.

    ``codebook_coreml`` and the reference of ``codebook_groupwise`` keep their tables (by groups of rows or of columns)
    and codes as they are; in ``codebook``, whose rows have scales, each row gets the scaled entries. Other tensors of
    torchao stay. Outputs are the same, bit for bit, but for the order of sums.

    Args:
        model: from ``torchao.quantization.quantize_``; not changed.

    Returns:
        A copy, in evaluation mode.

    Raises:
        IntegrationError: no codebook tensors, packed ones, or tables that change along several axes. ModelError: not a
            network, or a script.
    """
    refuse_scripts(model)
    with own_modes(), torch.no_grad():
        found: dict[str, Codebook] = {}
        dense: dict[int, Any] = {}
        for name, weight in model.named_parameters(remove_duplicate=False):
            if type(weight).__module__.startswith(_HOME):
                found[name] = _codebook(name, weight)
                dense[id(weight)] = dense.get(id(weight), nn.Parameter(found[name].dequantize(), requires_grad=False))
        if not found:
            raise IntegrationError(
                "the model holds no codebook tensor of torchao (torchao.prototype.quantization.codebook and "
                "codebook_coreml): give the model after quantize_"
            )
        made = bare(deep_copy(model, dense))
        attach_all(made, {name: codebook for name, codebook in found.items() if _first(made, name, found)})
        return finish(made).eval()


def _first(model: nn.Module, name: str, names: dict[str, Codebook]) -> bool:
    """Whether no earlier name stands for the same parameter: a tied one is attached once."""
    own = model.get_parameter(name)
    return next(one for one in names if model.get_parameter(one) is own) == name


def _codebook(name: str, weight: Any) -> Codebook:
    if not hasattr(weight, "codebook") or not hasattr(weight, "codes"):
        raise IntegrationError(
            f"{name}: {type(weight).__name__} keeps its codes packed for a kernel, which cannot be read back: quantize "
            "with use_qdq_reference=True, or by lloydmax.compress"
        )
    codes = weight.codes.get_plain() if hasattr(weight.codes, "get_plain") else weight.codes
    values: Tensor = weight.dequantize()
    if weight.codebook.dim() == values.dim() + 2:
        return codebook_of(name, values, weight.codebook, codes=codes)
    entries, *size = weight.codebook.shape
    if any(side > 1 for side in size[:-1]) or weight.scales.shape[-2] > 1:
        raise IntegrationError(
            f"{name}: blocks of {tuple(size)} weights with {weight.scales.shape[-2]} scales a row: a block of lloydmax "
            "lies in one row, which has one scale; compress the original by lloydmax.compress"
        )
    table = weight.codebook.reshape(*[1] * values.dim(), entries, size[-1])
    return codebook_of(name, values, table, scale=weight.scales.flatten(1), codes=codes, along=values.dim() - 1)
