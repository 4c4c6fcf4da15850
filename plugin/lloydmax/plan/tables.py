"""Tables, such as positions that are added: no input is multiplied by them, so that they have no output channels."""

from __future__ import annotations

import math
from typing import Any

from pydantic import BaseModel

from lloydmax.network.layers import Layer
from lloydmax.recipe.sections import Rule


def for_table(options: BaseModel, layer: Layer, leaf: str, rule: Rule) -> BaseModel:
    """The options of a quantizer for a parameter that a rule for many means: a table of no known layout gets one
    codebook, of blocks only where these divide it. What a rule has by its name is as the rule says.

    Args:
        options: that the rule has.
        layer: that owns the parameter.
        leaf: name of the parameter in it.
        rule: that means it.
    """
    if layer.outputs(leaf) is not None or layer.name in rule.selectors or rule.parameter == leaf:
        return options
    changed: dict[str, Any] = {"granularity": "tensor"} if getattr(options, "granularity", "tensor") != "tensor" else {}
    block = getattr(options, "block", 1)
    if block > 1 and math.prod(layer.weights()[leaf].shape[1:]) % block:
        changed["block"] = 1
    return options.model_copy(update=changed) if changed else options
