"""How much the error of each weight matters, from unlabelled inputs: the importances ``fisher`` and ``inputs``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, cast

import torch
from lloydmax import RecoveryError, hookimpl
from lloydmax.extend import Channels, Outputs, Source, device_of, evaluation_mode, fisher_draw, output_tensors
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

_PLACES = 1 << 12
"""Of the outputs of all samples, nearly: where each has many, fewer samples do."""


class Fisher:
    """The diagonal of the Fisher information of the teacher's own outputs, that is, the curvature of the distillation
    loss at its minimum: an error ``e`` in a weight adds ``importance * e ** 2 / 2`` to the KL divergence (or, for
    outputs without classes, to half the summed squared difference). Labels play no part: they are drawn, in effect,
    from the teacher (Dong et al. 2019, HAWQ; Kim et al. 2024, SqueezeLLM, section 4.1, with the KL divergence in place
    of the training loss)."""

    class Options(BaseModel):
        """Options of the importance `fisher`."""

        model_config = ConfigDict(extra="forbid")

        samples: PositiveInt = Field(default=256, description="unlabelled inputs.")

        batch_size: PositiveInt = Field(
            default=8,
            description="samples of one backward pass; their gradients get random signs, so that the square of the "
            "sum has the sum of the squares as its mean.",
        )

    def __init__(self, options: Options) -> None:
        self.options = options

    def measure(
        self, model: nn.Module, names: Sequence[str], data: Source, outputs: Outputs | None = None
    ) -> dict[str, Tensor]:
        """For each named parameter a float32 tensor of its shape, at least a thousandth of its mean everywhere.

        Args:
            model: run in evaluation mode, left as it was.
            names: of parameters.
            data: unlabelled inputs.
            outputs: how what the model returns is read; ``None``: as it is.

        Raises:
            RecoveryError: no gradient reaches a parameter.
        """
        parameters, device = [model.get_parameter(name) for name in names], device_of(model)
        wanted = [parameter.requires_grad for parameter in model.parameters()]
        total = [torch.zeros_like(parameter, dtype=torch.float32) for parameter in parameters]
        order, generator = data.draw(self.options.samples, 0), torch.Generator().manual_seed(0)
        order = order if outputs is None else outputs.enough(order, _PLACES)
        try:
            model.requires_grad_(False)
            for parameter in parameters:
                parameter.requires_grad_(True)
            with evaluation_mode(model), torch.enable_grad(), _squares(parameters, total):
                read = data.batches if outputs is None else partial(outputs.batches, data)
                for _, batch in read(self.options.batch_size, order):
                    inputs = batch.to(device, channels_last=True)
                    given = inputs.run(model)
                    found = output_tensors(given) if outputs is None else outputs.of(given, inputs)
                    if not any(output.requires_grad for output in found):
                        raise RecoveryError("importance 'fisher': no gradient reaches the parameters from the output")
                    _backward(fisher_draw(found, generator, None if outputs is None else outputs.leaves))
        finally:
            for parameter, needed in zip(model.parameters(), wanted, strict=True):
                parameter.requires_grad_(needed)
        return {name: _floored(found / len(order)) for name, found in zip(names, total, strict=True)}


def _backward(drawn: Tensor) -> None:
    try:
        drawn.backward()
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        said = str(error).partition("\n")[0].partition(". Hint")[0]
        raise RecoveryError(
            f"importance 'fisher': the model has no backward pass in evaluation mode ({said}): name another one, such "
            "as 'inputs', in the recipe's rules"
        ) from error


@contextmanager
def _squares(parameters: Sequence[nn.Parameter], total: Sequence[Tensor]) -> Iterator[None]:
    """Every gradient within is squared, added up and let go of, one parameter after the other."""

    def add(parameter: Tensor, kept: Tensor) -> None:
        assert parameter.grad is not None
        gradient, parameter.grad = parameter.grad.float(), None
        kept += gradient.square_().nan_to_num_(0.0, 0.0, 0.0)  # the root of 0 has none

    before = [parameter.grad for parameter in parameters]
    hooks = []
    try:
        for parameter, kept in zip(parameters, total, strict=True):
            parameter.grad = None
            hooks.append(parameter.register_post_accumulate_grad_hook(partial(add, kept=kept)))
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for parameter, gradient in zip(parameters, before, strict=True):
            parameter.grad = gradient


class Inputs:
    """The second moment of the input that each weight multiplies, the diagonal of ``X^T X`` (Frantar et al. 2023, GPTQ,
    keep the whole matrix): an error ``e`` in a weight adds ``importance * e ** 2`` to the mean squared error of the
    layer's output. Of parameters of other modules than convolutions and linear layers all weights matter alike."""

    class Options(BaseModel):
        """Options of the importance `inputs`."""

        model_config = ConfigDict(extra="forbid")

        samples: PositiveInt = Field(default=256, description="unlabelled inputs.")

        batch_size: PositiveInt = Field(default=32, description="samples of one forward pass.")

    def __init__(self, options: Options) -> None:
        self.options = options

    def measure(self, model: nn.Module, names: Sequence[str], data: Source) -> dict[str, Tensor]:
        """For each named parameter a float32 tensor of its shape; see :meth:`Fisher.measure`."""
        moments: dict[nn.Module, Tensor] = {}
        order = data.draw(self.options.samples, 0)
        layers = {name: _layers_of(model, model.get_parameter(name)) for name in names}
        with ExitStack() as stack, torch.no_grad(), evaluation_mode(model):
            for layer in {id(layer): layer for found in layers.values() for layer in found}.values():
                stack.callback(layer.register_forward_pre_hook(_accumulator(moments, layer)).remove)
            for _ in data.through(model, self.options.batch_size, order):
                pass
        measured = {}
        for name in names:
            weight = model.get_parameter(name)
            mass = torch.zeros_like(weight, dtype=torch.float32)
            for layer in layers[name]:
                if (moment := moments.get(layer)) is not None:
                    view = Channels(layer).by_group(mass)
                    view += moment.view(len(view), 1, -1, *(1,) * (view.dim() - 3))
            measured[name] = _floored(mass / len(order))
        return measured


def _layers_of(model: nn.Module, parameter: Tensor) -> list[nn.Module]:
    """The convolutions and linear layers that have it as their weight."""
    layers = (module for module in model.modules() if isinstance(module, (nn.Linear, _ConvNd)))
    return [layer for layer in layers if layer._parameters.get("weight") is parameter]


def _accumulator(moments: dict[nn.Module, Tensor], layer: nn.Module) -> Callable[[Any, Any], None]:
    """A hook that adds up the squares of a layer's input, channel by channel."""
    spatial = cast(Tensor, layer.weight).dim() - 2

    def add(_: Any, args: Any) -> None:
        x = args[0].detach().float()
        if isinstance(layer, (_ConvNd, _ConvTransposeNd)):
            x = x if x.dim() == spatial + 2 else x[None]
            squares = x.square().flatten(2).mean(2).sum(0)
        else:
            squares = x.reshape(len(x), -1, x.shape[-1]).square().mean(1).sum(0)
        moments[layer] = moments.get(layer, torch.zeros_like(squares)) + squares

    return add


def _floored(importance: Tensor) -> Tensor:
    """At least a thousandth of the mean, so that no weight is free to go anywhere; all alike where all are zero."""
    mean = float(importance.mean())
    return torch.ones_like(importance) if mean <= 0 else importance.clamp(min=1e-3 * mean)


@hookimpl
def lloydmax_importances() -> dict[str, type]:
    """Register ``fisher`` and ``inputs``."""
    return {"fisher": Fisher, "inputs": Inputs}
