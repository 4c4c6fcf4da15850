"""What a weight multiplies, in whatever way a module does it: seen while the module runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lloydmax_strategies.reconstruction.gram import NotPlain

_MATMUL = (torch.matmul, torch.mm, torch.bmm, Tensor.matmul, Tensor.mm, Tensor.bmm, Tensor.__matmul__)
_ADDMM = (torch.addmm, torch.baddbmm, Tensor.addmm, Tensor.baddbmm)
_GROUPED = tuple(
    one for one in (getattr(F, "grouped_mm", None), getattr(torch, "_grouped_mm", None)) if one is not None
)
Rows = tuple[slice, Tensor]
"""Of these matrices, what they multiply: ``(matrices or 1, n, columns)``."""


def operands(run: Callable[[], Any], weight: Tensor, axis: int, matrices: int) -> list[Rows]:
    """What a weight multiplies while a module runs.

    Args:
        run: runs it; every use of the weight has the memory of ``weight``.
        weight: dense, contiguous.
        axis: of its outputs.
        matrices: that lie along its first axis.

    Raises:
        NotPlain: something else is done with the weight, or it is not used at all.
    """
    with _Watch(weight, axis, matrices) as watch:
        run()
    if not watch.found:
        raise NotPlain
    return watch.found


class _Watch(TorchFunctionMode):
    """Sees the products with one weight."""

    def __init__(self, weight: Tensor, axis: int, matrices: int) -> None:
        super().__init__()
        self.found: list[Rows] = []
        self._memory, self._size = weight.untyped_storage().data_ptr(), weight.numel() // matrices
        self._matrices, rows = matrices, weight.shape[0] // matrices
        shape = (rows, *weight.shape[1:]) if rows > 1 or weight.dim() == 2 else tuple(weight.shape[1:])
        self._shape, self._outputs_first = shape, axis == (0 if len(shape) == weight.dim() else 1)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if any(self._is_weight(one) for one in (*args, *kwargs.values())):
            seen = list(self._seen(func, args, kwargs))
            if not seen and any(isinstance(one, Tensor) and not self._is_weight(one) for one in _each(result)):
                raise NotPlain
            self.found += seen
        return result

    def _is_weight(self, value: Any) -> bool:
        return isinstance(value, Tensor) and _memory(value) == self._memory

    def _seen(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Iterator[Rows]:
        if func is F.linear:
            given = dict(zip(("input", "weight"), args, strict=False)) | kwargs
            yield from self._product(given["input"], given["weight"].mT)
        elif func in _MATMUL:
            yield from self._either(*args[:2])
        elif func is Tensor.__rmatmul__:
            yield from self._either(args[1], args[0])
        elif func in _ADDMM:
            yield from self._either(*args[1:3])
        elif func in _GROUPED:
            yield from self._grouped(args[0], args[1], kwargs.get("offs", args[2] if len(args) > 2 else None))
        elif func is torch.einsum and len(args) == 3:
            yield from self._summed(*args)

    def _either(self, left: Tensor, right: Tensor) -> Iterator[Rows]:
        if self._is_weight(left):
            left, right = right.mT, left.mT
        yield from self._product(left, right)

    def _product(self, x: Tensor, weight: Tensor) -> Iterator[Rows]:
        """What is multiplied from the left by a weight ``(inputs, outputs)``, or a stack of such."""
        where = self._place(weight)
        if weight.dim() == 2:
            yield where, x.reshape(1, -1, x.shape[-1])
        elif x.dim() == 3 and len(x) in (1, len(weight)):
            yield where, x if len(x) > 1 else x.expand(len(weight), -1, -1)
        else:
            raise NotPlain

    def _grouped(self, x: Tensor, weight: Tensor, ends: Tensor | None) -> Iterator[Rows]:
        if ends is None or weight.dim() != 3 or x.dim() != 2:
            raise NotPlain
        self._place(weight)
        start = 0
        for number, end in enumerate(ends.tolist()):
            yield slice(number, number + 1), x[None, start:end]
            start = end

    def _summed(self, equation: str, first: Tensor, second: Tensor) -> Iterator[Rows]:
        """A sum of two: letters of both and the result are matrices, letters of both alone are inputs."""
        terms, _, output = equation.replace(" ", "").partition("->")
        pair = terms.split(",")
        if "." in terms or len(pair) != 2:
            raise NotPlain
        mine = 0 if self._is_weight(first) else 1
        weight, x = (first, second)[mine], (first, second)[1 - mine]
        letters, others = pair[mine], pair[1 - mine]
        stack = [one for one in letters if one in others and one in output]
        inputs = [one for one in letters if one in others and one not in output]
        own = [one for one in letters if one not in others]
        if len(inputs) != 1 or len(own) not in (1, 2) or len(stack) + len(own) + 1 != len(letters) > 3:
            raise NotPlain
        stack += own[:-1]
        self._place(weight.permute([letters.index(one) for one in (*stack, *inputs, own[-1])]))
        shared = [one for one in stack if one in others]
        rest = [one for one in others if one not in shared and one not in inputs]
        rows = x.permute([others.index(one) for one in (*shared, *rest, *inputs)])
        rows = rows.reshape(x.shape[others.index(shared[0])] if shared else 1, -1, x.shape[others.index(inputs[0])])
        yield slice(0, self._matrices), rows.expand(self._matrices, -1, -1)

    def _place(self, weight: Tensor) -> slice:
        """Which matrices a weight ``(inputs, outputs)``, or a stack of such, is."""
        turned = weight.mT if self._outputs_first else weight
        first, odd = divmod(int(turned.storage_offset()), self._size)
        columns = self._shape[-1]
        whole = tuple(turned.shape[-2:]) == self._shape and turned.stride()[-2:] == (columns, 1)
        count = len(turned) if turned.dim() == 3 else 1
        stacked = turned.dim() == 2 or (turned.dim() == 3 and (turned.stride(0) == self._size or count == 1))
        if odd or not whole or not stacked or turned.dim() > 3:
            raise NotPlain
        return slice(first, first + count)


def _each(result: Any) -> tuple[Any, ...]:
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else 0
