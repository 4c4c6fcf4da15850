"""Exported graphs and INC's static quantization (PT2E): what it needs before and after codebooks."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from lloydmax.errors import IntegrationError, RecoveryError
from lloydmax.integrations.given import refuse_unchangeable
from lloydmax.network import folding
from lloydmax.network.layers import layers_of
from lloydmax.student.attachment import codebooks


def fold_batch_norms(model: nn.Module) -> nn.Module:
    """A copy in which every batch norm that alone follows a layer is part of it, and ``nn.Identity`` in its place.

    PT2E folds them itself, but only into plain weights: a model with codebooks and batch norms cannot be prepared.
    Fold first, then quantize. Unlike ``torch.fx``'s own, it keeps the modules and so the names of layers. See
    :func:`lloydmax.network.folding.fold_batch_norms`; tied layers get weights of their own here.

    Args:
        model: not changed; the copy is in evaluation mode.

    Raises:
        IntegrationError: the forward cannot be traced, or the model already holds codebooks.
    """
    if codebooks(model):
        raise IntegrationError("the model already holds codebooks: fold its batch norms before quantize")
    copied = copy.deepcopy(model).eval()
    try:
        folding.fold_batch_norms(copied, untie=True)
    except RecoveryError as error:
        raise IntegrationError(
            f"{type(model).__name__}.forward cannot be traced ({error.__cause__}): fold its batch norms by "
            "torch.nn.utils.fusion.fuse_conv_bn_eval"
        ) from error
    for parent in list(copied.modules()):
        for name, child in parent._modules.items():
            if isinstance(child, folding.Folded):
                parent._modules[name] = nn.Identity().eval()
    return copied


def except_codebooks(config: Any, model: nn.Module) -> Any:
    """Tell a ``StaticQuantConfig`` to leave the layers with codebooks in float, or it quantizes them a second time.

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
            "INC does not find all layers of a traced GraphModule by name, and would quantize their codebooks a "
            "second time: use the original model, and fold_batch_norms to fold its batch norms"
        )
    for layer in layers:
        config.set_local(layer, type(config)(w_dtype="fp32", act_dtype="fp32"))
    return config


def refuse_graphs(model: Any) -> None:
    """Refuse anything but a model whose layers can be changed."""
    if not isinstance(model, nn.Module):
        raise IntegrationError(f"CodebookConfig needs a torch.nn.Module, not a {type(model).__name__}")
    refuse_unchangeable(model, "Intel Neural Compressor")
    exported = isinstance(model, torch.fx.GraphModule) and not any(la.numbered for la in layers_of(model))
    if exported or getattr(model, "_exported", False):
        raise IntegrationError(
            "the model is an exported graph, which has no layers left to hold codebooks: call quantize with "
            "CodebookConfig on the original model first, then export it"
        )
