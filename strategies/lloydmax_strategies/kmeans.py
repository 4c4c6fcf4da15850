"""k-means codebooks: the quantizer ``kmeans``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pydantic
import torch
from lloydmax import Codebook, FitError, hookimpl
from lloydmax.extend import Granularity, Layout, code_dtype
from torch import Tensor

from lloydmax_strategies.clustering.gain import unbiased
from lloydmax_strategies.clustering.histogram import Histogram
from lloydmax_strategies.clustering.priced import PricedPoints, fit_priced
from lloydmax_strategies.clustering.rows import fit_rows
from lloydmax_strategies.clustering.vectors import fit_blocks
from lloydmax_strategies.clustering.zeros import with_zeros

_SMALL = 1 << 16  # up to so many weights are sorted, and the optimum is found on their exact values


class KMeans:
    """Centroids with the least squared error, and the nearest centroid of every weight (Lloyd 1982, Max 1960)."""

    class Options(pydantic.BaseModel):
        """Options of the quantizer `kmeans`."""

        model_config = pydantic.ConfigDict(extra="forbid")

        centroids: int = pydantic.Field(16, ge=1, le=65536, description="centroids of one codebook")

        granularity: Granularity = pydantic.Field(
            "tensor", description="what shares a codebook: tensor, channel or group:N"
        )

        block: int = pydantic.Field(
            1, ge=1, le=4096, description="weights of an output channel that share one code: 9 is a 3x3 kernel"
        )

        price: float = pydantic.Field(
            0.0,
            ge=0,
            description="of one bit of entropy-coded codes, in squared units of the weight: the fit minimizes squared "
            "error + price x bits, with at most so many centroids; 0: no price. The recipe's bits choose it",
        )

        multiples: list[pydantic.PositiveFloat] | None = pydantic.Field(
            None,
            description="with a price, and granularity channel or group:N: all codebooks are one, times these numbers; "
            "where a gate of a recurrent layer matters more than others, the recipe's bits choose them",
        )

        unbiased: bool = pydantic.Field(
            False,
            description="divide the centroids by what the means of their members make a weight smaller, so that errors "
            "average out in the outputs; always done where bits have a price",
        )

        zeros: Literal["keep", "free"] | None = pydantic.Field(
            None,
            description="`keep`: weights that are exactly 0 (of blocks, those that are 0 as a whole) stay 0, in "
            "training, too: one centroid is 0; `free`: they are weights like all others; default, in a recipe: `keep` "
            "where at least 20 % of a parameter are 0, and for rows of `padding_idx`",
        )

        @pydantic.model_validator(mode="after")
        def _fits(self) -> KMeans.Options:
            if self.price and ((self.granularity != "tensor" and self.multiples is None) or self.block > 1):
                raise ValueError("a price needs granularity 'tensor' and block 1")
            if self.multiples is not None and self.granularity == "tensor":
                raise ValueError("'multiples' are for granularity channel or group:N")
            return self

    def __init__(self, options: Options) -> None:
        self.options = options

    def fit(self, weight: Tensor, *, importance: Tensor | None = None, axis: int = 0) -> Codebook:
        """Fit the codebook of one weight.

        Args:
            weight: finite floating-point values, any shape and device, not empty.
            importance: optional non-negative weight of each squared error, same shape.
            axis: axis of the output channels, for the granularities ``channel`` and ``group:N``.

        Returns:
            A codebook on the device of ``weight``; that of a scalar has granularity ``tensor``.

        Raises:
            FitError: the option ``block`` does not divide the weights of an output channel.
        """
        return self._finished(self._means(weight, importance, axis), weight, importance)

    def _finished(self, found: Codebook, weight: Tensor, importance: Tensor | None) -> Codebook:
        if self.options.zeros == "keep" and (self.options.centroids > 1 or not weight.any()):
            found = with_zeros(found, weight, importance)
        return unbiased(found, weight) if self.options.unbiased or self.options.price else found

    def _means(self, weight: Tensor, importance: Tensor | None, axis: int) -> Codebook:
        k, granularity = self.options.centroids, self.options.granularity
        if weight.dim() == 0:
            granularity = "tensor"
        if self.options.price:
            return Rate(self, weight, axis).means(self.options.price)
        weight, layout = weight.detach(), Layout(tuple(weight.shape), k, granularity, axis, self.options.block)
        if layout.block > 1:
            return fit_blocks(weight, importance, layout)
        if layout.channels is None and weight.numel() > _SMALL:
            return Histogram.of(weight, importance).fit(k)
        if layout.channels is None:
            rows = weight.reshape(1, -1)
            mass = None if importance is None else importance.detach().reshape(1, -1).cpu()
            centroids, codes = fit_rows(rows.cpu(), mass, k)
            centroids, codes = centroids[0], codes.view(weight.shape)
        else:
            centroids, codes = _fit_channels(weight, importance, layout)
        return Codebook(centroids.to(weight.device), codes.to(weight.device), granularity, axis)

    def fit_many(
        self, weight: Tensor, centroids: Sequence[int], *, importance: Tensor | None = None, axis: int = 0
    ) -> list[Codebook]:
        """What :meth:`fit` gives for several numbers of centroids; of a large weight, one histogram serves them all.

        Args:
            weight: see :meth:`fit`.
            centroids: in place of the option.
            importance: see :meth:`fit`.
            axis: see :meth:`fit`.
        """
        if self.options.granularity == "tensor" and self.options.block == 1 and weight.numel() > _SMALL:
            histogram = Histogram.of(weight.detach(), importance)
            return [self._finished(histogram.fit(k), weight, importance) for k in centroids]
        options = [self.options.model_copy(update={"centroids": k}) for k in centroids]
        return [type(self)(option).fit(weight, importance=importance, axis=axis) for option in options]

    def rate(self, weight: Tensor) -> Rate:
        """What prices lead to; one pass over the weight serves all of them.

        Args:
            weight: see :meth:`fit`.
        """
        return Rate(self, weight)


class Rate:
    """What prices of a bit lead to, for one weight.

    Args:
        quantizer: with the other options.
        weight, axis: see :meth:`KMeans.fit`.

    Raises:
        FitError: the option ``multiples`` does not have one for each codebook.
    """

    def __init__(self, quantizer: KMeans, weight: Tensor, axis: int = 0) -> None:
        options, self._weight = quantizer.options, weight.detach()
        self._quantizer, self._layout, self._multiples = quantizer, None, None
        self._scaled = self._weight
        if options.multiples is not None and weight.dim():
            self._layout = Layout(tuple(weight.shape), options.centroids, options.granularity, axis)
            self._multiples = torch.tensor(options.multiples, dtype=torch.float64, device=weight.device)
            if len(self._multiples) != self._layout.codebooks:
                raise FitError(f"{len(self._multiples)} 'multiples' for {self._layout.codebooks} codebooks")
            each = self._multiples[self._layout.owners(weight.device)]
            each = each.view([-1 if a == axis else 1 for a in range(weight.dim())])
            self._scaled = (self._weight.double() / each).to(torch.float32)
        self._points = PricedPoints(Histogram.of(self._scaled).points, options.centroids)

    def __call__(self, price: float) -> tuple[float, float]:
        """Bits a weight of entropy-coded codes and their codebook, and the gain, 1 less the error's share of the mean
        square before the centroids are divided by the gain; nearly. The price is more than 0."""
        return self._points.rate(price)

    def fit(self, price: float) -> Codebook:
        """What :meth:`KMeans.fit` gives at this price."""
        options = self._quantizer.options.model_copy(update={"price": price})
        return KMeans(options)._finished(self.means(price), self._weight, None)

    def means(self, price: float) -> Codebook:
        """The same before its centroids are divided by the gain."""
        found = fit_priced(self._scaled, self._points, price)
        if self._layout is None or self._multiples is None:
            return found
        centroids = (self._multiples[:, None] * found.centroids.double()).to(self._weight.dtype)
        price *= float(self._multiples.square().mean())
        return Codebook(centroids, found.codes, self._layout.granularity, self._layout.axis, price=price)


def _fit_channels(weight: Tensor, importance: Tensor | None, layout: Layout) -> tuple[Tensor, Tensor]:
    """Centroids ``(codebooks, k)`` and codes in the shape of the weight, both on the CPU."""
    rows = [group.squeeze(-1).cpu() for group in layout.groups(weight)]
    mass: list[Tensor | None] = [None] * len(rows)
    if importance is not None:
        mass = [group.squeeze(-1).cpu() for group in layout.groups(importance.detach())]
    found = [fit_rows(row, weighing, layout.centroids) for row, weighing in zip(rows, mass, strict=True)]
    most = max(centroids.shape[1] for centroids, _ in found)
    centroids = torch.cat([torch.cat([c, c[:, -1:].expand(-1, most - c.shape[1])], dim=1) for c, _ in found])
    codes = torch.cat([c.to(code_dtype(most)).reshape(-1) for _, c in found])
    moved = weight.movedim(layout.axis, 0).shape
    return centroids, codes.view(moved).movedim(0, layout.axis).contiguous()


@hookimpl
def lloydmax_quantizers() -> dict[str, type]:
    """The quantizer of this module."""
    return {"kmeans": KMeans}
