"""Blocks in a row, as in a transformer: a pass that starts at any of them, in models that cannot be traced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from lloydmax.extend import Batch, Source, device_of, output_tensors
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

_FEWEST = 3
"""Blocks that make a row."""


class Row(nn.Module):
    """A model whose first blocks give what they gave before, without being run; all else in it runs as ever, so that
    masks, positions and caches are made as the model makes them.

    Attributes:
        places: of each module that is called after the first block the number of blocks that may be passed over.
        memory: bytes that the outputs of a block, in all passes, may take.
    """

    def __init__(self, model: nn.Module, blocks: Sequence[nn.Module], places: dict[nn.Module, int]) -> None:
        super().__init__()
        self._model, self._blocks, self.places = model, tuple(blocks), places
        self.memory = float("inf")
        self._given: Iterator[Any] = iter(())
        self._passed = self._until = 0
        self._found: list[Any] = []
        self._left = self.memory

    def between(self, passed: int, until: int, given: Sequence[Any]) -> list[Any]:
        """Let the next passes start behind some blocks, and keep the outputs of another one on their way.

        Args:
            passed: blocks that are not run.
            until: blocks after which outputs are kept, ``passed`` or more.
            given: what the last of ``passed`` gave in each of these passes.

        Returns:
            What the last of ``until`` gives, once the passes are over; nothing if that takes more than ``memory``.
        """
        self._passed, self._until, self._given, self._found = passed, until, iter(given), []
        self._left = self.memory
        return self._found

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model, from there on."""
        given = next(self._given) if self._passed else None
        with ExitStack() as stack:
            for block in self._blocks[: self._passed]:
                stack.enter_context(_giving(block, given))
            if self._until:
                last = self._blocks[self._until - 1]
                stack.callback(last.register_forward_hook(lambda *call: self._keep(call[-1])).remove)
            return self._model(*args, **kwargs)

    def _keep(self, output: Any) -> None:
        self._left -= sum(tensor.nbytes for tensor in Batch((output,)).tensors())
        if self._left < 0:
            self._found.clear()
        else:
            self._found.append(_apart(output))


@contextmanager
def _giving(block: nn.Module, value: Any) -> Iterator[None]:
    """A block that gives a value, whatever it gets."""
    own = vars(block).get("forward")
    vars(block)["forward"] = lambda *_, **__: _apart(value)
    try:
        yield
    finally:
        if own is None:
            del vars(block)["forward"]
        else:
            vars(block)["forward"] = own


def _apart(value: Any) -> Any:
    """A tree with tensors of its own: what follows may write to them."""
    return tree_map_only(Tensor, Tensor.clone, value)


def row_of(model: nn.Module, source: Source, few: Tensor) -> Row | None:
    """The longest row of blocks in a model, by parameters, if a trial on a few inputs gives what the model gives.

    Blocks are the members of a ``ModuleList`` or ``Sequential`` that one pass calls once each, in their order.

    Args:
        model: in evaluation mode, without gradients.
        source: inputs.
        few: int64 indices.
    """
    _, batch = next(iter(source.batches(len(few), few)))
    batch = batch.to(device_of(model), channels_last=True)
    lists = [found for found in model.modules() if isinstance(found, nn.ModuleList | nn.Sequential)]
    lists = sorted((found for found in lists if len(found) >= _FEWEST), key=_weights, reverse=True)
    members = {block for found in lists for block in found}
    called: list[nn.Module] = []
    given: dict[nn.Module, Any] = {}
    end: dict[nn.Module, int] = {}

    def keep(module: nn.Module, _: Any, output: Any) -> None:
        end[module] = len(called)
        if module in members:
            given[module] = _apart(output)

    with ExitStack() as stack:
        for module in model.modules():
            stack.callback(module.register_forward_pre_hook(lambda one, _: called.append(one)).remove)
            stack.callback(module.register_forward_hook(keep).remove)
        expected = output_tensors(batch.run(model))
    first = {module: place for place, module in reversed(list(enumerate(called)))}
    for blocks in map(list, lists):
        if any(called.count(block) != 1 for block in blocks):
            continue
        starts, over = [first[block] for block in blocks], end[blocks[-1]]
        places = {one: sum(start <= at for start in starts[1:]) + (at >= over) for one, at in first.items()}
        row = Row(model, blocks, places)
        if starts == sorted(starts) and _same(row, batch, [given[block] for block in blocks], expected):
            return row
    return None


def _weights(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _same(row: Row, batch: Batch, given: list[Any], expected: list[Tensor]) -> bool:
    """Whether the model gives the same from behind one block, half of them, and all."""
    for passed in (1, len(given) // 2, len(given)):
        row.between(passed, passed, [given[passed - 1]])
        try:
            found = output_tensors(batch.run(row))
        except Exception:
            return False
        if len(found) != len(expected) or not all(map(torch.equal, found, expected)):
            return False
    return True
