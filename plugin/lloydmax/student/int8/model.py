"""A model on int8 kernels, read back as the codebooks that its weights stand for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

from torch import Tensor, nn

from lloydmax.codebook.codebook import Codebook
from lloydmax.codebook.grid import grid
from lloydmax.network.folding import folded
from lloydmax.student.int8.weights import QuantizedWeight, levels_of

Levels = Mapping[str, tuple[int, int]]
"""Number of levels and lowest integer of every uniformly quantized weight, by parameter name."""


class Int8Model(nn.Module):
    """A converted model: int8 layers, codebook layers, and whatever stayed float.

    Attributes:
        network: the module that runs; also :attr:`graph`.
        tensors: names of the parameters and persistent buffers of the float architecture, batch norms folded.
        levels: of the int8 weights.
        activations: scale and zero point of every quantized activation, in the order of the graph.
        folded: the batch norms that were folded: ``(layer, norm)``.
    """

    def __init__(
        self,
        graph: nn.Module,
        tensors: Sequence[str],
        levels: Levels,
        activations: Sequence[tuple[float, int]],
        folded: Sequence[tuple[str, str]],
        unused: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.network, self.tensors, self.levels = graph, tuple(tensors), dict(levels)  # torch.export has a `graph`
        self.activations, self.folded, self.unused = tuple(activations), tuple(folded), dict(unused or {})

    @property
    def graph(self) -> nn.Module:
        """The module that runs."""
        return self.network

    @classmethod
    def of(
        cls,
        graph: nn.Module,
        activations: Sequence[tuple[float, int]],
        weights: Mapping[str, QuantizedWeight],
        skeleton: nn.Module,
    ) -> Self:
        """The model that a host has converted, in evaluation mode; see :class:`Int8Model` and the host's protocol."""
        tensors: dict[str, Tensor] = dict(skeleton.named_parameters(remove_duplicate=False))
        names = [*tensors, *_persistent(skeleton)]
        tensors |= dict(skeleton.named_buffers(remove_duplicate=False))
        known = dict(graph.named_modules())
        unused = {name: tensors[name].detach().cpu() for name in names if not _is_in(known, name)}
        levels = {name: levels_of(weight) for name, weight in weights.items() if weight.even}
        return cls(graph, names, levels, activations, folded(skeleton), unused).eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the original takes, and gives."""
        return self.network(*args, **kwargs)

    def held(self) -> Iterator[tuple[str, Tensor | Codebook]]:
        """Every tensor of the float architecture under its name; quantized ones as codebooks."""
        for name in self.tensors:
            layer, _, leaf = name.rpartition(".")
            yield name, self.unused[name] if name in self.unused else self._value(layer, leaf, name)

    def _value(self, layer: str, leaf: str, name: str) -> Tensor | Codebook:
        module: Any = self.graph.get_submodule(layer)
        if isinstance(module, nn.Sequential):  # a fused layer that holds its codebook layer
            module = module[0]
        if leaf == "weight" and (made := getattr(module, "weight_codebook", None)) is not None:
            own: Codebook = made()
            return own
        books = getattr(module, "codebooks", None)
        if books is not None and leaf in books:
            book: Codebook = books[leaf].codebook()
            return book
        if leaf == "weight" and name in self.levels:
            return grid(module.weight(), *self.levels[name])
        value = getattr(module, leaf)
        tensor: Tensor = value() if callable(value) and not isinstance(value, Tensor) else value
        return tensor.detach()


def _is_in(modules: Mapping[str, nn.Module], name: str) -> bool:
    """Whether a tensor of the float architecture is somewhere in the modules on kernels."""
    layer, _, leaf = name.rpartition(".")
    module = modules.get(layer)
    if module is None:
        return False
    return isinstance(module, nn.Sequential) or hasattr(module, "codebooks") or hasattr(module, leaf)


def _persistent(model: nn.Module) -> Iterator[str]:
    for prefix, module in model.named_modules():
        for leaf, buffer in module._buffers.items():
            if buffer is not None and leaf not in module._non_persistent_buffers_set:
                yield f"{prefix}.{leaf}".lstrip(".")
