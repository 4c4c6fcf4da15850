"""Exported graphs and INC's static quantization (PT2E): what it needs before and after codebooks."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.fusion import fuse_conv_bn_weights

from lloydmax.errors import IntegrationError
from lloydmax.network.layers import layers_of
from lloydmax.student.codebooks import codebooks


def fold_batch_norms(model: nn.Module) -> nn.Module:
    """A copy in which every batch norm that follows one convolution is part of it, and ``nn.Identity`` in its place.

    PT2E folds them itself, but only into plain weights: a model with codebooks and batch norms cannot be prepared.
    Fold first, then quantize. Unlike ``torch.fx``'s own, it keeps the modules and so the names of layers.

    Args:
        model: not changed; the copy is in evaluation mode.

    Raises:
        IntegrationError: the forward cannot be traced, or the model already holds codebooks.
    """
    if codebooks(model):
        raise IntegrationError("the model already holds codebooks: fold its batch norms before quantize")
    folded = copy.deepcopy(model).eval()
    try:
        graph = _Layers().trace(folded)
    except Exception as error:
        raise IntegrationError(
            f"{type(model).__name__}.forward cannot be traced ({error}): fold its batch norms by "
            "torch.nn.utils.fusion.fuse_conv_bn_eval"
        ) from error
    modules = dict(folded.named_modules())
    calls = [str(node.target) for node in graph.nodes if node.op == "call_module"]
    for node in list(graph.nodes):
        before = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        conv, norm = modules[str(before.target)], modules[str(node.target)]
        once = calls.count(str(before.target)) == calls.count(str(node.target)) == 1
        if once and isinstance(conv, _ConvNd) and isinstance(norm, _BatchNorm) and norm.running_mean is not None:
            fused = _fused(conv, norm)
            if fused is not None:
                folded.set_submodule(str(before.target), fused)
                folded.set_submodule(str(node.target), nn.Identity())
    return folded


class _Layers(fx.Tracer):
    """Traces calls of convolutions and batch norms whole, subclasses included."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (_ConvNd, _BatchNorm)) or super().is_leaf_module(m, module_qualified_name)


@torch.no_grad()
def _fused(conv: _ConvNd, norm: _BatchNorm) -> _ConvNd | None:
    """The convolution with the norm in it; ``None`` for a subclass whose forward does more than to convolve."""
    fused = copy.deepcopy(conv)
    fused.weight, fused.bias = fuse_conv_bn_weights(
        conv.weight,
        conv.bias,
        norm.running_mean,  # type: ignore[arg-type]
        norm.running_var,  # type: ignore[arg-type]
        norm.eps,
        norm.weight,
        norm.bias,
        transpose=isinstance(conv, _ConvTransposeNd),
    )
    if type(conv).__module__ != nn.Conv2d.__module__:
        sizes = [2 * d * k + 8 for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        x = torch.randn(2, conv.in_channels, *sizes, generator=torch.Generator().manual_seed(0)).to(conv.weight)
        if not torch.allclose(norm(conv(x)), fused(x), rtol=1e-3, atol=1e-4):
            return None
    return fused


def except_codebooks(config: Any, model: nn.Module) -> Any:
    """Tell a ``StaticQuantConfig`` to leave the layers with codebooks in float, or it quantizes them once more.

    Args:
        config: INC's ``StaticQuantConfig`` for the exported ``model``; changed in place and returned.
        model: the model with codebooks, before its export.

    Raises:
        IntegrationError: the model holds no codebooks, or is a traced graph, in which INC does not find all names.
    """
    layers = dict.fromkeys(name.rpartition(".")[0] for name in codebooks(model))
    if not layers:
        raise IntegrationError("the model holds no codebooks: quantize it with CodebookConfig first, then export it")
    if isinstance(model, torch.fx.GraphModule):
        raise IntegrationError(
            "INC does not find all layers of a traced GraphModule by name, and would quantize their codebooks once "
            "more: use the original model, and fold_batch_norms to fold its batch norms"
        )
    for layer in layers:
        config.set_local(layer, type(config)(w_dtype="fp32", act_dtype="fp32"))
    return config


def refuse_graphs(model: Any) -> None:
    """Raise an error for anything but a model with layers."""
    if not isinstance(model, nn.Module):
        raise IntegrationError(f"CodebookConfig needs a torch.nn.Module, not a {type(model).__name__}")
    exported = isinstance(model, torch.fx.GraphModule) and not any(la.numbered for la in layers_of(model))
    if exported or getattr(model, "_exported", False):
        raise IntegrationError(
            "the model is an exported graph, which has no layers left to hold codebooks: call quantize with "
            "CodebookConfig on the original model first, then export it"
        )
