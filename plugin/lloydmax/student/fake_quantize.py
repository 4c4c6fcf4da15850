"""What every host's fake quantizer of weights does: hold a codebook, decode it, train its centroids."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from lloydmax.codebook.codebook import Codebook
from lloydmax.codebook.layout import code_dtype, shared_by
from lloydmax.errors import FitError, IntegrationError
from lloydmax.student.attachment import CodebookWeight


class CodebookWeightFakeQuantize(nn.Module):
    """Mixin for a host's ``FakeQuantizeBase``: float weight -> the weight that its codebook stands for.

    It holds a codebook that it is given by :meth:`hold`, or that a subclass fits to the first weight that is seen
    while the observer is enabled. Afterwards the centroids are an ordinary parameter. While the module is in training
    mode with its observer and gradients enabled, every weight is given to its nearest centroid anew and its gradient
    passes straight through, but where zeros stay; otherwise the codes stay as they are. Conversion calls it once more:
    a layer converted in evaluation mode has exactly its trained weight.

    Attributes:
        centroids: parameter ``(k,)`` or ``(codebooks, k)``, of blocks ``(..., k, block)``; NaN until it is fitted.
        held: the codes, ``None`` until they are fitted.
    """

    dtype = torch.uint8
    qscheme = torch.per_tensor_affine
    is_dynamic = False
    quant_min = 0
    quant_max = 255

    fake_quant_enabled: Tensor
    observer_enabled: Tensor

    def __init__(
        self,
        centroids: int = 16,
        granularity: str = "tensor",
        *,
        axis: int = 0,
        trainable: bool = True,
        factory_kwargs: dict[str, Any] | None = None,
        **host: Any,
    ) -> None:
        """Make one that holds nothing yet.

        Args:
            centroids: k of each codebook.
            granularity: what shares a codebook: ``"tensor"``, ``"channel"`` or ``"group:N"``.
            axis: axis of the output channels.
            trainable: whether the centroids learn.
            factory_kwargs: ``device`` of the parameters, as hosts give it.
            host: what hosts pass to every observer (dtype, ranges, scheme); of no meaning here.

        Raises:
            FitError: fewer than one centroid, or another granularity.
        """
        super().__init__()
        if centroids < 1:
            raise FitError(f"centroids is {centroids}; write 1 or more")
        shared_by(granularity)
        self.k, self.granularity, self.axis, self.trainable = centroids, granularity, axis, trainable
        device = (factory_kwargs or {}).get("device")
        self.centroids = nn.Parameter(torch.full((centroids,), math.nan, device=device), requires_grad=trainable)
        self.held: CodebookWeight | None
        self.register_module("held", None)

    def forward(self, weight: Tensor) -> Tensor:
        """The decoded weight, in the shape of ``weight``; ``weight`` itself while fake quantization is disabled.

        Raises:
            FitError: NaN or infinite weights. IntegrationError: nothing is fitted and the observer is disabled.
        """
        observing = bool(self.observer_enabled[0])
        fresh = self.held is None and observing
        if fresh:
            self.hold(self.fitted(weight.detach()))
        if not self.fake_quant_enabled[0]:
            return weight
        if self.held is None:
            raise IntegrationError("this codebook was never fitted: run the model once before disable_observer")
        if not (self.training and observing and self.trainable and torch.is_grad_enabled()):
            dense: Tensor = self.held(self.centroids)
            return dense
        if not fresh:
            self.held = CodebookWeight(self.codebook().reassigned(weight))
        moved = weight - weight.detach()
        moved = moved * self.held.layout.free(weight.detach()).to(weight) if self.held.zeros else moved
        straight: Tensor = self.held(self.centroids) + moved
        return straight

    def codebook(self) -> Codebook:
        """The present centroids and codes (not copied).

        Raises:
            IntegrationError: nothing is fitted yet.
        """
        if self.held is None:
            raise IntegrationError("this codebook was never fitted: run the prepared model once before converting it")
        return self.held.holding(self.centroids)

    def calculate_qparams(self, **_: Any) -> tuple[Any, Any]:
        """``(codebook, None)`` where hosts expect scale and zero point: the converted layer is built from it."""
        return self.codebook(), None

    def fitted(self, weight: Tensor) -> Codebook:
        """The codebook of the first weight; a subclass that fits one says how.

        Raises:
            IntegrationError: this one only holds what it is given.
        """
        raise IntegrationError("this codebook was never given: hold one before the prepared model is run")

    def hold(self, codebook: Codebook) -> None:
        """Take this codebook instead of fitting one."""
        with torch.inference_mode(False):
            self.centroids.data = codebook.centroids.detach().clone()
            self._shaped(codebook)
            self.held = CodebookWeight(codebook)

    def _shaped(self, codebook: Codebook) -> None:
        """Blocks do not tell the shape of their weight, so the state has to."""
        if codebook.block > 1:
            self.register_buffer("weight_shape", torch.tensor(codebook.shape))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Take the shapes of a fitted state, so that a freshly prepared model can load a trained one."""
        centroids, codes = state_dict.get(f"{prefix}centroids"), state_dict.get(f"{prefix}held.codes")
        if centroids is not None and codes is not None:
            device = self.centroids.device
            blocks = state_dict.get(f"{prefix}weight_shape")
            shape = tuple(codes.shape) if blocks is None else tuple(blocks.tolist())
            block, k = (1, centroids.shape[-1]) if blocks is None else (centroids.shape[-1], centroids.shape[-2])
            empty = torch.zeros_like(codes, dtype=code_dtype(k), device=device)
            self.centroids.data = torch.zeros_like(centroids, device=device)
            held = Codebook(self.centroids.detach(), empty, self.granularity, self.axis, block, shape)
            self._shaped(held)
            self.held = CodebookWeight(held)
        super()._load_from_state_dict(state_dict, prefix, *args)
        if centroids is not None and codes is not None:
            self.held = CodebookWeight(self.codebook())

    def extra_repr(self) -> str:
        """What it fits."""
        state = "fitted" if self.held is not None else "not fitted"
        return f"centroids={self.k}, granularity={self.granularity}, {state}"
