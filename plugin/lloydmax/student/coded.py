"""A weight of codes as a tensor: products run from its codes or in int8, everything else on the decoded weight.

Modules that are no linear layers of PyTorch, GPT-2's ``Conv1D`` or stacked experts, hand their weights to operations
themselves. What they get of a weight that a kernel serves looks like the weight and has no memory of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lloydmax.codebook.codebook import Codebook
from lloydmax.codebook.layout import Layout
from lloydmax.student import kernels
from lloydmax.student.kernels import CodedWeight
from lloydmax.student.layers import CodesHolder

_ADDMM = (torch.addmm, torch.baddbmm)
_MATMUL = (torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__)
_CONVOLUTIONS = (torch.conv1d, torch.conv2d, F.conv1d, F.conv2d)
_GROUPED = tuple(one for one in (getattr(F, "grouped_mm", None), getattr(torch, "_grouped_mm", None)) if one)
_TURNS = (torch.t, Tensor.t, Tensor.T.__get__, Tensor.mT.__get__, Tensor.transpose, torch.transpose)  # type: ignore[attr-defined]
_SAME = (Tensor.contiguous, Tensor.detach, Tensor.to, Tensor.type_as)
_ASKED = (
    Tensor.dim, Tensor.size, Tensor.numel, Tensor.is_floating_point, Tensor.__len__,
    *(getattr(Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "layout", "is_cuda")),
)  # fmt: skip
"""What is asked of a tensor, and needs no values."""


@dataclass(frozen=True)
class Frozen:
    """A weight of codes that does not learn, as a :class:`~lloydmax.student.coded.CodedTensor` takes it."""

    holder: CodesHolder
    centroids: Tensor

    @property
    def kernel(self) -> str | None:
        """What it runs with."""
        return self.holder.kernel

    @property
    def cached(self) -> bool:
        """Whether the decoded weight is kept."""
        return self.holder.cached

    @property
    def layout(self) -> Layout:
        """Of the weight."""
        return self.holder.layout

    @property
    def planes(self) -> Tensor | None:
        """Its packed codes."""
        return self.holder.planes

    def plain(self) -> Tensor:
        """The dense weight."""
        return self.holder.decoded(self.centroids)

    def __call__(self) -> Tensor:
        """The dense weight."""
        return self.plain()

    def codebook(self) -> Codebook:
        """The centroids and codes (not copied)."""
        return self.holder.holding(self.centroids)

    def int8(self) -> tuple[Tensor, Tensor, Tensor]:
        """What int8 runs with."""
        return self.holder.in_int8(self.centroids)


class CodedTensor(Tensor):
    """A weight of codes, or one of its matrices, perhaps transposed."""

    _weight: CodedWeight
    _matrix: int | None
    _turned: bool

    @staticmethod
    def __new__(cls, weight: CodedWeight, matrix: int | None = None, turned: bool = False) -> CodedTensor:
        """Wrap a weight.

        Args:
            weight: that a kernel serves.
            matrix: one of several; ``None``: all of them.
            turned: with its last two axes swapped.
        """
        shape = list(weight.layout.shape)
        if matrix is not None:
            shape = shape[1:]
        if turned:
            shape[-2:] = shape[:-3:-1]
        made: CodedTensor = Tensor._make_wrapper_subclass(
            cls, shape, dtype=weight.centroids.dtype, device=weight.centroids.device
        )
        made._weight, made._matrix, made._turned = weight, matrix, turned
        return made

    def plain(self) -> Tensor:
        """The decoded weight."""
        dense = self._weight.plain()
        dense = dense if self._matrix is None else dense[self._matrix]
        return dense.mT if self._turned else dense

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation."""
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            if (found := _seen(func, args, kwargs)) is not None:
                return found
            if func in _ASKED:
                return func(*args, **kwargs)
            return func(*_plain(args), **{name: _plain(value) for name, value in kwargs.items()})

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """What reaches PyTorch's core, from C++, gets the decoded weight."""
        return func(*_plain(args), **{name: _plain(value) for name, value in (kwargs or {}).items()})

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.plain().clone().__reduce_ex__(protocol)


def _plain(value: Any) -> Any:
    if isinstance(value, CodedTensor):
        return value.plain()
    if isinstance(value, (tuple, list)):
        return type(value)(map(_plain, value)) if type(value) in (tuple, list) else value
    return value


def _seen(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """What a kernel, or a look at a part of the weight, gives; ``None``: neither will do."""
    first = args[0] if args else None
    if isinstance(first, CodedTensor):
        several = first._matrix is None and first.dim() == 3
        if func is Tensor.__getitem__ and several and (place := _place(args[1], len(first))) is not None:
            return CodedTensor(first._weight, place, first._turned)
        if func in _TURNS and _swaps_last(func, args[1:], first.dim()):
            return CodedTensor(first._weight, first._matrix, not first._turned)
        if func in _SAME and not kwargs and all(one in (first.dtype, first.device) for one in args[1:]):
            return first
        return None
    if func is F.linear:
        given = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
        if isinstance(given["weight"], CodedTensor):
            return _product(given["input"], given["weight"], given.get("bias"), True)
    elif func is F.embedding:
        given = dict(zip(("input", "weight"), args, strict=False)) | kwargs
        plain = len(args) <= 3 and not {"max_norm", "scale_grad_by_freq"} & {key for key in kwargs if kwargs[key]}
        weight = given["weight"]
        if plain and isinstance(weight, CodedTensor) and weight._matrix is None and not weight._turned:
            return kernels.embedding(given["input"], weight._weight)
    elif func in _CONVOLUTIONS:
        names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
        given = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
        given |= dict(zip(names, args, strict=False)) | kwargs
        weight = given.pop("weight")
        if isinstance(weight, CodedTensor) and weight._matrix is None and not weight._turned:
            return kernels.convolution(weight=weight._weight, **given)
    elif func in _MATMUL and len(args) == 2 and isinstance(first, Tensor) and not kwargs:
        return _product(first, args[1], None, False)
    elif func in _ADDMM and len(args) == 3 and not kwargs and isinstance(first, Tensor) and first.dim() == 1:
        return _product(args[1], args[2], first, False)
    elif func in _GROUPED and isinstance(args[1], CodedTensor):
        return _grouped(args[0], args[1], kwargs.get("offs", args[2] if len(args) > 2 else None))
    return None


def _product(x: Tensor, weight: Any, bias: Tensor | None, rows: bool) -> Tensor | None:
    """``x`` times a matrix ``(inputs, outputs)``, or ``(outputs, inputs)`` where it has outputs as rows."""
    if not isinstance(weight, CodedTensor) or isinstance(bias, CodedTensor) or weight.dim() != 2:
        return None
    coded, layout = weight._weight, weight._weight.layout
    first = layout.axis == (0 if len(layout.shape) == 2 else 1)
    if (first != weight._turned) != rows:
        return None  # its channels lie along the other axis
    if coded.kernel in kernels.FROM_CODES:
        return kernels.from_codes(x, coded, bias)
    return kernels.few(x, coded, bias, weight._matrix or 0)


def _grouped(x: Tensor, weight: CodedTensor, ends: Tensor | None) -> Tensor | None:
    """Inputs in groups, each times a matrix of its own."""
    if ends is None or weight.dim() != 3 or x.dim() != 2:
        return None
    parts, start = [], 0
    for number, end in enumerate(ends.tolist()):
        if end > start:
            part = _product(x[start:end], CodedTensor(weight._weight, number, weight._turned), None, False)
            if part is None:
                return None
            parts.append(part)
        start = end
    rest = x.new_zeros(len(x) - start, weight.shape[-1])
    return torch.cat([*parts, rest])


def _place(index: Any, count: int) -> int | None:
    """Which matrix an index takes."""
    if isinstance(index, Tensor) and index.dim() == 0 and not index.is_floating_point() and index.dtype != torch.bool:
        index = int(index)
    if not isinstance(index, int) or isinstance(index, bool) or not -count <= index < count:
        return None
    return index % count


def _swaps_last(func: Any, axes: Any, count: int) -> bool:
    if func in (Tensor.transpose, torch.transpose):
        return len(axes) == 2 and all(isinstance(one, int) for one in axes) and {one % count for one in axes} == {
            count - 2, count - 1
        }  # fmt: skip
    return count == 2 or func is Tensor.mT.__get__  # type: ignore[attr-defined]
