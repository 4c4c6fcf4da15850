"""float32 where torch would take the process-wide default dtype, for one thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_FLOATS: frozenset[Any] = frozenset(
    getattr(torch, name)
    for name in (
        "empty", "zeros", "ones", "rand", "randn", "eye", "linspace", "logspace", "empty_strided",
        "bartlett_window", "blackman_window", "hamming_window", "hann_window", "kaiser_window",
    )
)  # fmt: skip
"""Functions that make tensors of the default dtype."""
_READING: frozenset[Any] = frozenset((torch.tensor, torch.as_tensor, torch.full, torch.arange, torch.scalar_tensor))
"""Functions that make such tensors of Python's floats."""
_CASTS = frozenset(("to", "type", "double", "half", "bfloat16", "view", "type_as"))


class Float32Defaults(TorchFunctionMode):
    """While it is active in a thread, tensors that would get the default dtype are float32.

    Args:
        default: the default dtype, any but float32.
    """

    def __init__(self, default: torch.dtype) -> None:
        super().__init__()
        self._default = default

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call ``func``, with a dtype where it is given none."""
        kwargs = kwargs or {}
        if kwargs.get("dtype") is not None:
            return func(*args, **kwargs)
        if func in _FLOATS or (func in _READING and _holds_floats(args)):
            return func(*args, **{**kwargs, "dtype": torch.float32})
        made = func(*args, **kwargs)
        whole = isinstance(made, Tensor) and made.dtype == self._default and _of_integers(args)
        if not whole or func in _READING or getattr(func, "__name__", "") in _CASTS:
            return made
        if any(isinstance(arg, Tensor) and arg.dtype == torch.bool for arg in args):
            return made.float()
        return func(*(arg.float() if isinstance(arg, Tensor) else arg for arg in args), **kwargs)


def _holds_floats(value: Any) -> bool:
    """Whether Python's floats are in there, and no tensor or array that has a dtype of its own."""
    if isinstance(value, (tuple, list)):
        return any(map(_holds_floats, value)) and not any(hasattr(item, "dtype") for item in value)
    return type(value) is float


def _of_integers(args: tuple[Any, ...]) -> bool:
    """Whether tensors are among the arguments, all of integers."""
    tensors = [arg for arg in args if isinstance(arg, Tensor)]
    return bool(tensors) and not any(tensor.is_floating_point() or tensor.is_complex() for tensor in tensors)
