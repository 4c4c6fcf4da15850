"""Bias correction: the mean error that clustering adds to a layer's output goes into its bias.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.2,
with the mean measured on unlabelled inputs. It serves models without batch norm.
"""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from typing import Any, Literal

import lloydmax
from lloydmax.data import Source, random_order
from lloydmax.hookspecs import hookimpl
from lloydmax.strategy import Recovery, device_of, evaluating
from pydantic import BaseModel, ConfigDict, PositiveInt
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from lloydmax_strategies.frontier import Frontier
from lloydmax_strategies.tap import forward_order


class CorrectBias:
    """Moves the mean output error of each compressed layer into its bias (Nagel et al. 2019).

    It is the one for models without batch norm.
    """

    needs_data = True

    class Options(BaseModel):
        """Options of ``correct_bias``.

        Attributes:
            samples: inputs, drawn at random.
            batch_size: of one forward pass.
            sequential: correct each layer on top of the corrected layers before it; else all at once from one
                pass, which is faster and corrects the same error several times in deep models.
            source: ``data`` or ``reference_data``.
        """

        model_config = ConfigDict(extra="forbid")

        samples: PositiveInt = 256
        batch_size: PositiveInt = 64
        sequential: bool = True
        source: Literal["data", "reference_data"] = "data"

    def __init__(self, options: Options) -> None:
        self.options = options

    def run(self, recovery: Recovery) -> dict[str, Any]:
        """Shift the bias of every compressed convolution and linear layer that has one in floats."""
        student, teacher, options = recovery.student, recovery.teacher, self.options
        source = recovery.source(options.source)
        layers = _correctable(student)
        if not layers:
            warnings.warn(
                "correct_bias: no compressed convolution or linear layer has a bias in floats, so nothing was done",
                stacklevel=2,
            )
            return {"layers": 0, "samples": 0}
        order = random_order(len(source), options.samples, recovery.seed)
        with evaluating(student, teacher):
            calls = forward_order(student, list(layers), source, order[:2])
            names = {layers[module]: module for module in calls}
            wanted = _means(teacher, {name: teacher.get_submodule(name) for name in names}, source, order, options)
            found = {} if options.sequential else _means(student, names, source, order, options)
            frontier = Frontier(student, source, order, options.batch_size)
            for index, (name, module) in enumerate(names.items(), start=1):
                if options.sequential:
                    mean = _Mean(module)
                    frontier.read(module, mean.add, output=True, calls=calls[module])
                    found[name] = mean.value()
                bias: Any = module.bias
                bias.add_((wanted[name] - found[name]).to(bias))
                recovery.events.step("correct_bias", index, len(names), {})
        return {"layers": len(names), "samples": len(order)}


def _correctable(student: nn.Module) -> dict[nn.Module, str]:
    compressed = lloydmax.codebooks(student)
    return {
        module: name
        for name, module in student.named_modules()
        if isinstance(module, (nn.Linear, _ConvNd))
        and f"{name}.weight".lstrip(".") in compressed
        and f"{name}.bias".lstrip(".") not in compressed
        and module.bias is not None
    }


def _means(
    model: nn.Module, layers: dict[str, nn.Module], source: Source, order: Tensor, options: CorrectBias.Options
) -> dict[str, Tensor]:
    means = {name: _Mean(module) for name, module in layers.items()}
    with ExitStack() as stack:
        for name, module in layers.items():
            hook = module.register_forward_hook(lambda _, __, result, mean=means[name]: mean.add(result))
            stack.callback(hook.remove)
        for _, batch in source.batches(options.batch_size, order):
            batch.to(device_of(model), channels_last=True).run(model)
    return {name: mean.value() for name, mean in means.items()}


class _Mean:
    """The mean output of each channel of a layer, over samples and positions, in float64."""

    def __init__(self, module: nn.Module) -> None:
        self.axis = 1 if isinstance(module, _ConvNd) else -1
        self.count = 0
        self.total: Tensor | float = 0.0

    def add(self, output: Tensor) -> None:
        """Take in the outputs of one batch."""
        axis = self.axis % output.dim()
        axes = [other for other in range(output.dim()) if other != axis]
        self.total = self.total + (output.double().sum(axes) if axes else output.double())
        self.count += output.numel() // output.shape[axis]

    def value(self) -> Tensor:
        """``(channels,)``, float64."""
        assert isinstance(self.total, Tensor)
        return self.total / self.count


@hookimpl
def lloydmax_recovery_steps() -> dict[str, type]:
    """Register ``correct_bias``."""
    return {"correct_bias": CorrectBias}
