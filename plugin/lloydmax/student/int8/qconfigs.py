"""QConfigs of the int8 student: trained thresholds for weights and activations, held codebooks, float activations."""

from __future__ import annotations

import functools
from typing import Any, Protocol

import torch
from torch import nn

from lloydmax.codebook.layout import Layout
from lloydmax.errors import IntegrationError
from lloydmax.network.channels import is_depthwise
from lloydmax.student.int8.fake_quantizers import HeldCodebookFakeQuantize, LevelsFakeQuantize, ThresholdFakeQuantize
from lloydmax.student.int8.host import PlaceholderObserver, QConfig, QConfigMapping
from lloydmax.student.layers import LAYERS
from lloydmax.student.thresholds import Scheme

UNIFORM = "uniform"
"""The registered quantizer whose layers become int8 layers with trained thresholds."""
_INT8_LAYERS = ("Linear", "Conv1d", "Conv2d", "Conv3d")
FLOAT_ACTIVATIONS = PlaceholderObserver.with_args(dtype=torch.float)
"""``activation`` of a QConfig whose layers take and give float tensors."""


def threshold_qconfig(
    bits: int = 8,
    scheme: Scheme = "symmetric",
    granularity: str = "tensor",
    *,
    activation_bits: int = 8,
    activation_scheme: Scheme = "asymmetric",
    axis: int = 0,
) -> Any:
    """A QConfig with trained thresholds for weights and activations.

    Args:
        bits: of the weights, 2 to 8; below 8 they still run on the int8 kernels.
        scheme: of the weights: ``"symmetric"`` or ``"asymmetric"``. ``onednn`` refuses asymmetric ones; ``x86`` and
            ``fbgemm`` run them, but not in depthwise convolutions, whose conversion is refused.
        granularity: of the weights: ``"tensor"`` or ``"channel"``.
        activation_bits: 2 to 8; only 8 can be converted.
        activation_scheme: ``"symmetric"`` or ``"asymmetric"``.
        axis: of the output channels: 1 for transposed convolutions.

    Raises:
        FitError: a value outside of these.
    """
    weight = ThresholdFakeQuantize.with_args(bits=bits, scheme=scheme, granularity=granularity, axis=axis)
    activation = threshold_activation(activation_bits, activation_scheme)
    weight()
    return QConfig(activation=activation, weight=weight)


def threshold_activation(bits: int = 8, scheme: Scheme = "asymmetric") -> Any:
    """The constructor of an activation's fake quantizer; equal arguments give the same one.

    Raises:
        FitError: bits or scheme that there are not.
    """
    return _activation(bits, scheme)


@functools.cache
def _activation(bits: int, scheme: Scheme) -> Any:
    made = ThresholdFakeQuantize.with_args(bits=bits, scheme=scheme, weights=False)
    made()
    return made


def threshold_qconfig_mapping(
    bits: int = 8,
    scheme: Scheme = "symmetric",
    granularity: str = "tensor",
    *,
    activation_bits: int = 8,
    activation_scheme: Scheme = "asymmetric",
) -> QConfigMapping:
    """Trained thresholds for a whole model, in place of ``get_default_qat_qconfig_mapping()``.

    Upstream's exceptions stay: operations whose output range is known (sigmoid, softmax ...), layer norms, whose
    weights stay float, and PReLU. Transposed convolutions stay float, for the int8 kernels of ``x86`` and ``onednn``
    compute them wrongly where the numbers of input and output channels differ.

    Args:
        bits, scheme, granularity, activation_bits, activation_scheme: see :func:`threshold_qconfig`.

    Returns:
        A mapping for ``prepare_qat_fx``, where all thresholds train, or ``prepare_fx``, where those of activations do.
    """
    from torch.ao.quantization import get_default_qat_qconfig_mapping

    ours = threshold_qconfig(
        bits, scheme, granularity, activation_bits=activation_bits, activation_scheme=activation_scheme
    )
    mapping = get_default_qat_qconfig_mapping("x86")
    theirs: Any = mapping.global_qconfig
    for kind, qconfig in list(mapping.object_type_qconfigs.items()):
        if "transpose" in getattr(kind, "__name__", str(kind)).lower():
            mapping.set_object_type(kind, None)
        elif qconfig is not None and qconfig.activation == theirs.activation:
            mapping.set_object_type(kind, QConfig(activation=ours.activation, weight=qconfig.weight))
    return mapping.set_global(ours)


class QuantizedWeight(Protocol):
    """What the int8 student has to know of a parameter; a plan's parameters are such."""

    @property
    def name(self) -> str:
        """Full name."""

    @property
    def tied(self) -> tuple[str, ...]:
        """The other names of the same parameter."""

    @property
    def layer(self) -> str:
        """The class name of its module."""

    @property
    def layout(self) -> Layout:
        """Of the weight."""

    @property
    def quantizer(self) -> str:
        """Registered name."""

    @property
    def options(self) -> Any:
        """Validated options of the quantizer."""

    @property
    def even(self) -> bool:
        """Whether the centroids are evenly spaced."""


def levels_of(weight: QuantizedWeight) -> tuple[int, int]:
    """Number of levels and lowest integer of a uniformly quantized weight."""
    count = weight.layout.centroids
    return count, -((count + 1) // 2) + count % 2


def refusal(weight: QuantizedWeight) -> str | None:
    """Why ``torch.ao.quantization`` cannot quantize a weight so; ``None`` where it can."""
    leaf, kind = weight.name.rpartition(".")[2], weight.layer
    if weight.tied:
        return f"it is tied to {', '.join(weight.tied)}, and preparing would untie them"
    if weight.quantizer == UNIFORM:
        if leaf != "weight" or kind not in _INT8_LAYERS:
            return f"int8 layers are made of the weight of exactly {', '.join(_INT8_LAYERS)}, not the {leaf} of {kind}"
        if weight.layout.granularity not in ("tensor", "channel"):
            return f"int8 kernels have one scale a tensor or a channel, not granularity {weight.layout.granularity!r}"
        if weight.options.threshold != "max":
            threshold = weight.options.threshold
            return f"threshold: {threshold} is for codebooks; here the step train_thresholds finds the range"
        return None
    if leaf != "weight" or kind not in {layer.__name__ for layer in LAYERS}:
        kinds = ", ".join(layer.__name__ for layer in LAYERS)
        return (
            f"only the weight of exactly {kinds} can have a codebook, not the {leaf} of {kind} "
            "(lloydmax.integrations.torchao.CodebookQuantizer takes any weight of an exported program)"
        )
    return None


def untrainable(weight: QuantizedWeight) -> str | None:
    """Why a graph that is trained cannot hold a weight, which one that is only converted can; ``None`` where it can."""
    if weight.layer.startswith("ConvTranspose"):
        return (
            f"torch trains no {weight.layer} with a codebook among int8 activations: leave the layer out of the rule "
            "('except:'), so that it stays float, or leave out 'activations:'"
        )
    return None


def uniform_qconfig(weight: QuantizedWeight, activation: Any, layer: nn.Module) -> Any:
    """The QConfig of an int8 layer.

    Args:
        weight: of the quantizer ``uniform``.
        activation: constructor of the activations' fake quantizer or observer.
        layer: that holds the weight.

    Raises:
        IntegrationError: the activations stay float.
    """
    if activation().dtype not in (torch.quint8, torch.qint8):
        raise IntegrationError(
            f"{weight.name}: the int8 kernels need int8 activations, and nothing quantizes them here: add an "
            "'activations:' section to the recipe, or start from threshold_qconfig_mapping()"
        )
    options, layout = weight.options, weight.layout
    made = threshold_qconfig(options.bits, options.scheme, layout.granularity, axis=layout.axis).weight
    if options.scheme == "asymmetric" and is_depthwise(layer):
        made = LevelsFakeQuantize.with_args(
            bits=options.bits, scheme=options.scheme, granularity=layout.granularity, axis=layout.axis
        )
    return QConfig(activation=activation, weight=made)


def held_qconfig(weight: QuantizedWeight, activation: Any) -> Any:
    """The QConfig of a layer with a codebook that was fitted before.

    Args:
        weight: of any other quantizer.
        activation: constructor of the activations' fake quantizer or observer.
    """
    layout = weight.layout
    made = HeldCodebookFakeQuantize.with_args(
        centroids=layout.centroids, granularity=layout.granularity, axis=layout.axis
    )
    return QConfig(activation=activation, weight=made)
