"""What a layer computes before its activation: products of its weights, and the biases that are added to them.

Linear layers and convolutions give it as their output. Recurrent layers and attention keep it to themselves, so it is
computed anew from what they are called with, layer by layer and direction by direction.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from lloydmax.extend import Batch, Channels
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

_ROWS = 4096
"""Steps of a call whose gates are looked at, at most: enough for means."""
_RECURRENT = (nn.LSTM, nn.GRU, nn.RNN)
_CELLS = (nn.LSTMCell, nn.GRUCell, nn.RNNCell)
_ATTENTION = (nn.MultiheadAttention,)


@dataclass(frozen=True)
class Sum:
    """Channels that are sums of products and biases.

    Attributes:
        weights: names, in the module, of the weights of the products.
        biases: names of the biases, each of which can take a shift of the sum.
        start, stop: the first channel of these biases, and of the products, and the one after the last.
    """

    weights: tuple[str, ...]
    biases: tuple[str, ...]
    start: int = 0
    stop: int | None = None

    @property
    def channels(self) -> slice:
        """Which channels of the biases."""
        return slice(self.start, self.stop)


Products = list[dict[str, Tensor]]
"""Of each sum: what each of its weights gives, ``(channels, n)``."""


class Stage(ABC):
    """Sums of a module that depend on no other sum of it but those of the stages before, and on themselves over time.

    Attributes:
        sums: of the stage.
        called: whether it is told by what the module is called with, else by what it returns.
        again: whether a sum changes what its weights are multiplied by later on, so that a second round pays.
        biased: whether what the weights give has the biases in it.
    """

    sums: tuple[Sum, ...]
    called = True
    again = False
    biased = False

    @abstractmethod
    def products(self, module: Any, seen: Any) -> Products:
        """What the weights give for one call: ``seen`` is a :class:`Batch`, or what the module returned."""

    def linear(self, module: nn.Module) -> bool:
        """Whether what the weights give is linear in them."""
        return True

    def operands(self, module: Any, seen: Any) -> dict[str, Tensor]:
        """What each weight multiplies, ``(groups, n, columns)``, each group for as many rows of the weight; of weights
        that are missing, others have to know."""
        return {}

    def after(self, module: Any, seen: Any) -> Any:
        """What the next stage gets in place of ``seen``."""
        return seen


def stages(module: nn.Module) -> list[Stage]:
    """The stages of a module, in the order in which they run; empty: it is none of the known kinds."""
    kind: Any = parametrize.type_before_parametrizations(module)
    if isinstance(module, (nn.Linear, _ConvNd)):
        return [_Plain(module)]
    standard = [base for base in (*_RECURRENT, *_CELLS, *_ATTENTION) if isinstance(module, base)]
    if not standard or kind.forward is not standard[0].forward:
        return []
    if isinstance(module, nn.RNNBase):
        return [_Layer(module, number) for number in range(module.num_layers)]
    return [_Cell(module)] if isinstance(module, nn.RNNCellBase) else [_Projections(module), _Attended()]


def tensor_at(module: nn.Module, name: str) -> Tensor | None:
    """A parameter of a module by its name in it, decoded where a codebook holds it; ``None`` where it has none."""
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, Tensor) else None


def _by_channel(x: Tensor, axis: int = -1) -> Tensor:
    return x.transpose(0, axis).reshape(x.shape[axis], -1).float()


class _Plain(Stage):
    called = False
    biased = True

    def __init__(self, module: nn.Module) -> None:
        self._spatial = len(module.kernel_size) if isinstance(module, _ConvNd) else None
        self.sums = (Sum(("weight",), ("bias",)),)

    def linear(self, module: nn.Module) -> bool:
        return Channels(module).linear

    def products(self, module: Any, seen: Any) -> Products:
        y = module.forward(*seen.args, **seen.kwargs) if isinstance(seen, Batch) else seen
        return [{"weight": _by_channel(y, -1 if self._spatial is None else y.dim() - self._spatial - 1)}]


class _Gates:
    """The gates of one direction of a recurrent layer, or of a cell.

    Attributes:
        sums: of which the gates are made; the candidate of a GRU is made of two.
    """

    def __init__(self, module: Any, suffix: str = "") -> None:
        ih, hh, bias_ih, bias_hh = (f"{kind}_{part}{suffix}" for kind in ("weight", "bias") for part in ("ih", "hh"))
        self._weights = ih, hh
        self.sums = [Sum((ih, hh), (bias_ih, bias_hh))]
        if isinstance(module, (nn.GRU, nn.GRUCell)):
            late = 2 * module.hidden_size
            both = Sum((ih, hh), (bias_ih, bias_hh), stop=late)
            self.sums = [both, Sum((ih,), (bias_ih,), late), Sum((hh,), (bias_hh,), late)]

    def operands(self, x: Tensor, h: Tensor) -> dict[str, Tensor]:
        """Of inputs ``(n, inputs)`` and states ``(n, states)``."""
        step = -(-len(x) // _ROWS)
        return dict(zip(self._weights, (x[None, ::step], h[None, ::step]), strict=True))

    def products(self, module: Any, x: Tensor, h: Tensor) -> Products:
        """Of inputs ``(n, inputs)`` and states ``(n, states)``."""
        given = self.operands(x, h).items()
        every = {name: F.linear(rows[0], getattr(module, name)).T.float() for name, rows in given}
        return [{name: every[name][one.channels] for name in one.weights} for one in self.sums]


class _Cell(Stage):
    again = True

    def __init__(self, module: Any) -> None:
        self._gates = _Gates(module)
        self.sums = tuple(self._gates.sums)

    def products(self, module: Any, seen: Batch) -> Products:
        return self._gates.products(module, *self._given(module, seen))

    def operands(self, module: Any, seen: Batch) -> dict[str, Tensor]:
        return self._gates.operands(*self._given(module, seen))

    @staticmethod
    def _given(module: Any, seen: Batch) -> tuple[Tensor, Tensor]:
        given = dict(zip(("input", "hx"), seen.args, strict=False)) | seen.kwargs
        x, state = given["input"], given.get("hx")
        h = state[0] if isinstance(state, (tuple, list)) else state
        h = x.new_zeros(*x.shape[:-1], module.hidden_size) if h is None else h
        return x.reshape(-1, x.shape[-1]), h.reshape(-1, h.shape[-1])


@dataclass(frozen=True)
class _Sequences:
    """``(N, T, features)``, the length of each where they differ, and the first states of all layers, if any."""

    x: Tensor
    lengths: Tensor | None
    first: tuple[Tensor, ...] | None

    @classmethod
    def of(cls, module: Any, call: Batch) -> _Sequences:
        given = dict(zip(("input", "hx"), call.args, strict=False)) | call.kwargs
        x, first, lengths = given["input"], given.get("hx"), None
        if first is not None:
            first = tuple(first) if isinstance(first, (tuple, list)) else (first,)
        if isinstance(x, PackedSequence):
            x, lengths = pad_packed_sequence(x, batch_first=True)
            return cls(x, lengths.to(x.device), first)
        if x.dim() == 2:
            return cls(x[None], None, first and tuple(state[:, None] for state in first))
        return cls(x if module.batch_first else x.transpose(0, 1), None, first)

    def reversed(self, x: Tensor) -> Tensor:
        """Each sequence from its end; what follows the end stays."""
        if self.lengths is None:
            return x.flip(1)
        steps = torch.arange(x.shape[1], device=x.device).expand(len(x), -1)
        index = torch.where(steps < self.lengths[:, None], self.lengths[:, None] - 1 - steps, steps)
        return x.gather(1, index[..., None].expand_as(x))

    def flat(self, x: Tensor) -> Tensor:
        """``(n, features)``: what belongs to a sequence."""
        if self.lengths is None:
            return x.flatten(0, 1)
        return x[torch.arange(x.shape[1], device=x.device) < self.lengths[:, None]]


class _Layer(Stage):
    """One layer of an ``nn.LSTM``, ``nn.GRU`` or ``nn.RNN``, in both directions where it has two."""

    again = True

    def __init__(self, module: Any, number: int) -> None:
        self._number = number
        self._suffixes = [f"_l{number}{end}" for end in (["", "_reverse"] if module.bidirectional else [""])]
        self._gates = [_Gates(module, suffix) for suffix in self._suffixes]
        self.sums = tuple(one for gates in self._gates for one in gates.sums)

    def products(self, module: Any, seen: Any) -> Products:
        each = zip(self._gates, self._given(module, seen), strict=True)
        return [product for gates, given in each for product in gates.products(module, *given)]

    def operands(self, module: Any, seen: Any) -> dict[str, Tensor]:
        each = zip(self._gates, self._given(module, seen), strict=True)
        return {name: rows for gates, given in each for name, rows in gates.operands(*given).items()}

    def _given(self, module: Any, seen: Any) -> Iterator[tuple[Tensor, Tensor]]:
        sequences = self._sequences(module, seen)
        for direction in range(len(self._gates)):
            x = sequences.reversed(sequences.x) if direction else sequences.x
            output, first = self._run(module, sequences, direction)
            yield sequences.flat(x), sequences.flat(torch.cat([first[:, None], output[:, :-1]], 1))

    def after(self, module: Any, seen: Any) -> _Sequences:
        sequences = self._sequences(module, seen)
        outputs = [self._run(module, sequences, direction)[0] for direction in range(len(self._gates))]
        outputs[1:] = [sequences.reversed(output) for output in outputs[1:]]
        return _Sequences(torch.cat(outputs, 2), sequences.lengths, sequences.first)

    @staticmethod
    def _sequences(module: Any, seen: Any) -> _Sequences:
        return seen if isinstance(seen, _Sequences) else _Sequences.of(module, seen)

    def _run(self, module: Any, sequences: _Sequences, direction: int) -> tuple[Tensor, Tensor]:
        """Outputs ``(N, T, states)`` in the order in which the direction runs, and the first of these states."""
        x, suffix = sequences.x, self._suffixes[direction]
        x = sequences.reversed(x) if direction else x
        names = [f"weight_ih{suffix}", f"weight_hh{suffix}"]
        names += [f"bias_ih{suffix}", f"bias_hh{suffix}"] if module.bias else []
        names += [f"weight_hr{suffix}"] if getattr(module, "proj_size", 0) else []
        weights = [getattr(module, name) for name in names]
        sizes = [getattr(module, "proj_size", 0) or module.hidden_size, module.hidden_size]
        place = self._number * len(self._gates) + direction
        states = [x.new_zeros(1, len(x), size) for size in sizes[: 2 if module.mode == "LSTM" else 1]]
        if sequences.first is not None:
            states = [state[place : place + 1].contiguous() for state in sequences.first]
        run: Any = getattr(torch, module.mode.lower())
        hx = states if module.mode == "LSTM" else states[0]
        return run(x, hx, weights, module.bias, 1, 0.0, False, False, True)[0], states[0][0]


class _Projections(Stage):
    """Queries, keys and values of an ``nn.MultiheadAttention``."""

    def __init__(self, module: Any) -> None:
        size = module.embed_dim
        parts = [(part * size, (part + 1) * size) for part in range(3)]
        self._one = bool(module._qkv_same_embed_dim)
        names = ["in_proj_weight"] * 3 if self._one else ["q_proj_weight", "k_proj_weight", "v_proj_weight"]
        self._names = names
        self.sums = tuple(Sum((n,), ("in_proj_bias",), *part) for n, part in zip(names, parts, strict=True))

    def products(self, module: Any, seen: Batch) -> Products:
        rows = [one.channels if self._one else slice(None) for one in self.sums]
        weights = [getattr(module, name)[row] for name, row in zip(self._names, rows, strict=True)]
        found = [_by_channel(F.linear(x, weight)) for x, weight in zip(self._given(seen), weights, strict=True)]
        return [{name: one} for name, one in zip(self._names, found, strict=True)]

    def operands(self, module: Any, seen: Batch) -> dict[str, Tensor]:
        given = [x.reshape(1, -1, x.shape[-1]) for x in self._given(seen)]
        if not self._one:
            return dict(zip(self._names, given, strict=True))
        return {self._names[0]: torch.cat(given)} if len({x.shape for x in given}) == 1 else {}

    @staticmethod
    def _given(seen: Batch) -> list[Tensor]:
        names = ("query", "key", "value")
        given = dict(zip(names, seen.args, strict=False)) | seen.kwargs
        return [given[name] for name in names]


class _Attended(Stage):
    """The output of an ``nn.MultiheadAttention``."""

    biased = True

    def __init__(self) -> None:
        self.sums = (Sum(("out_proj.weight",), ("out_proj.bias",)),)

    def products(self, module: Any, seen: Batch) -> Products:
        return [{"out_proj.weight": _by_channel(module.forward(*seen.args, **seen.kwargs)[0])}]
