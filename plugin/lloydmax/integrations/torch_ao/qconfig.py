"""The fake quantizer of weights and the QConfig that asks for it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from types import FrameType
from typing import Any

from lloydmax.integrations.fake_quantize import FittedWeightFakeQuantize
from lloydmax.student.int8.backend import is_extended
from lloydmax.student.int8.host import FakeQuantizeBase, QConfig
from lloydmax.student.int8.qconfigs import FLOAT_ACTIVATIONS


class CodebookFakeQuantize(FittedWeightFakeQuantize, FakeQuantizeBase):
    """``QConfig.weight`` of a codebook layer: observer after training, fake quantizer in training.

    See :class:`~lloydmax.integrations.fake_quantize.FittedWeightFakeQuantize` for arguments and behaviour.
    ``disable_observer`` keeps the codes, ``disable_fake_quant`` lets the float weight through.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _warn_without_backend_config()


def codebook_qconfig(
    centroids: int = 16,
    granularity: str = "tensor",
    *,
    activation: Callable[..., Any] | None = None,
    axis: int = 0,
    trainable: bool = True,
    quantizer: str = "kmeans",
    **options: Any,
) -> Any:
    """A QConfig whose weight is a codebook.

    Args:
        centroids: k of each codebook.
        granularity: ``"tensor"``, ``"channel"`` or ``"group:N"``.
        activation: constructor of the activations' observer or fake quantizer, usually that of the int8 layers
            around; ``None``: float activations, a weight-only codebook.
        axis: of the output channels: 1 for transposed convolutions.
        trainable: whether the centroids learn in quantization-aware training.
        quantizer: any registered quantizer.
        options: its further options.

    Raises:
        FitError: fewer than one centroid, or another granularity.
    """
    weight = CodebookFakeQuantize.with_args(
        centroids=centroids,
        granularity=granularity,
        axis=axis,
        trainable=trainable,
        quantizer=quantizer,
        options=options,
    )
    weight()
    return QConfig(activation=activation or FLOAT_ACTIVATIONS, weight=weight)


def _warn_without_backend_config() -> None:
    """Upstream leaves a layer float, silently, when the backend configuration does not know its weight's dtype.

    It also hides that configuration from the QConfig, so it is looked up where ``prepare`` holds it.
    """
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        inside = frame.f_globals.get("__name__") == "torch.ao.quantization.fx.prepare"
        if inside and frame.f_code.co_name == "prepare":
            if not is_extended(frame.f_locals.get("backend_config")):
                warnings.warn(
                    "codebook layers would silently stay float: pass "
                    "backend_config=lloydmax.integrations.torch_ao.backend_config() "
                    "to prepare_fx or prepare_qat_fx, and to convert_fx",
                    UserWarning,
                    stacklevel=2,
                )
            return
        frame = frame.f_back
