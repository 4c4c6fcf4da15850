"""The inputs of one call of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from lloydmax.errors import DataError
from lloydmax.runtime.modes import at_home
from lloydmax.runtime.seeding import drawn

_REFUSAL = "view size is not compatible with input tensor's size and stride"
_needs_plain_strides: WeakSet[nn.Module] = WeakSet()
REAL, DECODER_REAL = "real", "decoder_real"
"""Where a sequence has something, and not padding, bool ``(N, T)``: what a batch knows beside its inputs."""


def map_leaves(value: Any, fn: Callable[[Any], Any], kinds: type | tuple[type, ...] = Tensor) -> Any:
    """``value`` with ``fn`` on every leaf of these kinds, also inside tuples, lists and mappings."""
    if isinstance(value, kinds):
        return fn(value)
    if isinstance(value, Mapping):
        return {key: map_leaves(item, fn, kinds) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_leaves(item, fn, kinds) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(map_leaves(item, fn, kinds) for item in value)
    return value


def leaves(value: Any) -> Iterator[Any]:
    """Everything in ``value`` that is not a tuple, a list or a mapping, in order."""
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, Mapping):
        yield from leaves(list(value.values()))
    else:
        yield value


def _plain(tensor: Tensor) -> Tensor:
    """A copy with the strides of its shape; ``contiguous`` would keep those of axes of length 1."""
    return tensor.clone(memory_format=torch.contiguous_format)


@dataclass(frozen=True, eq=False)
class Batch:
    """The arguments of one call ``model(*args, **kwargs)``.

    Tensors have the samples along their first axis; everything else is handed to the model as it is.

    Attributes:
        args: positional arguments.
        kwargs: arguments by name.
        whole: for inputs whose first axes are not the samples (a graph with its edges, bags with offsets, a list of
            pictures of different sizes): they stay together, and count as one sample.
        beside: what is known of the samples and no input, by name, samples first: ``labels`` of tokens, and which
            positions are ``real``, and ``decoder_real``.
    """

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    whole: bool = False
    beside: dict[str, Tensor] = field(default_factory=dict)

    def tensors(self, beside: bool = False) -> Iterator[Tensor]:
        """Every tensor of the inputs, positional ones first; with ``beside``, then those beside them."""
        held = (self.args, self.kwargs, self.beside) if beside else (self.args, self.kwargs)
        return (leaf for leaf in leaves(held) if isinstance(leaf, Tensor))

    def __len__(self) -> int:
        """The number of samples: the first axis of the first tensor that has one; 1 of a whole."""
        if self.whole:
            return 1
        for tensor in self.tensors():
            if tensor.ndim:
                return len(tensor)
        raise DataError("a batch holds no tensor with a batch axis")

    def map(self, fn: Callable[[Tensor], Any]) -> Batch:
        """The same batch with ``fn`` applied to every tensor, in the order of :meth:`tensors`."""
        return Batch(map_leaves(self.args, fn), map_leaves(self.kwargs, fn), self.whole, map_leaves(self.beside, fn))

    def to(self, device: torch.device | str, channels_last: bool = False) -> Batch:
        """The batch on ``device``; with ``channels_last``, 4-D floating tensors get that memory format."""
        non_blocking = torch.device(device).type != "cpu"

        def move(tensor: Tensor) -> Tensor:
            if channels_last and tensor.ndim == 4 and tensor.is_floating_point():
                return tensor.to(device, non_blocking=non_blocking, memory_format=torch.channels_last)
            return tensor.to(device, non_blocking=non_blocking)

        return self.map(move)

    def __getitem__(self, rows: Tensor | slice) -> Batch:
        """These rows of every tensor that has the samples along its first axis; others, and all of a whole, are copied,
        so that a model that writes into its inputs changes nothing that is held."""
        samples = None if self.whole else len(self)
        return self.map(lambda tensor: tensor[rows] if tensor.ndim and len(tensor) == samples else tensor.clone())

    @property
    def padded(self) -> bool:
        """Whether it is known that some positions are padding."""
        return any(key in self.beside and not bool(self.beside[key].all()) for key in (REAL, DECODER_REAL))

    def unpadded(self, inside: Tensor, name: str = "") -> Tensor:
        """What a model computes for these inputs, ``(N, T, ...)``, as ``(positions, ...)`` without padding; itself
        where it has other axes, or nothing is padding.

        Args:
            inside: any of it.
            name: of the module that gave it, which tells the decoder where both sides are as long.
        """
        sides = (DECODER_REAL, REAL) if "decoder" in name else (REAL, DECODER_REAL)
        real = next((self.beside[key] for key in sides if key in self.beside and self._fits(key, inside)), None)
        return inside if real is None or bool(real.all()) else inside[real.to(inside.device)]

    def _fits(self, key: str, inside: Tensor) -> bool:
        return inside.dim() > 2 and inside.shape[:2] == self.beside[key].shape

    def even(self) -> Iterator[tuple[Tensor, Batch]]:
        """The same samples in batches without padding, of sequences of one length each: pairs of rows, int64, and the
        batch of these."""
        if not self.padded:
            yield torch.arange(len(self)), self
            return
        ends = [_ends(self.beside[key]) for key in (REAL, DECODER_REAL) if key in self.beside]
        kinds, which = torch.cat(ends, 1).unique(dim=0, return_inverse=True)
        for number in range(len(kinds)):
            rows = torch.nonzero(which == number)[:, 0]
            yield rows, self[rows]._cut()

    def _cut(self) -> Batch:
        """Without the columns in which no sample has anything."""
        parts = {key: _ends(self.beside[key])[0].tolist() for key in (REAL, DECODER_REAL) if key in self.beside}
        widths = {key: self.beside[key].shape for key in parts}

        def cut(value: Any, name: str) -> Any:
            keys = sorted(parts, key=lambda key: (key == DECODER_REAL) != name.startswith(("decoder_", "tgt")))
            for key in keys:
                if isinstance(value, Tensor) and value.dim() > 1 and value.shape[:2] == widths[key]:
                    first, end = parts[key]
                    return value[:, first:end]
            return value

        args = tuple(cut(value, "") for value in self.args)
        kwargs = {name: cut(value, name) for name, value in self.kwargs.items()}
        beside = {key: cut(value, "decoder_" if key == DECODER_REAL else "") for key, value in self.beside.items()}
        return Batch(args, kwargs, self.whole, beside)

    def run(self, model: nn.Module) -> Any:
        """What ``model`` gives for these inputs; those that need plain strides (``x.view`` after a convolution)
        get them from their first refusal on."""
        batch = self.map(_plain) if model in _needs_plain_strides else self
        try:
            with at_home(model):
                return drawn(lambda: model(*batch.args, **batch.kwargs))
        except RuntimeError as error:
            if batch is not self or _REFUSAL not in str(error):
                raise
        _needs_plain_strides.add(model)
        return self.run(model)


def _ends(real: Tensor) -> Tensor:
    """The first column of each row with something in it, and the one after the last: int64 ``(N, 2)``; of rows without
    any, all of them."""
    there = real.int()
    last = real.shape[1] - there.flip(1).argmax(1)
    ends = torch.stack([there.argmax(1), last], 1)
    return torch.where(real.any(1, keepdim=True), ends, ends.new_tensor([0, real.shape[1]]))
