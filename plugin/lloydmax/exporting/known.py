"""Small numbers that are known while a program is traced: sizes of inputs, and constants of whole shapes.

Importers compute shapes in tensors, from buffers and from ``torch.tensor(x.shape)``. A trace knows no values of a
tensor, and so no sizes of a reshape by it. Here such tensors are what they hold: integers, and symbols of sizes.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import SymFloat, SymInt, Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.overrides import TorchFunctionMode

from lloydmax.student.layers import CodesHolder

_MOST = 16
"""Elements of a constant that is taken for a shape, or for a part of one."""
_plainly: ContextVar[bool] = ContextVar("whether tensors are made as they are", default=False)
_CREATE = (torch.tensor, torch.as_tensor, torch.scalar_tensor)
_CASTS = {"to", "type", "long", "int", "float", "bool", "cpu", "clone", "detach", "contiguous"}


@contextmanager
def known_numbers(model: nn.Module) -> Iterator[nn.Module]:
    """A module with all that a model holds, which computes with small constants and sizes of tensors as numbers.

    Args:
        model: that which is yielded runs; what it holds is put back afterwards.
    """
    before = [(module, dict(module._buffers)) for module in model.modules()]
    shell = nn.Module().eval()  # a graph module would be interpreted, its forward method not called
    shell.__dict__ |= {name: model.__dict__[name] for name in ("_parameters", "_buffers", "_modules")}
    forward = model.forward

    @functools.wraps(forward)
    def knowing(*args: Any, **kwargs: Any) -> Any:
        with _Knowing():
            return _mapped(forward(*args, **kwargs), Numbers.tensor, Numbers)

    shell.__dict__["forward"] = knowing
    try:
        for module, buffers in before:
            for leaf, buffer in buffers.items():
                read = leaf.isidentifier() and not isinstance(module, (CodesHolder, ParametrizationList))
                if read and _is_small(buffer):
                    del module._buffers[leaf]
                    module.__dict__[leaf] = Numbers.of(buffer)
        yield shell
    finally:
        for module, buffers in before:
            for leaf in buffers:
                module.__dict__.pop(leaf, None)
            module._buffers.clear()
            module._buffers.update(buffers)


def _is_small(buffer: Tensor | None) -> TypeGuard[Tensor]:
    return type(buffer) is Tensor and buffer.dim() < 2 and 0 < buffer.numel() <= _MOST


class Numbers:
    """What stands for a tensor of known numbers.

    Args:
        values: integers, floats, booleans, and symbols of sizes.
        dtype: of the tensor.
        device: of the tensor.
    """

    def __init__(self, values: Any, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
        self.values, self.dtype, self.device = np.asarray(values, dtype=object), dtype, torch.device(device)

    @classmethod
    def of(cls, tensor: Tensor) -> Numbers:
        """The numbers in a tensor."""
        return cls(tensor.tolist(), tensor.dtype, tensor.device)

    @property
    def shape(self) -> torch.Size:
        """As of a tensor."""
        return torch.Size(self.values.shape)

    def tensor(self) -> Tensor:
        """The tensor; symbols in it are told the trace."""
        token = _plainly.set(True)
        try:
            return torch.tensor(self.values.tolist(), dtype=self.dtype, device=self.device)
        finally:
            _plainly.reset(token)

    def numpy(self) -> Any:
        """As an array; of symbols, one of objects."""
        plain = all(isinstance(one, (bool, int, float)) for one in self.values.flat)
        return self.values.astype(str(self.dtype).removeprefix("torch.")) if plain else self.values

    def item(self) -> Any:
        """The only number."""
        return self.values.item()

    def tolist(self) -> Any:
        """All of them, in lists."""
        return self.values.tolist()

    def size(self, axis: int | None = None) -> Any:
        """As of a tensor."""
        return self.shape if axis is None else self.shape[axis]

    def numel(self) -> int:
        """How many there are."""
        return int(self.values.size)

    def dim(self) -> int:
        """Number of axes."""
        return int(self.values.ndim)

    def __iter__(self) -> Iterator[Any]:
        """The numbers themselves, so that they make a ``torch.Size``."""
        return iter(self.values.tolist())

    def __len__(self) -> int:
        return len(self.values)

    def __bool__(self) -> bool:
        return bool(self.values.item())

    def __int__(self) -> int:
        return int(self.values.item())

    __index__ = __int__

    def __float__(self) -> float:
        return float(self.values.item())

    __hash__ = object.__hash__

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in _CASTS or name in _OPERATIONS:
            return functools.partial(_applied, getattr(torch.Tensor, name, None), name, self)
        return getattr(self.tensor(), name)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _applied(func, func.__name__, *args, **(kwargs or {}))


def _operator(name: str, swapped: bool = False) -> Callable[[Any, Any], Any]:
    def apply(self: Numbers, other: Any) -> Any:
        return _applied(getattr(torch, name), name, *((other, self) if swapped else (self, other)))

    return apply


for _name, _function in {
    "add": "add", "sub": "sub", "mul": "mul", "floordiv": "floor_divide", "truediv": "true_divide", "mod": "remainder",
}.items():  # fmt: skip
    setattr(Numbers, f"__{_name}__", _operator(_function))
    setattr(Numbers, f"__r{_name}__", _operator(_function, swapped=True))
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(Numbers, f"__{_name}__", _operator(_name))
setattr(Numbers, "__getitem__", lambda self, place: _applied(Tensor.__getitem__, "__getitem__", self, place))  # noqa: B010
setattr(Numbers, "__neg__", lambda self: _applied(torch.neg, "neg", self))  # noqa: B010


class _Knowing(TorchFunctionMode):
    """Tensors made of a few sizes are numbers; functions of nothing but numbers give numbers."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _plainly.get():
            return func(*args, **kwargs)
        if func in _CREATE and args and not any(isinstance(leaf, Tensor) for leaf in _parts(args[0])):
            dtype, device = kwargs.get("dtype"), kwargs.get("device") or "cpu"
            values = np.asarray(_mapped(args[0], operator.attrgetter("values"), Numbers), dtype=object)
            if values.size <= _MOST and all(isinstance(one, (int, SymInt)) for one in values.flat):
                return Numbers(values, dtype or torch.int64, device)
        if any(isinstance(leaf, Numbers) for leaf in _parts((args, kwargs))):
            return _applied(func, func.__name__, *args, **kwargs)
        return func(*args, **kwargs)


def _applied(func: Any, name: str, *args: Any, **kwargs: Any) -> Any:
    """What a function of tensors gives: of numbers only, numbers, where it is known; else of the tensors."""
    given = list(_parts((args, kwargs)))
    numbers = [leaf for leaf in given if isinstance(leaf, Numbers)]
    if not any(isinstance(leaf, Tensor) for leaf in given):
        if name in _CASTS:
            return _cast(name, *args, **kwargs)
        if (operation := _OPERATIONS.get(name)) is not None:
            values = _mapped((args, kwargs), operator.attrgetter("values"), Numbers)
            try:
                made = operation(*values[0], **values[1])
            except (TypeError, ValueError, IndexError):
                made = None
            if isinstance(made, (list, tuple)):
                return tuple(Numbers(one, _dtype(name, numbers), numbers[0].device) for one in made)
            if made is not None:
                return Numbers(made, _dtype(name, numbers), numbers[0].device)
    args, kwargs = _mapped((args, kwargs), Numbers.tensor, Numbers)
    return func(*args, **kwargs)


def _mapped(value: Any, fn: Callable[[Any], Any], kind: type) -> Any:
    """A value with ``fn`` on all of a kind in it, also in sizes and slices."""
    if isinstance(value, kind):
        return fn(value)
    if isinstance(value, (tuple, list)):
        made = [_mapped(one, fn, kind) for one in value]
        return made if isinstance(value, list) else tuple(made)
    if isinstance(value, dict):
        return {key: _mapped(one, fn, kind) for key, one in value.items()}
    if isinstance(value, slice):
        return slice(*(_mapped(one, fn, kind) for one in (value.start, value.stop, value.step)))
    return value


def _parts(value: Any) -> Iterator[Any]:
    """All that a value holds, also in sizes and slices."""
    if isinstance(value, (tuple, list)):
        for one in value:
            yield from _parts(one)
    elif isinstance(value, dict):
        yield from _parts([*value.values()])
    elif isinstance(value, slice):
        yield from _parts([value.start, value.stop, value.step])
    else:
        yield value


def _dtype(name: str, numbers: list[Numbers]) -> torch.dtype:
    if name in _TRUTHS:
        return torch.bool
    floats = [one.dtype for one in numbers if one.dtype.is_floating_point]
    return floats[0] if floats else torch.float32 if name in ("true_divide", "div") else numbers[0].dtype


def _cast(name: str, given: Numbers, *args: Any, **kwargs: Any) -> Numbers:
    dtypes = [leaf for leaf in _parts((args, kwargs)) if isinstance(leaf, torch.dtype)]
    named = {"long": torch.int64, "int": torch.int32, "float": torch.float32, "bool": torch.bool}
    dtype = dtypes[0] if dtypes else named.get(name, given.dtype)
    values = given.values
    if given.dtype.is_floating_point and not dtype.is_floating_point:
        values = np.vectorize(int, otypes=[object])(values)
    elif dtype.is_floating_point and not given.dtype.is_floating_point:
        values = np.vectorize(lambda one: one if isinstance(one, SymFloat) else one * 1.0, otypes=[object])(values)
    return Numbers(values, dtype, given.device)


def _integers(index: Any) -> Any:
    return _mapped(index, lambda array: array.astype(np.int64), np.ndarray)


def _place(index: Any) -> Any:
    """An index as numpy takes it; a list with slices is a tuple."""
    sliced = isinstance(index, list) and any(isinstance(one, slice) for one in index)
    return _integers(tuple(index) if sliced else index)


def _squeezed(x: Any, dim: Any = None) -> Any:
    if dim is None:
        return x.squeeze()
    return x.squeeze(tuple(axis for axis in np.atleast_1d(dim) if x.shape[axis] == 1))


def _shaped(x: Any, *shape: Any) -> Any:
    return x.reshape(*map(_integers, shape))


def _halves(x: Any, size: Any, dim: int = 0) -> list[Any]:
    parts = [size] * (-(-x.shape[dim] // size)) if isinstance(size, int) else list(size)
    return np.split(x, np.cumsum(parts)[:-1], dim)


_TRUTHS = {"eq", "ne", "lt", "le", "gt", "ge", "any", "all"}
_OPERATIONS: dict[str, Callable[..., Any]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "floor_divide": operator.floordiv,
    "remainder": operator.mod, "true_divide": operator.truediv, "neg": operator.neg,
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge,
    "any": lambda x: any(bool(one) for one in x.flat), "all": lambda x: all(bool(one) for one in x.flat),
    "cat": lambda xs, dim=0: np.concatenate([np.asarray(x, object) for x in xs], dim),
    "stack": lambda xs, dim=0: np.stack([np.asarray(x, object) for x in xs], dim),
    "unsqueeze": lambda x, dim: np.expand_dims(x, int(dim)), "squeeze": _squeezed,
    "reshape": _shaped, "view": _shaped, "flatten": lambda x: x.reshape(-1),
    "__getitem__": lambda x, place: x[_place(place)],
    "index_select": lambda x, dim, index: np.take(x, _integers(index), dim), "unbind": lambda x, dim=0: list(x),
    "prod": lambda x: functools.reduce(operator.mul, x.flat, 1), "split": _halves,
    "sum": lambda x: functools.reduce(operator.add, x.flat),
}  # fmt: skip
_OPERATIONS |= {"concat": _OPERATIONS["cat"], "multiply": operator.mul, "subtract": operator.sub}
_OPERATIONS |= {f"__{name}__": _OPERATIONS[name] for name in ("add", "sub", "mul", "eq", "ne", "lt", "le", "gt", "ge")}
