"""Who makes int8 models: one narrow protocol, and the choice between those that keep it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Literal, Protocol

from torch import fx, nn

from lloydmax.errors import IntegrationError
from lloydmax.student.int8.model import Int8Model
from lloydmax.student.int8.weights import QuantizedWeight
from lloydmax.student.thresholds import Scheme

HostName = Literal["auto", "fx", "own"]


class Host(Protocol):
    """All that the int8 student asks of a host; a package with these two functions is one.

    *Observe* and *fake-quantize*: the graph holds a :class:`~lloydmax.student.thresholds.TrainedThreshold` for every
    quantized activation, and in every quantized layer, as ``weight_fake_quant``, one for its weight or a
    :class:`~lloydmax.student.fake_quantize.CodebookWeightFakeQuantize`. *Convert*: to a model that *runs*. *Store*: an
    :class:`Int8Model` tells every weight as a codebook, and the activations in the order of the graph, which is the
    same with every host, so that a file does not depend on who made it.
    """

    def fake_quantized(
        self, model: nn.Module, weights: Mapping[str, QuantizedWeight], bits: Literal[8], scheme: Scheme
    ) -> fx.GraphModule:
        """The model as a graph with fake quantizers of weights and activations in it, in evaluation mode.

        Args:
            model: batch norms folded; its modules move into the graph.
            weights: what is quantized, by name; what shares a layer with none of them stays float.
            bits: of the activations.
            scheme: of the activations.

        Raises:
            IntegrationError: the model cannot be traced, or the host cannot quantize a weight so.
        """

    def converted(
        self, graph: fx.GraphModule, weights: Mapping[str, QuantizedWeight], skeleton: nn.Module
    ) -> Int8Model:
        """The trained graph as it is run, on the CPU.

        Args:
            graph: from :meth:`fake_quantized`; left unusable.
            weights: the same.
            skeleton: the folded float model; only its names, and tensors that the graph does not use, are kept.
        """


def host(name: HostName = "auto") -> Host:
    """The host of that name.

    Args:
        name: ``fx``: ``torch.ao.quantization``; ``own``: plain PyTorch; ``auto``: the first of them that is there.

    Raises:
        IntegrationError: ``fx``, and this PyTorch has no ``torch.ao.quantization``.
    """
    if name != "auto":
        return _imported(name)
    try:
        return _imported("fx")
    except IntegrationError:
        return _imported("own")


def untraceable(model: nn.Module, error: Exception) -> IntegrationError:
    """Why a host cannot make a graph of a model, in words for people."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return IntegrationError(
        f"{type(model).__name__} cannot be traced for int8 activations: {reason}. Leave out 'activations:', or "
        "write its forward without control flow that depends on tensors"
    )


def _imported(name: str) -> Any:
    return importlib.import_module(f"{__package__}.{name}")
