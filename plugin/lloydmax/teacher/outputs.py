"""What a model returns: the tensors that matter in it, the teacher's kept ones, and how two models compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from lloydmax.errors import RecoveryError


def output_tensors(output: Any, key: str | int | None = None) -> list[Tensor]:
    """The floating tensors of a model's output.

    Args:
        output: a tensor, or a tuple, list, dict or Hugging Face ``ModelOutput`` of tensors.
        key: picks one by key, attribute or position. Without it, ``logits`` is taken where there is such a key,
            else every floating tensor at the top level.

    Raises:
        RecoveryError: nothing fits; the message lists what there is.
    """
    if key is not None:
        picked = _pick(output, key)
        if not isinstance(picked, Tensor):
            raise RecoveryError(f"the model's output has no tensor {key!r}; it has {_describe(output)}")
        return [picked]
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Mapping):
        values = [output["logits"]] if isinstance(output.get("logits"), Tensor) else list(output.values())
    elif isinstance(output, Sequence) and not isinstance(output, str):
        values = list(output)
    else:
        values = [getattr(output, "logits", None)]
    tensors = [value for value in values if isinstance(value, Tensor) and value.is_floating_point()]
    if not tensors:
        raise RecoveryError(f"the model's output holds no floating tensor: {_describe(output)}; name one by 'output'")
    return tensors


def class_axis(tensor: Tensor) -> int | None:
    """The axis of the classes: 1 for ``(N, C)`` and ``(N, C, H, W)``, the last for ``(N, T, C)``; ``None`` where
    there are none to choose from."""
    if tensor.dim() < 2:
        return None
    axis = 2 if tensor.dim() == 3 else 1
    return axis if tensor.shape[axis] > 1 else None


def _pick(output: Any, key: str | int) -> Any:
    if isinstance(key, int):
        return output[key] if isinstance(output, Sequence) and -len(output) <= key < len(output) else None
    return output.get(key) if isinstance(output, Mapping) else getattr(output, key, None)


def _describe(output: Any) -> str:
    if isinstance(output, Mapping):
        return "keys " + ", ".join(map(str, output))
    if isinstance(output, Sequence):
        return f"{len(output)} items: " + ", ".join(type(item).__name__ for item in output)
    return type(output).__name__
