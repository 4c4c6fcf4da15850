"""FX graph mode: a backend configuration that knows codebook weights, and how their layers are converted."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from lloydmax.codebook.codebook import Codebook
from lloydmax.student.fake_quantize import CodebookWeightFakeQuantize
from lloydmax.student.int8.fx.host import BackendConfig, BackendPatternConfig, DTypeConfig, get_native_backend_config
from lloydmax.student.int8.fx.preparation import ExtendedPatternConfig
from lloydmax.student.int8.fx.scales import WeightScale
from lloydmax.student.layers import LAYERS, CodebookLayer, CodebookTensor

_CODES = CodebookWeightFakeQuantize.dtype
_DTYPES = [
    DTypeConfig(input_dtype=io, output_dtype=io, weight_dtype=_CODES, bias_dtype=torch.float)
    for io in (torch.quint8, torch.float)
]
_EMBEDDINGS = frozenset((nn.Embedding, nn.EmbeddingBag))
"""Their inputs are numbers of rows, which nobody observes."""


def backend_config(base: BackendConfig | None = None) -> BackendConfig:
    """A backend configuration in which every layer type may also have a codebook.

    Args:
        base: what is extended, e.g. ``get_x86_backend_config()``; not changed. ``None``: the native one, which
            ``prepare_fx`` and ``convert_fx`` use by default.

    Returns:
        A new configuration, for ``prepare_fx`` or ``prepare_qat_fx`` and again for ``convert_fx``.
    """
    extended = copy.deepcopy(base) if base is not None else get_native_backend_config()
    entries = extended.configs
    supported = _with_fused(entries)
    for entry in entries:
        reference: Any = entry.reference_quantized_module
        if entry.root_module in LAYERS and reference is not None:
            entry.set_reference_quantized_module(_dispatching(reference))
        if supported & set(_modules(entry)):
            known = _DTYPES if _EMBEDDINGS.isdisjoint(_modules(entry)) else _DTYPES[1:]
            extended.set_backend_pattern_config(ExtendedPatternConfig.of(entry, known))
    return extended


def codebook_layer_of(module: nn.Module, codebook: Codebook) -> CodebookLayer:
    """The codebook layer that replaces a float module, hooks and qconfig aside; the bias is not copied."""
    return LAYERS[type(module)](module, {"weight": CodebookTensor(codebook)})


def _with_fused(entries: list[BackendPatternConfig]) -> set[Any]:
    """The standard layers, and what they are fused to or trained as."""
    known: set[Any] = set(LAYERS)
    while True:
        found = {
            kind
            for entry in entries
            if known & set(_modules(entry))
            for kind in (entry.fused_module, entry.qat_module)
            if kind is not None
        }
        if found <= known:
            return known
        known |= found


def _modules(entry: BackendPatternConfig) -> Iterator[type[nn.Module]]:
    """The module types of a pattern; functional patterns have none of their own."""
    pattern = entry.pattern if entry.pattern is not None else entry._pattern_complex_format
    pending = [pattern]
    while pending:
        part = pending.pop()
        if isinstance(part, (tuple, list)):
            pending += part
        elif isinstance(part, type) and issubclass(part, nn.Module):
            yield part


@functools.cache
def _dispatching(reference: type[Any]) -> type[Any]:
    """The reference module's class with a ``from_float`` that gives codebook layers where there is a codebook."""

    def from_float(cls: type[Any], module: nn.Module, qparams: dict[str, Any]) -> nn.Module:
        scale = qparams.get("scale")
        if isinstance(scale, WeightScale) and qparams["dtype"] == _CODES:
            weight: Any = module.weight
            scale = scale.codebook(weight, qparams["zero_point"])
        if isinstance(scale, Codebook):
            return codebook_layer_of(module, scale)
        converted: nn.Module = reference.from_float(module, qparams)
        return converted

    return type(f"Codebook{reference.__name__}", (reference,), {"from_float": classmethod(from_float)})
