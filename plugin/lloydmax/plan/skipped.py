"""What a recipe for the whole model leaves as it is, said of everything that is large enough to matter."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
import yaml
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lloydmax.codebook.layout import FLOAT_DTYPES
from lloydmax.network.buffers import LARGE, why_not
from lloydmax.network.layers import SMALLEST, Layer, is_bias
from lloydmax.plan.selection import decided
from lloydmax.recipe.recipe import Recipe
from lloydmax.runtime.text import percent


@dataclass(frozen=True)
class Skipped:
    """A weight that stays as it is, though the recipe is for the whole model.

    Attributes:
        name: full name.
        shape: of the weight.
        share: of the bytes of the model, 0 to 1.
        reason: why, in words.
        rule: what a recipe would have to say to compress it; ``None`` where nothing can.
        expected: it is a bias or a vector of a normalization layer, which nobody expects to be compressed.
    """

    name: str
    shape: tuple[int, ...]
    share: float
    reason: str
    rule: str | None
    expected: bool

    def __str__(self) -> str:
        """Name, shape, and share of the bytes."""
        return f"{self.name} ({'x'.join(map(str, self.shape)) or 'scalar'}, {percent(self.share, 1)})"

    @property
    def note(self) -> str:
        """One line."""
        return f"{self} stays as it is: {self.reason}"


def skipped(
    recipe: Recipe, layers: Sequence[Layer], taken: Collection[int], weights: int, original_bytes: int, beyond: bool
) -> list[Skipped]:
    """The weights of 1 % or more of the model that a recipe for the whole model does not speak of.

    A recipe is for the whole model if it has a rule for all weights, or ``bits``. What its rules leave out by
    ``except`` or ``quantizer: none`` is left out on purpose.

    Args:
        recipe: the recipe.
        layers: of the model.
        taken: identities of the weights that its rules select.
        weights: number of parameters of the model.
        original_bytes: of the model.
        beyond: see :func:`lloydmax.plan.selection.select`.
    """
    exceptions = [names for rule in recipe.quantize if (names := decided(list(layers), rule)) is not None]
    if not exceptions and recipe.bits is None:
        return []
    excepted = set().union(*exceptions)
    found: dict[int, Skipped] = {}
    for layer in layers:
        for leaf, held in layer.weights().items():
            large = not is_lazy(held) and held.numel() >= LARGE * weights and _holds_numbers(layer, leaf, held)
            if large and id(held) not in taken and layer.name not in excepted:
                found.setdefault(id(held), _said(layer, leaf, held, held.nbytes / original_bytes, beyond))
    return list(found.values())


def notes(found: Sequence[Skipped]) -> list[str]:
    """One line for each, and one for all biases and normalization layers."""
    expected = ", ".join(str(one) for one in found if one.expected)
    said = [one.note for one in found if not one.expected]
    return [*said, f"biases and weights of normalization layers stay as they are: {expected}"] if expected else said


def warning(recipe: Recipe, found: Sequence[Skipped]) -> str | None:
    """What to tell of those that nobody expects; ``None`` if there are none."""
    told = sorted((one for one in found if not one.expected), key=lambda one: -one.share)
    if not told:
        return None
    reasons: dict[str, list[str]] = {}
    for one in told:
        reasons.setdefault(one.reason, []).append(str(one))
    said = "; ".join(f"{reason}: {', '.join(names)}" for reason, names in reasons.items())
    rule = next((one.rule for one in told if one.rule is not None), None)
    advice = "" if rule is None else f". A rule such as {rule} compresses one; quantizer: none says that it stays"
    return f"{recipe.at('quantize')}: large weights stay as they are; {said}{advice}"


def _holds_numbers(layer: Layer, leaf: str, held: Tensor) -> bool:
    """Whether this may be a weight: any parameter, and a buffer of floats, or of whole numbers along several axes, that
    is not the statistic of a norm."""
    numbers = held.is_floating_point() or (held.dim() > 1 and held.dtype != torch.bool)
    return leaf in layer.module._parameters or (numbers and not layer.norm)


def _said(layer: Layer, leaf: str, held: Tensor, share: float, beyond: bool) -> Skipped:
    name = f"{layer.name}.{leaf}".lstrip(".")
    possible = held.dtype in FLOAT_DTYPES and bool(torch.isfinite(held).all())
    nameable = possible and (beyond or isinstance(layer.module, nn.Embedding))
    expected = held.dim() < 2 if layer.norm else is_bias(leaf)
    rule = f"{{layers: '{layer.name or '*'}', parameter: {_quoted(leaf)}, centroids: 256}}" if nameable else None
    return Skipped(name, tuple(held.shape), share, _reason(layer, leaf, held, beyond), rule, expected and possible)


def _quoted(leaf: str) -> str:
    """The name as YAML reads it as text: numbers, of a ParameterList, in quotes."""
    return leaf if leaf.isidentifier() and isinstance(yaml.safe_load(leaf), str) else f"'{leaf}'"


def _reason(layer: Layer, leaf: str, held: Tensor, beyond: bool) -> str:
    kind = layer.types[0]
    in_buffer = leaf in layer.module._buffers and not isinstance(held, nn.Parameter)
    if reason := why_not(held, mask=in_buffer):
        return reason
    if in_buffer:
        what = "which forward writes" if held.dim() > 1 else "and no matrix"
        return f"it is a buffer, {what}, so that a rule has to name it"
    if layer.norm:
        return f"it belongs to a normalization layer ({kind})"
    if is_bias(leaf):
        return "it is a bias"
    if layer.routes and beyond:
        return "it belongs to a router, which a rule has to name"
    if isinstance(layer.module, (nn.Embedding, nn.EmbeddingBag)) and not (beyond and layer.meant(leaf)):
        return "it is an embedding, which a rule has to name"
    if isinstance(layer.module, (nn.RNNBase, nn.RNNCellBase)):
        return f"it belongs to a recurrent layer ({kind}), which a rule has to name"
    if layer.meant(leaf):
        return "no rule selects it" if beyond or layer.numbered else f"{kind} cannot run so: only standard layers can"
    return f"its layout is not known (a parameter of {kind}), and it is no table of {SMALLEST} values or more"
