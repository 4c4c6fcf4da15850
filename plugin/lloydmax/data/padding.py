"""Sequences of different lengths in one batch: which positions are real, and what stands in the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lloydmax.data.batch import DECODER_REAL, REAL, Batch
from lloydmax.errors import DataError

MASKS = ("attention_mask", "padding_mask", "src_key_padding_mask", "key_padding_mask")
"""Inputs ``(N, T)`` that tell padding, by their usual names."""
DECODER_MASKS = ("decoder_attention_mask", "tgt_key_padding_mask")
"""The same of a decoder."""
LENGTHS = ("lengths", "input_lengths", "seq_lengths", "src_lengths", "x_lengths")
"""Inputs ``(N,)`` that tell how long each sequence is, by their usual names."""
DECODER_INPUT = "decoder_input_ids"
LABELS = "labels"
NO_LABEL = -100
"""In place of a label: the position does not count (PyTorch's ``ignore_index``)."""
_TRUE_IS_PADDING = "key_padding_mask"
_OF_DECODER = ("decoder_", "tgt")
_POSITIONS = "position_ids"
_NO_MASK = (
    "the model takes no attention_mask that would tell the padding of shorter ones: give sequences of one length, as "
    "lloydmax.texts(source, tokenizer=..., length=...) cuts them, or batches of one length each"
)


def real_positions(mask: Any, name: object) -> Tensor | None:
    """Where a mask ``(N, T)`` has something: bool ``(N, T)``; ``None``: it is none, or one that is added to scores.

    Zeros are padding; of ``key_padding_mask`` and its kin, and of a ``padding_mask`` in booleans, as in ``torch.nn``,
    what is not zero.

    Args:
        mask: an input.
        name: of it.
    """
    if not isinstance(mask, Tensor) or mask.dim() != 2 or bool((mask < 0).any()):
        return None  # a mask that is added to scores has zeros where there is no padding
    torch_like = str(name).endswith(_TRUE_IS_PADDING) or (name == "padding_mask" and mask.dtype == torch.bool)
    return mask == 0 if torch_like else mask != 0


@dataclass(frozen=True)
class Padding:
    """How the inputs of one model are padded.

    Attributes:
        names: of the parameters of its ``forward``, in order.
        blank: the token that stands for nothing.
        start: the token with which a decoder begins; ``None``: not known.
        moves: whether padding in front of a sequence goes behind it: where positions are counted from the first
            column, as in models that take ``position_ids``, a sequence is then at the positions that it has alone.
    """

    names: tuple[str, ...]
    blank: int = 0
    start: int | None = None
    moves: bool = False

    @classmethod
    def of(cls, model: nn.Module, names: Sequence[str]) -> Padding:
        """As the configuration of a model says, else its first table of tokens."""
        config = getattr(model, "config", None)
        table = next((m for m in model.modules() if isinstance(m, nn.Embedding)), None)
        found = _first_whole(getattr(config, "pad_token_id", None), getattr(table, "padding_idx", None))
        start = _first_whole(
            *(getattr(config, name, None) for name in ("decoder_start_token_id", "bos_token_id", "pad_token_id"))
        )
        return cls(tuple(names), found or 0, start, _POSITIONS in names and DECODER_INPUT not in names)

    @property
    def tells(self) -> bool:
        """Whether the model takes a mask."""
        return any(mask in self.names for mask in MASKS)

    def tidied(self, batch: Batch) -> Batch:
        """The batch with the same in all padding: what stood there counts for nothing, whatever the model does with it.
        It knows which positions are real; samples that are nothing but padding stay as they are."""
        if batch.whole:
            return batch
        inputs = dict(self._named(batch))
        changed: dict[str | int, Tensor] = {}
        beside = dict(batch.beside)
        for masks, key in ((MASKS, REAL), (DECODER_MASKS, DECODER_REAL)):
            real = self._real(inputs, masks, beside.get(key))
            if real is None and key == REAL:
                real = self._of_lengths(inputs)
            if real is None:
                continue
            if bool(real.all()):
                beside[key] = real
                continue
            known = real.any(1, keepdim=True)
            ahead = real.int().argmax(1) * (known[:, 0] & (self.moves and key == REAL))
            kept = _moved(real, ahead) | ~known
            for place, tensor in inputs.items():
                name = self._name(place)
                if tensor.shape[:2] == real.shape and tensor.dim() in (2, 3) and _of_decoder(name) == (key != REAL):
                    moved = _moved(tensor, ahead)
                    changed[place] = moved if name in masks else _filled(moved, kept, self._filling(name, place))
            labels = beside.get(LABELS)
            if labels is not None and labels.shape == real.shape and (DECODER_REAL in beside) == (key != REAL):
                beside[LABELS] = _filled(_moved(labels, ahead), kept, NO_LABEL)
            beside[key] = _moved(real, ahead)
        args = tuple(changed.get(place, value) for place, value in enumerate(batch.args))
        kwargs = {name: changed.get(name, value) for name, value in batch.kwargs.items()}
        return replace(batch, args=args, kwargs=kwargs, beside=beside)

    def completed(self, batch: Batch) -> Batch:
        """The batch with what its decoder reads, where only the labels are given: the same, one later, after the token
        with which it begins; positions without a label are padding."""
        labels = batch.beside.get(LABELS)
        if labels is None or DECODER_INPUT not in self.names or DECODER_INPUT in batch.kwargs or batch.args:
            return batch
        first = labels.new_full((len(labels), 1), self.blank if self.start is None else self.start)
        given = torch.cat([first, labels[:, :-1]], 1)
        kwargs = batch.kwargs | {DECODER_INPUT: given.masked_fill(given < 0, self.blank)}
        real = labels != NO_LABEL
        if (name := DECODER_MASKS[0]) in self.names:
            kwargs[name] = real.long()
        return replace(batch, kwargs=kwargs, beside=batch.beside | {DECODER_REAL: real})

    def merged(self, batches: Sequence[Batch]) -> Batch:
        """Batches of the same inputs in one, sequences padded behind to the length of the longest.

        Raises:
            DataError: they differ in something else, or the model has no input that would tell what is padding.
        """
        first = batches[0]
        told = {key for key in (REAL, DECODER_REAL) if key in first.beside}
        if any(_slots(batch) != _slots(first) for batch in batches):
            raise DataError("some samples have other inputs than the others: give all of them the same")

        def join(name: str, key: str | int, values: list[Any]) -> Any:
            if not isinstance(values[0], Tensor):
                return values[0]
            width = max(value.shape[1] if value.dim() > 1 else 0 for value in values)
            side = DECODER_REAL if _of_decoder(name) else REAL
            even = all(value.dim() < 2 or value.shape[1] == width for value in values)
            if not even and not (told & {side, name} or name == LABELS):
                raise DataError(f"sequences of different lengths, {_said(values)}, and {_NO_MASK}")
            if len({(value.dim(), value.shape[2:]) for value in values}) > 1:
                raise DataError(f"samples of different sizes, {_said(values)}: make all of them alike")
            return torch.cat([self._widened(value, width, name, key) for value in values])

        args = tuple(join(self._name(n), n, [b.args[n] for b in batches]) for n in range(len(first.args)))
        kwargs = {name: join(name, name, [b.kwargs[name] for b in batches]) for name in first.kwargs}
        beside = {name: join(name, name, [b.beside[name] for b in batches]) for name in first.beside}
        return Batch(args, kwargs, beside=beside)

    def masked(self, batch: Batch) -> Batch:
        """The batch, unpadded, with the mask that the model takes for it, unless there is one."""
        name = next((mask for mask in MASKS if mask in self.names), None)
        given = {*batch.kwargs, *map(self._name, range(len(batch.args)))}
        ids = next((t for t in batch.tensors() if t.dim() == 2 and not t.is_floating_point()), None)
        if name is None or ids is None or given & set(MASKS) or batch.whole:
            return batch
        inverted = name.endswith(_TRUE_IS_PADDING) or name == "padding_mask"
        mask = torch.zeros_like(ids, dtype=torch.bool) if inverted else torch.ones_like(ids, dtype=torch.int64)
        return replace(batch, kwargs=batch.kwargs | {name: mask})

    def _widened(self, value: Tensor, width: int, name: str, place: str | int) -> Tensor:
        if value.dim() < 2 or value.shape[1] == width:
            return value
        filling = self._filling(name, place)
        if name == LABELS:
            filling = NO_LABEL
        elif name in (*MASKS, *DECODER_MASKS):
            filling = int(name.endswith(_TRUE_IS_PADDING) or (name == "padding_mask" and value.dtype == torch.bool))
        more = value.new_full((len(value), width - value.shape[1], *value.shape[2:]), filling)
        return torch.cat([value, more], 1)

    def _named(self, batch: Batch) -> Iterator[tuple[str | int, Tensor]]:
        places: list[tuple[str | int, Any]] = [*enumerate(batch.args), *batch.kwargs.items()]
        for place, value in places:
            if isinstance(value, Tensor):
                yield place, value

    def _name(self, place: str | int) -> str:
        if isinstance(place, str):
            return place
        return self.names[place] if place < len(self.names) else ""

    def _real(self, inputs: Mapping[str | int, Tensor], masks: Sequence[str], known: Tensor | None) -> Tensor | None:
        given = ((value, self._name(place)) for place, value in inputs.items() if self._name(place) in masks)
        return next((real for one in given if (real := real_positions(*one)) is not None), known)

    def _of_lengths(self, inputs: Mapping[str | int, Tensor]) -> Tensor | None:
        """What an input with the length of every sequence tells."""
        named = ((self._name(place), tensor) for place, tensor in inputs.items())
        lengths = next((t for name, t in named if name in LENGTHS and t.dim() == 1 and not t.is_floating_point()), None)
        if lengths is None or not len(lengths) or int(lengths.min()) < 1:
            return None
        sequences = (
            t for t in inputs.values() if t.dim() > 1 and len(t) == len(lengths) and t.shape[1] >= lengths.max()
        )
        width = next((t.shape[1] for t in sequences), None)
        return None if width is None else torch.arange(width, device=lengths.device) < lengths[:, None]

    def _filling(self, name: str, place: str | int) -> int:
        return self.blank if name.endswith("input_ids") or place == 0 else 0


def _slots(batch: Batch) -> Any:
    return len(batch.args), batch.kwargs.keys(), batch.beside.keys()


def _said(values: Sequence[Tensor]) -> str:
    return " and ".join("x".join(map(str, shape)) for shape in dict.fromkeys(tuple(v.shape[1:]) for v in values))


def _of_decoder(name: str) -> bool:
    return name.startswith(_OF_DECODER)


def _moved(tensor: Tensor, ahead: Tensor) -> Tensor:
    """Each row so many columns to the front, what was there behind the others."""
    if not bool(ahead.any()):
        return tensor
    columns = (torch.arange(tensor.shape[1], device=ahead.device) + ahead[:, None]) % tensor.shape[1]
    return tensor[torch.arange(len(tensor), device=ahead.device)[:, None], columns]


def _filled(tensor: Tensor, real: Tensor, value: int) -> Tensor:
    number = value if not tensor.is_floating_point() and tensor.dtype != torch.bool else 0
    return tensor.masked_fill(~real.view(*real.shape, *(1,) * (tensor.dim() - 2)), number)


def _first_whole(*values: Any) -> int | None:
    found = (value for value in values if isinstance(value, int) and not isinstance(value, bool) and value >= 0)
    return next(found, None)
