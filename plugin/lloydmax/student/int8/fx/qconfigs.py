"""QConfigs of the int8 student: trained thresholds for weights and activations, held codebooks, float activations."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torch
from torch import nn

from lloydmax.errors import IntegrationError
from lloydmax.network.channels import is_depthwise
from lloydmax.runtime import machine
from lloydmax.student.int8.fx.fake_quantizers import HeldCodebookFakeQuantize, LevelsFakeQuantize, ThresholdFakeQuantize
from lloydmax.student.int8.fx.host import PlaceholderObserver, QConfig, QConfigMapping
from lloydmax.student.int8.weights import QuantizedWeight
from lloydmax.student.thresholds import Scheme

FLOAT_ACTIVATIONS = PlaceholderObserver.with_args(dtype=torch.float)
"""``activation`` of a QConfig whose layers take and give float tensors."""


def threshold_qconfig(
    bits: int | None = None,
    scheme: Scheme = "symmetric",
    granularity: str = "tensor",
    *,
    activation_bits: int = 8,
    activation_scheme: Scheme = "asymmetric",
    axis: int = 0,
) -> Any:
    """A QConfig with trained thresholds for weights and activations.

    Args:
        bits: of the weights, 2 to 8; below 8 they still run on the int8 kernels. ``None``: 8, or 7 where the kernels of
            this machine need that, which a warning says.
        scheme: of the weights: ``"symmetric"`` or ``"asymmetric"``. ``onednn`` refuses asymmetric ones; ``x86`` and
            ``fbgemm`` run them, but not in depthwise convolutions, whose conversion is refused.
        granularity: of the weights: ``"tensor"`` or ``"channel"``.
        activation_bits: 2 to 8; only 8 can be converted.
        activation_scheme: ``"symmetric"`` or ``"asymmetric"``.
        axis: of the output channels: 1 for transposed convolutions.

    Raises:
        FitError: a value outside of these.
    """
    if bits is None and (bits := machine.weight_bits()) < 8:
        warnings.warn(f"{machine.OVERFLOWS}: weights get {bits} bits; bits=8 keeps 8", stacklevel=2)
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
    bits: int | None = None,
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
