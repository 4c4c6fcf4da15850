"""Reading what reaches one layer after the other, each changed once it is read, without a pass for each of them."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from lloydmax.extend import Batch, Network, Source, device_of, output_tensors
from torch import Tensor, fx, nn

from lloydmax_strategies.row import row_of
from lloydmax_strategies.tap import What, copied, given, read

MEMORY = 2 << 30
"""Bytes that the activations kept between two layers may take."""

_SAME = 1e-4
"""Difference of a trial's outputs from the model's own, relative to the largest, up to which they are the same."""


class Frontier:
    """All inputs side by side, as far as the layer that was read last: every layer runs about twice, not once a layer;
    those between the first and the last call of a layer once more.

    Models that cannot be traced start at the block that a layer is in, if they have a row of them; others, and layers
    where ``memory`` does not do, are run from the inputs as by :func:`~lloydmax_strategies.tap.read`; what is read is
    the same.

    Args:
        model: in evaluation mode, without gradients.
        source: inputs.
        order: int64 indices.
        batch_size: samples of one pass.
        memory: bytes of activations that may be kept.
        still: whether the model does not change, and no module is read again: every layer then runs once.
    """

    def __init__(
        self,
        model: nn.Module,
        source: Source,
        order: Tensor,
        batch_size: int,
        memory: float = MEMORY,
        still: bool = False,
    ) -> None:
        self._still = still
        self._model, self._source, self._order, self._batch_size = model, source, order, batch_size
        self._memory = memory
        self._walk = _walk(model, source, order[:2])
        self._row = row_of(model, source, order[:2]) if self._walk is None and source.deterministic else None
        if self._row is not None:
            self._row.memory = memory
        self._kept: list[Any] = []
        self._at = 0

    @property
    def traced(self) -> bool:
        """Whether activations can be kept at all."""
        return self._walk is not None

    def read(self, module: nn.Module, *, what: What = "input", calls: int = 1) -> Iterator[Any]:
        """What is read of one module, call by call; see :func:`~lloydmax_strategies.tap.read`.

        After the last one this module may change, and no other until the next is read.

        Args:
            module: of the model.
            what: is read.
            calls: how often one forward pass calls the module.
        """
        places = [] if self._walk is None else self._walk.places.get(module, [])
        if self._walk is None or len(places) != calls:
            yield from self._from_block(module, what, calls)
            return
        walk, first, again = self._walk, places[0], len(places) > 1
        ahead = self._still and what == "output" and not again
        at = first + ahead
        keep = places[-1] < walk.last and walk.live[at] * len(self._order) <= self._memory
        kept: list[_Values] = []
        for values in self._up_to(walk, first):
            if again:
                yield from walk.calls(walk.copied(values) if keep else values, places, what)
            else:
                yield walk.step(values, first) if ahead else walk.look(values, first, what)
            if keep:
                kept.append(values)
        self._kept, self._at = kept, at if keep else 0

    def _from_block(self, module: nn.Module, what: What, calls: int) -> Iterator[Any]:
        """By passes that start at the inputs, or at the block that the module is in."""
        (kept, at), (self._kept, self._at) = (self._kept, self._at), ([], 0)
        order, size, row = self._order, self._batch_size, self._row
        if row is None:
            yield from read(self._model, module, self._source, order, size, what=what, calls=calls)
            return
        place = row.places.get(module, 0)
        found = row.between(*((at, place, kept) if kept and at <= place else (0, place, [])))
        yield from read(row, module, self._source, order, size, what=what, calls=calls)
        self._kept, self._at = found, place

    def _up_to(self, walk: _Walk, place: int) -> Iterator[_Values]:
        kept, self._kept = self._kept, []
        if kept and self._at <= place:
            for values in kept:
                yield walk.go_on(values, self._at, place)
            return
        walk.end = place
        for _, batch in self._source.batches(self._batch_size, self._order):
            yield batch.to(device_of(self._model), channels_last=True).run(walk)


_Values = dict[fx.Node, Any]


class _Walk(nn.Module):
    """A model, traced, that runs up to any operation and on from there.

    Attributes:
        places: numbers of the operations that call a module.
        last: the number of the last of them.
        end: where :meth:`forward` stops.
        live: bytes a sample of the values that are needed from each operation on; filled by :meth:`weigh`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._signature = inspect.signature(model.forward)
        self._interpreter = fx.Interpreter(fx.GraphModule(model, Network(model).graph))
        self._nodes = list(self._interpreter.graph.nodes)
        modules = dict(self._interpreter.module.named_modules(remove_duplicate=False))
        found: dict[nn.Module, list[int]] = {}
        for place, node in enumerate(self._nodes):
            if node.op == "call_module":
                found.setdefault(modules[node.target], []).append(place)
        self.places = found
        self.last = max((places[-1] for places in found.values()), default=0)
        self.end = len(self._nodes)
        self.live: list[float] = []

    def forward(self, *args: Any, **kwargs: Any) -> _Values:
        """The values that are needed from the operation ``end`` on.

        Raises:
            TypeError: arguments that the trace has no place for.
        """
        bound = self._signature.bind(*args, **kwargs)
        parameters = self._signature.parameters
        if any(
            value is not parameters[name].default
            for name, value in bound.arguments.items()
            if _optional(parameters[name])
        ):
            raise TypeError("an argument differs from the default that was traced")
        bound.apply_defaults()
        starts = [node for node in self._nodes if node.op == "placeholder"]
        values: _Values = dict(zip(starts, bound.arguments.values(), strict=True))
        return self.go_on(values, 0, self.end)

    def go_on(self, values: _Values, start: int, end: int) -> _Values:
        """The values at the operation ``end`` from those at ``start``, which are used up."""
        for node in self._nodes[start:end]:
            if node.op != "placeholder":
                values[node] = self._run(node, values)
            for dead in self._interpreter.user_to_last_uses.get(node, []):
                values.pop(dead, None)
        return values

    def step(self, values: _Values, place: int) -> Any:
        """What the operation at which these values are gives; they go on to the next."""
        return self.go_on(values, place, place + 1)[self._nodes[place]]

    def calls(self, values: _Values, places: Sequence[int], what: What) -> Iterator[Any]:
        """What is read of each of these operations, from the values at the first one, which are used up."""
        yield copied(self.look(values, places[0], what))
        for before, place in pairwise(places):
            yield copied(self.look(self.go_on(values, before, place), place, what))

    def copied(self, values: _Values) -> _Values:
        """The same in other memory but for what never changes: what goes on from here may write into them."""
        constant = {id(value): value for node, value in values.items() if node.op == "get_attr"}
        return dict(zip(values, copy.deepcopy([*values.values()], constant), strict=True))

    def look(self, values: _Values, place: int, what: What) -> Any:
        """What is read of the operation at which these values are."""
        node = self._nodes[place]
        if what == "output":
            return self._run(node, values)
        self._interpreter.env = values
        args, kwargs = self._interpreter.fetch_args_kwargs_from_env(node)
        return given(what, args, kwargs)

    def weigh(self, values: _Values, samples: int) -> Any:
        """Fill ``live`` on the way from the inputs to the output of the model, which is returned."""
        constant = {node for node in self._nodes if node.op == "get_attr"}
        for place in range(len(self._nodes)):
            needed = Batch(tuple(value for node, value in values.items() if node not in constant))
            held = {id(tensor): tensor.nbytes for tensor in needed.tensors()}
            self.live.append(sum(held.values()) / samples)
            self.go_on(values, place, place + 1)
        return values[self._nodes[-1]]

    def _run(self, node: fx.Node, values: _Values) -> Any:
        self._interpreter.env = values
        return self._interpreter.run_node(node)


def _optional(parameter: inspect.Parameter) -> bool:
    return parameter.default is not parameter.empty


def _walk(model: nn.Module, source: Source, few: Tensor) -> _Walk | None:
    """The model as a walk, if a trial on a few inputs gives what the model gives; ``None`` where it does not."""
    _, batch = next(iter(source.batches(len(few), few)))
    batch = batch.to(device_of(model), channels_last=True)
    expected = output_tensors(batch.run(model))
    try:
        walk = _Walk(model)
        batch.run(walk)
        walk.end = 0
        found = output_tensors(walk.weigh(batch.run(walk), len(batch)))
    except Exception:
        return None
    same = len(found) == len(expected) and all(
        a.shape == b.shape and bool(torch.allclose(a.float(), b.float(), rtol=_SAME, atol=_SAME * float(b.abs().max())))
        for a, b in zip(found, expected, strict=True)
    )
    return walk if same else None
