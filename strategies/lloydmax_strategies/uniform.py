"""Uniform grids: the quantizer ``uniform``, a codebook whose centroids are evenly spaced and include zero."""

from __future__ import annotations

from typing import Literal

import pydantic
import torch
from lloydmax import Codebook, hookimpl
from lloydmax.extend import Layout
from torch import Tensor

_COARSE = [round(1 - 0.05 * step, 2) for step in range(20)]
_FINE = [round(0.01 * step, 2) for step in range(-4, 5) if step]
"""Ratios of the range that are tried, and how far from the best of them then."""


class Uniform:
    """Centroids ``scale * (i - zero_point)``, as affine integer quantization has them (Jacob et al. 2018, eq. 1)."""

    even = True

    class Options(pydantic.BaseModel):
        """Options of the quantizer `uniform`."""

        model_config = pydantic.ConfigDict(extra="forbid")

        bits: int = pydantic.Field(default=8, ge=2, le=8, description="of one integer.")

        levels: int | None = pydantic.Field(
            default=None,
            ge=3,
            le=256,
            description="in place of those that `bits` give; an odd number where `symmetric`. With entropy-coded codes "
            "the size is not bound to whole bits.",
        )

        scheme: Literal["symmetric", "asymmetric"] = pydantic.Field(
            default="symmetric",
            description="`symmetric`: `2**bits - 1` levels around zero; `asymmetric`: `2**bits` levels from the least "
            "to the largest weight, zero among them.",
        )

        granularity: str = pydantic.Field(
            default="tensor",
            description="what shares a scale: `tensor`, `channel`, `group:N` (N output channels) or `weights:N` (each "
            "N weights of an output channel, as runtimes have int4 weights; in recovery these grids stay as they are).",
        )

        threshold: Literal["max", "mse"] = pydantic.Field(
            default="max",
            description="`max`: the range holds every weight; `mse`: it is narrowed to the least squared error.",
        )

        zeros: Literal["keep", "free"] | None = pydantic.Field(
            default=None,
            description="`keep`: weights that are exactly 0 stay 0 in training, too; `free`: they are weights like all "
            "others; default, in a recipe: `keep` where at least 20 % of a parameter are 0, and for rows of "
            "`padding_idx`.",
        )

        @pydantic.field_validator("granularity")
        @classmethod
        def _is_one(cls, granularity: str) -> str:
            Layout((1, 1), 3, granularity)
            return granularity

        @property
        def centroids(self) -> int:
            """Number of levels."""
            return self.levels or 2**self.bits - (self.scheme == "symmetric")

        @pydantic.model_validator(mode="after")
        def _has_a_middle(self) -> Uniform.Options:
            if self.levels and self.levels % 2 == 0 and self.scheme == "symmetric":
                raise ValueError("symmetric levels have a zero in the middle: 'levels' has to be odd")
            return self

    def __init__(self, options: Options) -> None:
        self.options = options

    def fit(self, weight: Tensor, *, importance: Tensor | None = None, axis: int = 0) -> Codebook:
        """The grid and the nearest level of every weight.

        Args:
            weight: finite floating-point values, any shape and device, not empty.
            importance: optional non-negative weight of each squared error, same shape; only ``threshold: mse``
                looks at it.
            axis: axis of the output channels, for the granularities ``channel``, ``group:N`` and ``weights:N``.

        Returns:
            A codebook on the device of ``weight``, with all levels whether used or not: ``(levels,)`` or
            ``(codebooks, levels)`` centroids in its dtype, and codes uint8.
        """
        granularity = self.options.granularity if weight.dim() else "tensor"
        weight, layout = weight.detach(), Layout(tuple(weight.shape), self.options.centroids, granularity, axis)
        rows = _rows(layout, weight)
        owner = torch.arange(len(rows), device=rows.device) // (layout.channels or 1)
        low, high = (_by_group(end(rows, 1), owner, how) for end, how in ((torch.amin, "amin"), (torch.amax, "amax")))
        if self.options.threshold == "mse":
            mass = None if importance is None else _rows(layout, importance.detach().to(rows.device))
            ratio = self._best_ratio(rows, mass, owner, low, high)
            low, high = low * ratio, high * ratio
        scale, zero = self._grid(low, high)
        if layout.run is not None:
            scale = _narrow(scale, weight.dtype)
        codes = _rows_back(layout, self._codes(rows, scale[owner, None], zero[owner, None]).to(torch.uint8))
        levels = torch.arange(self.options.centroids, device=rows.device, dtype=torch.float32)
        centroids = ((levels - zero[:, None]) * scale[:, None]).to(weight.dtype)
        stay = self.options.zeros == "keep"
        return Codebook(centroids[0] if layout.channels is None else centroids, codes, granularity, axis, zeros=stay)

    def _grid(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point, counted from the first level, for ranges ``(codebooks,)``."""
        last = self.options.centroids - 1
        if self.options.scheme == "symmetric":
            scale, zero = torch.maximum(low.abs(), high.abs()) / (last // 2), torch.full_like(low, last // 2)
        else:
            low, high = low.clamp(max=0.0), high.clamp(min=0.0)
            scale, zero = (high - low) / last, torch.zeros_like(low)
        scale = torch.where(scale > 0, scale.clamp(min=torch.finfo(torch.float32).tiny), 1.0)
        return scale, zero if self.options.scheme == "symmetric" else (-low / scale).round().clamp(0, last)

    def _codes(self, rows: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        """Level numbers, float32; torch's affine quantization multiplies by the inverse, and so does this."""
        return (rows * (1.0 / scale)).round_().add_(zero).clamp_(0, self.options.centroids - 1)

    def _best_ratio(self, rows: Tensor, mass: Tensor | None, owner: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """By how much to narrow each range ``(codebooks,)``: the best of a coarse grid, then of a fine one."""
        best, least = torch.ones_like(low), torch.full_like(low, torch.inf)
        for fine in (False, True):
            centre = best.clone() if fine else torch.zeros_like(best)
            for step in _FINE if fine else _COARSE:
                ratio = (centre + step).clamp(0.01, 1.0)
                error = self._error(rows, mass, owner, *self._grid(low * ratio, high * ratio))
                better = error < least
                best, least = torch.where(better, ratio, best), torch.where(better, error, least)
        return best

    def _error(self, rows: Tensor, mass: Tensor | None, owner: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        scale, zero = scale[owner, None], zero[owner, None]
        error = self._codes(rows, scale, zero).sub_(zero).mul_(scale).sub_(rows).square_()
        if mass is not None:
            error.mul_(mass)
        return _by_group(error.sum(1, dtype=torch.float64), owner, "sum")


def _rows(layout: Layout, weight: Tensor) -> Tensor:
    """Weights float32, ``(rows, n)``: of each run, or output channel, or all; what fills up a last run is 0."""
    if layout.runs > 1:
        return layout.in_runs(weight.float())
    moved = weight.movedim(layout.axis, 0) if layout.channels is not None else weight.reshape(1, -1)
    return moved.reshape(len(moved), -1).float()


def _rows_back(layout: Layout, rows: Tensor) -> Tensor:
    """The reverse."""
    if layout.runs > 1:
        return layout.from_runs(rows)
    return layout.channels_back(rows) if layout.channels is not None else rows.view(layout.shape)


def _narrow(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Scales that a file holds in two bytes, where float16 (for bfloat16 weights: bfloat16) is fine enough."""
    found = scale.to(dtype if dtype == torch.bfloat16 else torch.float16)
    fine = (scale >= torch.finfo(found.dtype).tiny) & found.isfinite()
    return torch.where(fine, found.float(), scale)


def _by_group(values: Tensor, owner: Tensor, how: str) -> Tensor:
    """One value ``(codebooks,)`` from one a channel."""
    return values.new_zeros(int(owner[-1]) + 1).scatter_reduce_(0, owner, values, how, include_self=False)


@hookimpl
def lloydmax_quantizers() -> dict[str, type]:
    """The quantizer of this module."""
    return {"uniform": Uniform}
