"""The passes of :mod:`lloydmax_strategies.clustering.scan` on an accelerator; only small tables leave the device."""

from __future__ import annotations

import numpy as np
import torch
from lloydmax.extend import code_dtype
from numpy.typing import NDArray
from torch import Tensor

from lloydmax_strategies.clustering.partition import Floats
from lloydmax_strategies.clustering.rows import thresholds
from lloydmax_strategies.clustering.scan import (
    KEYS,
    RANGE,
    SAMPLE,
    STEPS,
    centre_and_scale,
    intervals,
    one_interval,
    patterns,
)

_CHUNK = 1 << 24  # weights that are worked on at once
_PASSES = 3  # as those of Scan, at most
_DIGITS = 34  # binary digits of a distance in the exact integer sums: 2^27 weights fit


class DeviceScan:
    """A flat weight on a device and the keys of its values; attributes as those of
    :class:`lloydmax_strategies.clustering.scan.Scan`."""

    def __init__(self, weight: Tensor) -> None:
        self._weight, self.dtype, self.size = weight, weight.dtype, weight.numel()
        if weight.dtype == torch.float32:
            self._order = np.roll(np.arange(KEYS), KEYS // 2)
            self._centre, self._scale = self._sampled()
            top = max(float((part - self._centre).abs().max()) for part in weight.split(_CHUNK))
            self._flat = not RANGE[0] < top < RANGE[1]
            if self._flat:
                self.low, self.high = one_interval(float(weight.min()), float(weight.max()))
            else:
                self.low, self.high = intervals(self._centre, self._scale, top)
        else:
            self.low, self._order = patterns(weight.dtype)
            self.high = self.low
        count = sum(torch.bincount(self._keys(part), minlength=KEYS) for part in weight.split(_CHUNK))
        assert isinstance(count, Tensor)
        self.mass: Floats = count.cpu().numpy().astype(np.float64)[self._order]
        self.moment: Floats = self.mass * (self.low + self.high) / 2

    def _sampled(self) -> tuple[float, float]:
        step = max(1, self.size // SAMPLE) | 1
        ends = torch.stack([self._weight.min(), self._weight.max()])
        sample = self._weight[::step]
        if bool((sample == sample[0]).all()):
            sample = torch.cat([sample, ends])
        centre, scale = centre_and_scale(sample.cpu().numpy())
        return float(centre), float(scale)

    def _keys(self, part: Tensor) -> Tensor:
        """Keys ``0 .. 65535`` as int32."""
        if self.dtype != torch.float32:
            return part.view(torch.int16).int() & (KEYS - 1)
        if self._flat:
            return torch.zeros_like(part, dtype=torch.int32)
        distance = part - self._centre
        return (distance / (distance.abs() + self._scale) * STEPS).int() & (KEYS - 1)

    def select(self, chosen: NDArray[np.bool_]) -> tuple[NDArray[np.float32], Floats | None]:
        """Values of all weights whose key is chosen, a ``(65536,)`` mask by ascending value."""
        table = np.empty_like(chosen)
        table[self._order] = chosen
        mask = torch.from_numpy(table).to(self._weight.device)
        parts = [part[mask[self._keys(part)]] for part in self._weight.split(_CHUNK)]
        return torch.cat(parts).float().cpu().numpy(), None

    def encode(self, centroids: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`Scan.encode`; the sums are exact integers, so that their order does not matter."""
        k, device = len(centroids), self._weight.device
        for _ in range(_PASSES):
            limits = thresholds(centroids).to(device)
            start = centroids.double()
            reach = max(
                float(self.high[self.mass > 0].max() - start[0]), float(start[-1] - self.low[self.mass > 0].min())
            )
            unit = max(reach, 1e-300) * 2.0**-_DIGITS
            codes = torch.empty(self.size, dtype=code_dtype(k), device=device)
            total, count = torch.zeros((2, k), dtype=torch.int64, device=device)
            for part, here in zip(self._weight.split(_CHUNK), codes.split(_CHUNK), strict=True):
                nearest = torch.bucketize(part.float(), limits)
                here.copy_(nearest)
                offset = (part.double() - start.to(device)[nearest]) / unit
                total.index_add_(0, nearest, offset.round_().long())
                count += torch.bincount(nearest, minlength=k)
            means = start + total.cpu().double() * unit / count.cpu().clamp(min=1)
            settled = bool(((means - start).abs()[1:] <= 0.01 * start.diff()).all())
            centroids = means.to(self.dtype)
            if settled:
                break
        return centroids.to(device), codes
