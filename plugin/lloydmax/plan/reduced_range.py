"""Weights of 7 bits where the int8 kernels of a machine need them."""

from __future__ import annotations

from lloydmax.recipe.recipe import Recipe
from lloydmax.runtime import machine
from lloydmax.student.int8.weights import UNIFORM

_NOTE = f"{machine.OVERFLOWS}: weights whose bits are left open get 7; write bits: 8 to have them all the same"


def reduced(recipe: Recipe, in_int8: bool = False) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe as this machine's int8 kernels compute it rightly, and what is to be said of that.

    Rules that give neither ``bits`` nor ``levels`` get 7 bits, in writing, so that a file does not depend on the
    machine that reads it. Every other recipe stays the same object.

    Args:
        recipe: without choices.
        in_int8: layers run on int8 kernels though the recipe has no ``activations``.
    """
    if not (in_int8 or recipe.activations is not None) or machine.weight_bits() == 8:
        return recipe, ()
    data = recipe.data()
    open_ = [
        rule
        for rule in data["quantize"]
        if rule.get("quantizer") == UNIFORM and rule.get("bits") is None and rule.get("levels") is None
    ]
    for rule in open_:
        rule["bits"] = machine.weight_bits()
    return (recipe.changed(data), (_NOTE,)) if open_ else (recipe, ())
