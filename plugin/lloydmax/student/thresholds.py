"""Trained thresholds: uniform quantization whose clipping range learns by a few factors (Goncharenko et al. 2019).

"Fast Adjustable Threshold for Uniform Neural Network Quantization", sections 3.1 to 3.3. The range that was seen is
multiplied (symmetric) or shifted and narrowed (asymmetric) by factors that are clipped to published limits;
rounding passes gradients straight through, clipping passes none.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from lloydmax.errors import FitError, IntegrationError

NARROWEST = 0.5
"""Least factor of a range."""
WIDEST_OF_THE_CODE = 1.3
"""Largest factor of the width in the authors' code; the paper has 1."""
SHIFTS = (-0.2, 0.4)
"""Least and largest shift of the lower end, as a share of the range. Integer kernels need zero within the range, so
the lower end never moves above it, and does not move at all where nothing is negative."""

_EPS = torch.finfo(torch.float32).eps

Scheme = Literal["symmetric", "asymmetric"]


class TrainedThreshold(nn.Module):
    """Mixin for a host's ``FakeQuantizeBase``: float values -> the values that their integers stand for.

    While the observer is enabled the range is observed: that of the present weight, or of all activations so far.
    The factors multiply it; until they are trained this is plain min-max quantization. Values equal those of torch's
    affine fake quantization with the scale and zero point that :meth:`calculate_qparams` returns.

    Attributes:
        width: parameter, one factor a threshold, used within 0.5 and ``widest``.
        shift: parameter, one a threshold, used within -0.2 and 0.4 as far as zero stays in the range; only
            ``asymmetric``.
        min_val, max_val: buffers, the observed range, one a threshold; empty before anything was observed.
        fixed_scale, fixed_zero_point: buffers, what :meth:`fix` was given; empty before.
        quant_min, quant_max: of the integers.
        values: how many values one threshold has: weights, or features of one sample.
    """

    eps = _EPS

    fake_quant_enabled: Tensor
    observer_enabled: Tensor
    min_val: Tensor
    max_val: Tensor
    fixed_scale: Tensor
    fixed_zero_point: Tensor
    shift: nn.Parameter | None

    def __init__(
        self,
        bits: int = 8,
        scheme: Scheme = "symmetric",
        granularity: str = "tensor",
        *,
        weights: bool = True,
        axis: int = 0,
        widest: float = 1.0,
        factory_kwargs: dict[str, Any] | None = None,
        **host: Any,
    ) -> None:
        """Make one that has seen nothing.

        Args:
            bits: 2 to 8. Symmetric weights have ``2**bits - 1`` levels, everything else ``2**bits``.
            scheme: ``"symmetric"``: zero is in the middle (for activations that are never negative: at the lower
                end); ``"asymmetric"``: the range ends where the values do, and holds zero.
            granularity: what shares a threshold: ``"tensor"`` or, for weights, ``"channel"``.
            weights: signed integers for a weight (qint8); else unsigned ones for activations (quint8).
            axis: of the output channels.
            widest: largest factor of the range.
            factory_kwargs: ``device`` of the parameters, as hosts give it.
            host: what hosts pass to every observer (dtype, ranges); of no meaning here.

        Raises:
            FitError: a value outside of these.
        """
        super().__init__()
        if not 2 <= bits <= 8:
            raise FitError(f"bits is {bits}; write 2 to 8")
        if scheme not in ("symmetric", "asymmetric"):
            raise FitError(f"scheme is {scheme!r}; write 'symmetric' or 'asymmetric'")
        if granularity not in (("tensor", "channel") if weights else ("tensor",)):
            choice = "'tensor' or 'channel'" if weights else "'tensor': activations have one threshold"
            raise FitError(f"granularity is {granularity!r}; write {choice}")
        self.bits, self.scheme, self.granularity, self.weights = bits, scheme, granularity, weights
        self.axis = self.ch_axis = axis
        self.widest, self.values = widest, 1
        self.dtype = torch.qint8 if weights else torch.quint8
        self.qscheme = _QSCHEMES[granularity, scheme]
        half = 1 << (bits - 1)
        lowest = -half + (scheme == "symmetric") if weights else 0
        self.quant_min, self.quant_max = lowest, half - 1 if weights else 2 * half - 1
        device = (factory_kwargs or {}).get("device")
        self.width = nn.Parameter(torch.ones(1, device=device))
        self.register_parameter(
            "shift", nn.Parameter(torch.zeros(1, device=device)) if scheme == "asymmetric" else None
        )
        for name in ("min_val", "max_val", "fixed_scale"):
            self.register_buffer(name, torch.empty(0, device=device))
        self.register_buffer("fixed_zero_point", torch.empty(0, dtype=torch.int32, device=device))

    @property
    def observed(self) -> bool:
        """Whether there is a range, or fixed parameters."""
        return bool(self.min_val.numel() or self.fixed_scale.numel())

    def factors(self) -> list[nn.Parameter]:
        """The parameters that train; none where scale and zero point are fixed."""
        if self.fixed_scale.numel():
            return []
        return [self.width] if self.shift is None else [self.width, self.shift]

    def forward(self, x: Tensor) -> Tensor:
        """Quantized and decoded, in the shape and dtype of ``x``; ``x`` itself while fake quantization is disabled.

        Raises:
            IntegrationError: nothing was observed yet and the observer is disabled.
        """
        if self.observer_enabled[0]:
            self.observe(x)
        return self.quantized(x) if self.fake_quant_enabled[0] else x

    def observe(self, x: Tensor) -> None:
        """Take the range of a weight, or widen that of the activations; ignored where parameters are fixed."""
        if self.fixed_scale.numel() or x.numel() == 0:
            return
        x = x.detach().float()
        shared = self.weights and self.granularity == "tensor"
        self.values = x.numel() if shared or not x.dim() else x.numel() // x.shape[self.axis]
        if self.granularity == "channel":
            low, high = torch.aminmax(x.movedim(self.axis, 0).reshape(x.shape[self.axis], -1), dim=1)
        else:
            low, high = (end.view(1) for end in torch.aminmax(x))
        with torch.inference_mode(False):
            if self.min_val.numel() and not self.weights:
                low, high = torch.minimum(self.min_val, low), torch.maximum(self.max_val, high)
            self.min_val, self.max_val = low.clone(), high.clone()
            for factor in self.factors():
                if factor.shape != low.shape:
                    factor.data = factor.data.new_full(low.shape, factor.data[0].item())

    def forget(self) -> None:
        """Drop the observed range and reset the factors; fixed parameters stay."""
        self.min_val, self.max_val = self.min_val.new_empty(0), self.max_val.new_empty(0)
        with torch.no_grad():
            self.width.fill_(1.0)
            if self.shift is not None:
                self.shift.zero_()

    def quantized(self, x: Tensor) -> Tensor:
        """Quantized and decoded, whatever is enabled; differentiable with respect to ``x`` and the factors.

        Raises:
            IntegrationError: nothing was observed yet.
        """
        scale, zero_point = self._scale_and_zero_point()
        values = x.float()
        learns = torch.is_grad_enabled() and (scale.requires_grad or x.requires_grad)
        limits = (self.quant_min, self.quant_max)
        if self.granularity == "tensor" and learns:
            found = torch._fake_quantize_learnable_per_tensor_affine(values, scale, zero_point, *limits, 1.0)
        elif self.granularity == "tensor":
            found = torch.fake_quantize_per_tensor_affine(values, scale, zero_point.int(), *limits)
        elif learns:
            found = torch._fake_quantize_learnable_per_channel_affine(
                values, scale, zero_point, self.axis, *limits, 1.0
            )
        else:
            found = torch.fake_quantize_per_channel_affine(values, scale, zero_point.int(), self.axis, *limits)
        return found.to(x.dtype)

    def calculate_qparams(self, **_: Any) -> tuple[Tensor, Tensor]:
        """Scale, float32, and zero point, int32, each ``(1,)`` or ``(channels,)``.

        Raises:
            IntegrationError: nothing was observed yet, or NaN or infinite values were.
        """
        with torch.no_grad():
            scale, zero_point = self._scale_and_zero_point()
            if not bool(torch.isfinite(scale).all()):
                raise IntegrationError("a threshold has seen NaN or infinite values; repair the model or its inputs")
            return scale.detach().clone(), zero_point.detach().to(torch.int32)

    def fix(self, scale: Tensor, zero_point: Tensor) -> None:
        """Use exactly these from now on, and observe and train nothing.

        Args:
            scale: positive, ``(1,)`` or, for granularity ``channel``, ``(channels,)``.
            zero_point: integers within ``quant_min`` and ``quant_max``, same shape.

        Raises:
            IntegrationError: values that no scale or zero point can have.
        """
        scale, zero_point = scale.detach().float().reshape(-1), zero_point.detach().reshape(-1).to(torch.int32)
        if scale.shape != zero_point.shape or not scale.numel() or (self.granularity == "tensor" and len(scale) > 1):
            raise IntegrationError(
                f"a threshold per {self.granularity} cannot have {scale.numel()} scales and "
                f"{zero_point.numel()} zero points"
            )
        outside = (zero_point < self.quant_min) | (zero_point > self.quant_max)
        if not bool((torch.isfinite(scale) & (scale > 0)).all()) or bool(outside.any()):
            raise IntegrationError(
                f"scales must be positive and zero points within {self.quant_min} and {self.quant_max}"
            )
        device = self.width.device
        self.fixed_scale, self.fixed_zero_point = scale.to(device, copy=True), zero_point.to(device, copy=True)
        self.observer_enabled[0] = 0

    def project(self) -> None:
        """Move every factor into its limits, so that none stops learning for good."""
        with torch.no_grad():
            for factor, (least, most) in zip(self.factors(), self._limits(), strict=True):
                factor.copy_(torch.minimum(torch.maximum(factor, least), most))

    def saturated(self) -> int:
        """How many factors are cut off: a range of half its width or less, or any factor at or beyond another limit.

        The full width, where it starts, does not count, nor does a shift that cannot be other than 0.
        """
        count = 0
        for factor, (least, most) in zip(self.factors(), self._limits(), strict=True):
            above = factor > most if factor is self.width else (factor >= most) & (most > least)
            count += int(((factor <= least) & (most > least) | above).sum())
        return count

    def _limits(self) -> list[tuple[Tensor, Tensor]]:
        """Least and largest value of each of :meth:`factors`, one for all thresholds or one each."""
        one = self.width.new_ones(1)
        limits = [(one * NARROWEST, one * self.widest)]
        if self.shift is not None and self.min_val.numel():
            low, extent = self._range()
            most = (-low / extent.clamp(min=torch.finfo(torch.float32).tiny)).clamp(max=SHIFTS[1])
            limits.append((torch.where(low < 0, SHIFTS[0], 0.0).to(one), most))
        elif self.shift is not None:
            limits.append((one * SHIFTS[0], one * SHIFTS[1]))
        return limits[: len(self.factors())]

    def _range(self) -> tuple[Tensor, Tensor]:
        """Lower end, at most 0, and extent of the observed range, widened to hold zero."""
        low = self.min_val.clamp(max=0.0)
        return low, self.max_val.clamp(min=0.0) - low

    def _scale_and_zero_point(self) -> tuple[Tensor, Tensor]:
        """float32 both, the zero point a whole number; differentiable, rounding straight through."""
        if self.fixed_scale.numel():
            return self.fixed_scale, self.fixed_zero_point.float()
        if not self.min_val.numel():
            raise IntegrationError(
                "this threshold has seen no values: run the prepared model once with its observers enabled"
            )
        (least, most), *others = self._limits()
        width = torch.clamp(self.width, least, most)
        if self.shift is None:
            return self._symmetric(width)
        low, extent = self._range()
        scale = (width * extent / (self.quant_max - self.quant_min)).clamp(min=_EPS)
        start = low + torch.clamp(self.shift, *others[0]) * extent
        exact = self.quant_min - start / scale
        rounded = exact.detach().round()
        zero_point = rounded.clamp(self.quant_min, self.quant_max)
        return scale, zero_point + (exact - exact.detach()) * (rounded == zero_point)

    def _symmetric(self, width: Tensor) -> tuple[Tensor, Tensor]:
        largest = torch.maximum(self.min_val.abs(), self.max_val.abs())
        if self.weights:
            return (width * largest / self.quant_max).clamp(min=_EPS), torch.zeros_like(largest)
        half = (self.quant_max + 1) // 2
        signed = self.min_val < 0
        levels = torch.where(signed, float(half - 1), float(self.quant_max))
        return (width * largest / levels).clamp(min=_EPS), torch.where(signed, float(half), 0.0)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Take the shapes of an observed or fixed state, so that a freshly prepared model can load a trained one."""
        for name in ("width", "shift", "min_val", "max_val", "fixed_scale", "fixed_zero_point"):
            own, given = getattr(self, name), state_dict.get(f"{prefix}{name}")
            if own is not None and given is not None and own.shape != given.shape:
                own.data = own.data.new_empty(given.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """What it quantizes to."""
        state = "fixed" if self.fixed_scale.numel() else "observed" if self.observed else "nothing observed"
        return f"bits={self.bits}, scheme={self.scheme}, granularity={self.granularity}, {state}"


_QSCHEMES = {
    ("tensor", "symmetric"): torch.per_tensor_symmetric,
    ("tensor", "asymmetric"): torch.per_tensor_affine,
    ("channel", "symmetric"): torch.per_channel_symmetric,
    ("channel", "asymmetric"): torch.per_channel_affine,
}
