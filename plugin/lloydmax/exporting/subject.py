"""What is exported: a finished copy of a model, example inputs, and the program that torch traces from them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, ShapesCollection

from lloydmax.data.batch import Batch, leaves
from lloydmax.errors import CheckpointError, ExportError
from lloydmax.exporting.even_weights import EvenWeight, laid_bare
from lloydmax.exporting.known import known_numbers
from lloydmax.format.parts import check_state, ordinary
from lloydmax.network.given import network
from lloydmax.network.private import unwrapped
from lloydmax.runtime.quiet import quiet
from lloydmax.student.attachment import finish
from lloydmax.student.held import contents
from lloydmax.student.int8.model import Int8Model
from lloydmax.student.layers import CodesHolder
from lloydmax.student.serving import set_kernel

_MANY = 1 << 24
"""Most samples where a shape is compared with what stands for "to the end"."""
_OF_VALUES = "data-dependent"


class UntraceableError(ExportError):
    """A model that torch cannot trace for the example inputs."""


@dataclass(frozen=True)
class Subject:
    """A model as the formats get it.

    Attributes:
        model: holds codebooks; finished, in evaluation mode, on the CPU, not shared with the caller's.
        batch: example inputs; two samples if the batch is dynamic.
        dynamic: whether the first axis of the inputs, the samples, may have any length.
        given: the example inputs as they were given.
        origin: the model as the caller has it.
    """

    model: nn.Module
    batch: Batch
    dynamic: bool
    given: Batch
    origin: nn.Module

    def program(self, most: int | None = None) -> ExportedProgram:
        """The model as torch traces it, codes and centroids inside.

        Args:
            most: largest number of samples, for formats that need to know.

        Raises:
            UntraceableError: the model cannot be traced.
        """
        failure: Exception | None = None
        try:
            for how, size in ((nullcontext, most), (known_numbers, most or _MANY)):
                try:
                    return self._traced(how(self.model), size)
                except Exception as error:
                    if failure is None or _OF_VALUES in str(failure):
                        failure = error
            assert failure is not None
            raise UntraceableError(
                f"torch.export cannot trace {type(self.model).__name__}: {first_line(failure)}"
            ) from failure
        finally:
            failure = None  # it knows this frame, and that all that called it, with what they hold

    def _traced(self, how: AbstractContextManager[nn.Module], most: int | None) -> ExportedProgram:
        shapes = ShapesCollection()
        axis = Dim("batch", min=1, max=most)
        for tensor in self.batch.tensors() if self.dynamic else ():
            if tensor.ndim and len(tensor) == len(self.batch):
                shapes[tensor] = {0: axis}
        with torch.no_grad(), quiet(), how as model:
            return torch.export.export(model, self.batch.args, self.batch.kwargs, dynamic_shapes=shapes)

    def outputs(self) -> list[Tensor]:
        """The tensors that the model gives for the example inputs, in order."""
        with torch.no_grad():
            return tensors_of(self.model(*self.batch.args, **self.batch.kwargs))

    def first(self) -> Subject:
        """The same model with the first sample alone."""
        return replace(self, batch=self.batch[:1])

    def fixed(self) -> Subject:
        """The same model for as many samples as were given."""
        return replace(self, batch=self.given, dynamic=False)

    def laid_bare(self, takes: Callable[[EvenWeight], bool]) -> tuple[Subject, dict[str, EvenWeight]]:
        """The same with the even weights that are taken decoded in the program; and these, by their tensors' names."""
        model = copy.deepcopy(self.model)
        return replace(self, model=model), laid_bare(model, takes)

    def holders(self) -> dict[str, CodesHolder]:
        """Whatever holds codes, under all its module names."""
        modules = self.model.named_modules(remove_duplicate=False)
        return {name: module for name, module in modules if isinstance(module, CodesHolder)}

    def refuse_dtypes(self, *dtypes: torch.dtype, name: str) -> None:
        """Refuse weights of these dtypes.

        Raises:
            ExportError: names the first such tensor.
        """
        for key, tensor in self.model.state_dict().items():
            if tensor.dtype in dtypes:
                raise ExportError(f"{name} cannot run {key}, which is {tensor.dtype}; export model.float()")


def subject(model: nn.Module, example_inputs: Any, dynamic: bool) -> Subject:
    """Prepare a model.

    Args:
        model: with at least one codebook, in training or finished; not changed.
        example_inputs: a tensor, a tuple of positional arguments, or a dict of keyword arguments.
        dynamic: as in :class:`Subject`.

    Raises:
        ExportError: the model holds no codebooks, runs on int8 kernels, or holds tensors of other toolkits.
        ModelError: it is not a network.
    """
    model = unwrapped(network(model))
    for name, module in model.named_modules():
        if isinstance(module, Int8Model):
            raise ExportError(
                f"{name or type(module).__name__} runs on int8 kernels of torch.ao, which no exported file holds; "
                "compress without 'activations:' to export it"
            )
    try:
        check_state(model)
        values, _ = contents(model)
        for name, value in values.items():
            if isinstance(value, Tensor):
                ordinary(name, value)
    except CheckpointError as error:
        raise ExportError(f"cannot be exported: {error}") from error
    if not any(isinstance(module, CodesHolder) for module in model.modules()):
        raise ExportError("the model holds no codebooks; compress it first")
    given = _batch(example_inputs).to("cpu")
    batch = given[torch.arange(2) % len(given)] if dynamic else given
    plain = finish(set_kernel(copy.deepcopy(model), None).cpu().eval()).requires_grad_(False)
    return Subject(plain, batch, dynamic, given, model)


def _batch(example_inputs: Any) -> Batch:
    if isinstance(example_inputs, dict):
        batch = Batch((), example_inputs)
    elif isinstance(example_inputs, (tuple, list)):
        batch = Batch(tuple(example_inputs))
    else:
        batch = Batch((example_inputs,))
    if not any(tensor.ndim and len(tensor) for tensor in batch.tensors()):
        raise ExportError("example_inputs is a tensor, a tuple of positional or a dict of keyword arguments, not empty")
    return batch


def tensors_of(output: Any) -> list[Tensor]:
    """The tensors in what a model gives, in order."""
    return [leaf for leaf in leaves(output) if isinstance(leaf, Tensor)]


def difference(found: Iterable[Tensor], wanted: Iterable[Tensor]) -> tuple[float, float]:
    """Largest absolute difference of outputs, and the largest magnitude that is wanted.

    Raises:
        ExportError: other shapes, or values that are not finite where finite ones are wanted.
    """
    worst = scale = 0.0
    for one, other in zip(found, wanted, strict=True):
        if one.shape != other.shape:
            raise ExportError(f"gives outputs of shape {tuple(one.shape)} instead of {tuple(other.shape)}")
        if other.numel():
            gap = (one.double() - other.double()).abs()
            worst, scale = max(worst, float(gap.nan_to_num(torch.inf).max())), max(scale, float(other.abs().max()))
    return worst, scale


def first_line(error: BaseException) -> str:
    """What an error of another library says, in one line."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
