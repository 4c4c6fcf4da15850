"""Plans with a codebook for every output channel, where that pays: channels of one layer may differ much in scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lloydmax.fitting.price import Layer, allocation, at_price, cheaper
from lloydmax.fitting.sizing import Family
from lloydmax.hooks import registry
from lloydmax.plan.plan import Plan, PlannedParameter

_SHARE = 0.2
"""Of the bits of a parameter that its codebooks may take."""
_MOST_CHANNELS = 1024
"""For which free centroids are fitted: each takes about a millisecond."""


@dataclass(frozen=True)
class Form:
    """What the codebook of one channel is like.

    Attributes:
        name: for people.
        quantizer: registered name.
        counts: of centroids that it may have, ascending.
        options: of the quantizer for so many.
        spared: bits a weight that entropy coding spares, nearly.
        even: the file keeps scale and zero point.
    """

    name: str
    quantizer: str
    counts: Sequence[int]
    options: Callable[[int], dict[str, Any]]
    spared: float
    even: bool = False

    def finest(self, p: PlannedParameter, bits: float, float_bytes: int) -> PlannedParameter | None:
        """The parameter with as many centroids as so many bits a weight pay for; ``None``: the codebooks would take too
        many of them, or there are bits for more centroids than there may be."""
        if len(p.shape) < 2:
            return None
        each = 8 * p.layout.outputs / p.weights
        tables = {k: each * (8 if self.even else float_bytes * k) for k in self.counts}
        paid = [k for k in tables if math.log2(k) - self.spared + tables[k] <= bits]
        if not paid or paid[-1] == max(tables) or tables[paid[-1]] > _SHARE * bits:
            return None
        return self.with_centroids(p, paid[-1])

    def with_centroids(self, p: PlannedParameter, k: int) -> PlannedParameter:
        """The parameter with so many centroids a channel."""
        zeros = getattr(p.options, "zeros", None)
        options = registry.find("quantizer", self.quantizer).options.model_validate(
            {"granularity": "channel", "zeros": zeros, **self.options(k)}
        )
        layout = replace(p.layout, granularity="channel", centroids=k)
        return replace(p, layout=layout, quantizer=self.quantizer, options=options, even=self.even)

    def finer(self, p: PlannedParameter, bits: float) -> PlannedParameter:
        """A parameter of this form, or with a price, with so many bits a weight more, nearly."""
        if p.granularity == "tensor":
            return cheaper(p, bits)
        return self.with_centroids(p, max(k for k in self.counts if k <= max(p.centroids * 2**bits, p.centroids)))


EVEN = Form("an even grid a channel", "uniform", range(3, 256, 2), lambda k: {"levels": k}, 0.5, even=True)
FREE = Form("k-means a channel", "kmeans", range(2, 257), lambda k: {"centroids": k, "unbiased": True}, 0.2)


def by_channel(form: Form, plan: Plan, layers: Mapping[str, Layer]) -> Family | None:
    """Plans in which parameters have a codebook for each channel where that pays, and a price of a bit elsewhere; every
    parameter takes the bits that it would at one price of a bit.

    Args:
        form: of the codebooks.
        plan: of a recipe with ``bits``.
        layers: its parameters.

    Returns:
        ``None`` where they pay nowhere, or would take too long.
    """
    size = plan.recipe.storage.float_bytes

    def at(bits: float) -> Plan:
        found = allocation(layers, bits)
        parameters = {
            name: form.finest(p, found[name][1], size) or at_price(p, found[name][0])
            for name, p in plan.parameters.items()
        }
        return replace(plan, parameters=parameters)

    room = 8.0 * plan.predicted_bytes
    shaped = [p for p in at(room).parameters.values() if p.granularity == "channel"]
    if not shaped or (not form.even and sum(p.layout.outputs for p in shaped) > _MOST_CHANNELS):
        return None
    return Family(form.name, at, form.finer, priced=False)
