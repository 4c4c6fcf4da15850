"""The inputs that a calibration function feeds through a model."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from lloydmax.data.batch import Batch
from lloydmax.data.inputs import Inputs, is_label
from lloydmax.data.kept import GIB, BatchSource
from lloydmax.errors import DataError


class Captured:
    """Collects copies of the inputs of every call of a model, from now until :meth:`close`.

    A context manager, too: ``with capture_inputs(model) as captured: calibrate(model)``. Works with
    gradients on or off and in inference mode; the copies are ordinary tensors on the CPU. Labels given by
    name are left out.

    Args:
        model: the module that is called (not one inside it).
        limit_bytes: stop collecting, with a warning, before passing this size.
    """

    def __init__(self, model: nn.Module, limit_bytes: int = 2 * GIB) -> None:
        self.batches: list[Batch] = []
        self.bytes = 0
        self.full = False
        self._name = type(model).__name__
        self._limit = limit_bytes
        self._required = Inputs(model).required
        self._hook = model.register_forward_pre_hook(self._collect, prepend=True, with_kwargs=True)

    def __len__(self) -> int:
        """The number of samples collected so far."""
        return sum(map(len, self.batches))

    def __enter__(self) -> Captured:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self, copied: nn.Module | None = None) -> None:
        """Stop collecting; also from ``copied``, a deep copy of the model, which collects to the same place."""
        self._hook.remove()
        if copied is not None:
            copied._forward_pre_hooks.pop(self._hook.id, None)
            copied._forward_pre_hooks_with_kwargs.pop(self._hook.id, None)

    def __deepcopy__(self, memo: dict[int, Any]) -> Captured:
        return self

    def source(self) -> BatchSource:
        """The collected inputs.

        Raises:
            DataError: nothing was collected.
        """
        if not self.batches:
            raise DataError(f"no inputs were captured: the calibration function did not call the {self._name} it got")
        return BatchSource(self.batches, f"captured from calls of {self._name}")

    def _collect(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.full:
            return
        named = {key: value for key, value in kwargs.items() if key in self._required or not is_label(key)}
        batch = Batch(args, named)
        size = sum(tensor.nbytes for tensor in batch.tensors())
        if not any(tensor.ndim for tensor in batch.tensors()):
            return
        if self.bytes + size > self._limit:
            self.full = True
            warnings.warn(
                f"only the first {len(self):,} samples of the calibration are used: more would pass the "
                f"limit of {self._limit:,} bytes",
                stacklevel=2,
            )
            return
        self.bytes += size
        with torch.inference_mode(False), torch.no_grad():
            self.batches.append(batch.map(_copy))


def capture_inputs(model: nn.Module, limit_bytes: int = 2 * GIB) -> Captured:
    """Collect the inputs of ``model`` while a block runs; see :class:`Captured`."""
    return Captured(model, limit_bytes)


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)
