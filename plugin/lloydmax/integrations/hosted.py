"""Models that belong to a host, told to it when they have their codebooks."""

from __future__ import annotations

import sys

from torch import nn

from lloydmax.hooks.hookspecs import hookimpl


@hookimpl
def lloydmax_finished(model: nn.Module) -> None:
    """A model of transformers, or one with such models inside, is saved by ``save_pretrained`` with its codebooks."""
    kind = getattr(sys.modules.get("transformers.modeling_utils"), "PreTrainedModel", None)
    if kind is not None and any(isinstance(module, kind) for module in model.modules()):
        from lloydmax.integrations.transformers.config import LloydmaxConfig
        from lloydmax.integrations.transformers.model import adopt
        from lloydmax.integrations.transformers.quantizer import LloydmaxQuantizer

        adopt(model, LloydmaxQuantizer(LloydmaxConfig()))
