"""Eager mode: which module a prepared layer with a codebook is converted to."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn

from lloydmax.errors import IntegrationError
from lloydmax.integrations.torch_ao.qconfig import CodebookFakeQuantize
from lloydmax.student.int8.fx.backend import codebook_layer_of
from lloydmax.student.int8.fx.host import get_default_static_quant_module_mappings, nni, nnq
from lloydmax.student.layers import LAYERS


def eager_mapping(base: dict[Any, Any] | None = None) -> dict[Any, Any]:
    """The ``mapping`` for ``torch.ao.quantization.convert``: layers with a codebook become codebook layers.

    Between int8 neighbours a codebook layer is ``Sequential(DeQuantize, codebook layer, [ReLU], Quantize)``.

    Args:
        base: what is extended; not changed. ``None``: the default static mapping.
    """
    mapping = dict(get_default_static_quant_module_mappings() if base is None else base)
    for float_type, target in list(mapping.items()):
        if hasattr(target, "from_float"):
            mapping[float_type] = _dispatching(target)
    for float_type in LAYERS:
        mapping.setdefault(float_type, _dispatching(None))
    return mapping


@functools.cache
def _dispatching(target: Any) -> type[Any]:
    def from_float(cls: type[Any], module: nn.Module, use_precomputed_fake_quant: bool = False) -> nn.Module:
        fake_quantize = _fake_quantize(module)
        if fake_quantize is not None:
            return _converted(module, fake_quantize)
        if target is None:
            return module
        if (
            isinstance(module, nni.modules.fused._FusedModule)
            and _fake_quantize(getattr(module, "0", None)) is not None
        ):
            raise IntegrationError(
                f"the {type(module).__name__} has a codebook QConfig inside, which its fusion has hidden: "
                "call apply_recipe, or set qconfig, after fuse_modules"
            )
        converted: nn.Module = target.from_float(module, use_precomputed_fake_quant=use_precomputed_fake_quant)
        return converted

    name = f"Codebook{'' if target is None else target.__name__}"
    return type(name, (), {"from_float": classmethod(from_float)})


def _fake_quantize(module: Any) -> CodebookFakeQuantize | None:
    found = getattr(module, "weight_fake_quant", None)
    if found is None and (qconfig := getattr(module, "qconfig", None)) is not None and qconfig.weight is not None:
        found = qconfig.weight()
    return found if isinstance(found, CodebookFakeQuantize) else None


def _converted(module: Any, fake_quantize: CodebookFakeQuantize) -> nn.Module:
    trained = fake_quantize.held is not None
    plain: Any = module.to_float() if hasattr(module, "to_float") else module
    relu = isinstance(plain, (nni.ConvReLU1d, nni.ConvReLU2d, nni.ConvReLU3d, nni.LinearReLU))
    layer: Any = plain[0] if isinstance(plain, nn.Sequential) else plain
    if not trained:
        fake_quantize.to(layer.weight.device).forward(layer.weight)
    parts: list[nn.Module] = [codebook_layer_of(layer, fake_quantize.codebook())]
    if relu:
        parts.append(nn.ReLU())
    observer: Any = getattr(module, "activation_post_process", None)
    if observer is not None and observer.dtype in (torch.quint8, torch.qint8):
        scale, zero_point = observer.calculate_qparams()
        parts = [nnq.DeQuantize(), *parts, nnq.Quantize(scale, zero_point, observer.dtype)]
    return parts[0] if len(parts) == 1 else nn.Sequential(*parts)
