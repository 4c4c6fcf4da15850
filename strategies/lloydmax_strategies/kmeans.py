"""k-means codebooks: the quantizer ``kmeans``."""

from __future__ import annotations

import pydantic
import torch
from lloydmax.codebook import Codebook, channels_per_codebook
from lloydmax.hookspecs import hookimpl
from torch import Tensor

from lloydmax_strategies.rows import fit_rows


class KMeans:
    """Centroids with the least squared error, and the nearest centroid of every weight (Lloyd 1982, Max 1960)."""

    class Options(pydantic.BaseModel):
        """Options of the quantizer ``kmeans``."""

        model_config = pydantic.ConfigDict(extra="forbid")

        centroids: int = pydantic.Field(16, ge=1, le=65536, description="centroids of one codebook")
        granularity: str = pydantic.Field("tensor", description="what shares a codebook: tensor, channel or group:N")

        @pydantic.field_validator("granularity")
        @classmethod
        def _known(cls, value: str) -> str:
            channels_per_codebook(value)
            return value

    def __init__(self, options: Options) -> None:
        self.options = options

    def fit(self, weight: Tensor, *, importance: Tensor | None = None, axis: int = 0) -> Codebook:
        """Fit the codebook of one weight.

        Args:
            weight: finite floating-point values, any shape and device, not empty.
            importance: optional non-negative weight of each squared error, same shape.
            axis: axis of the output channels, for the granularities ``channel`` and ``group:N``.

        Returns:
            A codebook on the device of ``weight``.
        """
        k, granularity = self.options.centroids, self.options.granularity
        channels = channels_per_codebook(granularity)
        weight = weight.detach()
        if channels is None or weight.dim() == 0:
            rows = weight.reshape(1, -1).cpu()
            mass = None if importance is None else importance.detach().reshape(1, -1).cpu()
            centroids, codes = fit_rows(rows, mass, k)
            shape = (-1,) if channels is None else (1, -1)
            return Codebook(centroids.view(shape).to(weight.device), codes.view(weight.shape).to(weight.device), granularity, axis)
        return _fit_channels(weight, importance, k, channels, granularity, axis)


def _fit_channels(weight: Tensor, importance: Tensor | None, k: int, channels: int, granularity: str, axis: int) -> Codebook:
    moved = weight.movedim(axis, 0)
    rows = moved.reshape(moved.shape[0], -1).cpu()
    mass = None if importance is None else importance.detach().movedim(axis, 0).reshape(rows.shape).cpu()
    full = len(rows) // channels * channels
    parts = []
    for part, size in ((slice(0, full), channels), (slice(full, None), len(rows) - full)):
        if len(rows[part]) and size:
            shape = (-1, size * rows.shape[1])
            parts.append(fit_rows(rows[part].reshape(shape), None if mass is None else mass[part].reshape(shape), k))
    most = max(c.shape[1] for c, _ in parts)
    centroids = torch.cat([torch.cat([c, c[:, -1:].expand(-1, most - c.shape[1])], dim=1) for c, _ in parts])
    widest = max((codes.dtype for _, codes in parts), key=lambda d: d.itemsize)
    codes = torch.cat([codes.to(widest).reshape(-1, rows.shape[1]) for _, codes in parts])
    codes = codes.view(moved.shape).movedim(0, axis).contiguous()
    return Codebook(centroids.to(weight.device), codes.to(weight.device), granularity, axis)


@hookimpl
def lloydmax_quantizers() -> dict[str, type]:
    """The quantizer of this module."""
    return {"kmeans": KMeans}
