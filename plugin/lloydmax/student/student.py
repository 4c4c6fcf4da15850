"""The student: the model being compressed, from its codebooks to what is saved. Two kinds behind one protocol."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Literal, Protocol

from torch import nn

from lloydmax.codebook.codebook import Codebook
from lloydmax.student import int8
from lloydmax.student.attachment import attach_all, attached, released
from lloydmax.student.int8.hosts import HostName
from lloydmax.student.thresholds import Scheme


class Student(Protocol):
    """What recovery trains, and what it becomes.

    Attributes:
        model: what recovery steps train and what is measured, in evaluation mode.
        finished_as: the stage that finishing is where it changes the outputs; ``None`` where it does not.
    """

    model: nn.Module
    finished_as: ClassVar[str | None]

    def finish(self) -> nn.Module:
        """The model as it is run and stored, in evaluation mode; the student is used up."""


class CodebookStudent:
    """Codebooks in place of weights; everything else as it was.

    Args:
        model: the original or a copy of it; changed in place, left in evaluation mode.
        codebooks: by parameter name.
        trainable: names of the parameters that learn; that of a compressed one stands for its centroids.
        gradients: ``requires_grad`` that the remaining parameters get in the end, by name.
    """

    finished_as: ClassVar[str | None] = None

    def __init__(
        self,
        model: nn.Module,
        codebooks: Mapping[str, Codebook],
        trainable: Collection[str],
        gradients: Mapping[str, bool],
    ) -> None:
        attach_all(model, codebooks)
        self.model, self.gradients = model.eval(), gradients
        model.requires_grad_(False)
        centroids = {name: held for name, _, _, _, held in attached(model)}
        plain = dict(model.named_parameters())
        for name in trainable:
            (centroids[name] if name in centroids else plain[name]).requires_grad_(True)

    def finish(self) -> nn.Module:
        """Codebook modules, with the gradients of before."""
        return released(self.model, self.gradients)


class Int8Student:
    """A graph with fake-quantized weights and activations, which ends on int8 kernels.

    Args:
        model: the folded float model; its modules move into the graph.
        weights: what is quantized, by name; see :class:`lloydmax.student.int8.fx.qconfigs.QuantizedWeight`.
        codebooks: by parameter name; those with free centroids are held.
        bits: of the activations.
        scheme: of the activations.
        by: who makes the graph and converts it.

    Raises:
        IntegrationError: the model cannot be traced, or the host cannot quantize a weight so.
    """

    finished_as: ClassVar[str | None] = "int8"

    def __init__(
        self,
        model: nn.Module,
        weights: Mapping[str, Any],
        codebooks: Mapping[str, Codebook],
        bits: Literal[8],
        scheme: Scheme,
        by: HostName = "auto",
    ) -> None:
        self.skeleton, self.weights, self._host = model, weights, int8.host(by)
        self._graph = self._host.fake_quantized(model, weights, bits, scheme)
        self.model: nn.Module = self._graph
        int8.hold(self.model, weights, codebooks)

    def train_only(self, names: Collection[str]) -> None:
        """Make these parameters trainable: of quantized ones the centroids, or the factors of their thresholds."""
        int8.set_trainable(self.model, self.weights, names)

    def finish(self) -> nn.Module:
        """The model on int8 kernels, on the CPU, where they are."""
        return self._host.converted(self._graph, self.weights, self.skeleton)
