"""What stands for integers in a student that a host has prepared, and how it is told to stop observing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import fx, nn

from lloydmax.student.fake_quantize import CodebookWeightFakeQuantize
from lloydmax.student.thresholds import TrainedThreshold


class FakeQuantizers:
    """The fake quantizers of a student that a host has prepared, and the layers whose weights are on an int8 grid.

    Args:
        student: what ``prepare_qat_fx`` and its like give, or the student of a recipe with ``activations``.
    """

    def __init__(self, student: nn.Module) -> None:
        self._student = student

    @property
    def thresholds(self) -> list[TrainedThreshold]:
        """The trained thresholds of weights and activations, in the order of the modules."""
        return [module for module in self._student.modules() if isinstance(module, TrainedThreshold)]

    def observers(self, codebooks: bool = True) -> list[Any]:
        """The modules that observe what they are given as long as their ``observer_enabled[0]`` is 1.

        Args:
            codebooks: those of codebooks, too, which are fitted to what they observe.
        """
        found = [module for module in self._student.modules() if hasattr(module, "observer_enabled")]
        return [module for module in found if codebooks or not isinstance(module, CodebookWeightFakeQuantize)]

    @property
    def int8_parameters(self) -> list[str]:
        """The weights on an int8 grid and the biases of their layers, by name."""
        names = []
        for prefix, module in self._student.named_modules():
            quantizer = getattr(module, "weight_fake_quant", None)
            if quantizer is None or isinstance(quantizer, CodebookWeightFakeQuantize):
                continue
            leaves = [leaf for leaf in ("weight", "bias") if module._parameters.get(leaf) is not None]
            names += [f"{prefix}.{leaf}" if prefix else leaf for leaf in leaves]
        return names + [name for name in _in_program(self._student) if name not in names]


def _in_program(student: nn.Module) -> Iterator[str]:
    """The same of an exported program, where the fake quantizers of weights are nodes of their own."""
    for node in student.graph.nodes if isinstance(student, fx.GraphModule) else ():
        module = student.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, TrainedThreshold) and module.weights:
            for layer in node.users:
                held = [node.args[0], *layer.args[2:3]]
                yield from (str(part.target) for part in held if isinstance(part, fx.Node) and part.op == "get_attr")
