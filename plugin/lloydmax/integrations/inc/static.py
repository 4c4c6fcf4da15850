"""INC's static quantization (PT2E) of the layers without codebooks."""

from __future__ import annotations

from typing import Any

from torch import nn

from lloydmax.errors import IntegrationError
from lloydmax.student import codebooks


def except_codebooks(config: Any, model: nn.Module) -> Any:
    """Tell a ``StaticQuantConfig`` to leave the layers with codebooks in float, or it quantizes them once more.

    Args:
        config: INC's ``StaticQuantConfig`` for the exported ``model``; changed in place and returned.
        model: the model with codebooks, before its export.

    Raises:
        IntegrationError: the model holds no codebooks.
    """
    layers = dict.fromkeys(name.rpartition(".")[0] for name in codebooks(model))
    if not layers:
        raise IntegrationError("the model holds no codebooks: quantize it with CodebookConfig first, then export it")
    for layer in layers:
        config.set_local(layer, type(config)(w_dtype="fp32", act_dtype="fp32"))
    return config
