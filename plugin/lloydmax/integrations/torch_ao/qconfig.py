"""The fake quantizer of weights and the QConfig that asks for it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from lloydmax.errors import IntegrationError
from lloydmax.integrations.fake_quantize import FittedWeightFakeQuantize
from lloydmax.student.int8.fx.host import FakeQuantizeBase, QConfig
from lloydmax.student.int8.fx.preparation import UNPREPARED, Preparation
from lloydmax.student.int8.fx.qconfigs import FLOAT_ACTIVATIONS


class CodebookFakeQuantize(FittedWeightFakeQuantize, FakeQuantizeBase):
    """``QConfig.weight`` of a codebook layer: observer after training, fake quantizer in training.

    See :class:`~lloydmax.integrations.fake_quantize.FittedWeightFakeQuantize` for arguments and behaviour.
    ``disable_observer`` keeps the codes, ``disable_fake_quant`` lets the float weight through.
    """

    def __init__(self, *args: Any, preparation: Preparation = UNPREPARED, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        tried = kwargs.get("factory_kwargs", self) is None  # torch tries whether a constructor takes them
        if preparation.begun and not (preparation.extended or preparation.warned or tried):
            preparation.warned = True
            warnings.warn(
                "codebook layers would silently stay float: pass "
                "backend_config=lloydmax.integrations.torch_ao.backend_config() "
                "to prepare_fx or prepare_qat_fx, and to convert_fx",
                UserWarning,
                stacklevel=2,
            )

    @classmethod
    def with_args(cls, **kwargs: Any) -> Any:
        """The constructor for a QConfig.

        It warns where ``prepare_fx`` calls it with another backend configuration than ours: upstream leaves a layer
        float, silently, when that does not know its weight's dtype.
        """
        return super().with_args(preparation=UNPREPARED, **kwargs)


class EagerCodebookFakeQuantize(CodebookFakeQuantize):
    """The same in eager mode, where only a layer that is about to become an int8 one asks for its dtype."""

    @property
    def dtype(self) -> Any:  # type: ignore[override]
        """None: :func:`lloydmax.integrations.torch_ao.eager_mapping` was forgotten.

        Raises:
            IntegrationError: always.
        """
        raise IntegrationError(
            "a layer with a codebook would become an int8 layer: write torch.ao.quantization.convert(prepared, "
            "mapping=lloydmax.integrations.torch_ao.eager_mapping())"
        )


def codebook_qconfig(
    centroids: int = 16,
    granularity: str = "tensor",
    *,
    activation: Callable[..., Any] | None = None,
    axis: int = 0,
    trainable: bool = True,
    quantizer: str = "kmeans",
    eager: bool = False,
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
        eager: whether it is for eager mode, where a forgotten ``eager_mapping`` is an error of its own then.
        options: its further options.

    Raises:
        FitError: fewer than one centroid, or another granularity.
    """
    weight = (EagerCodebookFakeQuantize if eager else CodebookFakeQuantize).with_args(
        centroids=centroids,
        granularity=granularity,
        axis=axis,
        trainable=trainable,
        quantizer=quantizer,
        options=options,
    )
    weight()
    return QConfig(activation=activation or FLOAT_ACTIVATIONS, weight=weight)
