"""PT2E: trained thresholds for the int8 weights and activations of an exported program."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import fx

from lloydmax.integrations.torchao.host import (
    FakeQuantizeBase,
    OfTorchao,
    QuantizationAnnotation,
    QuantizationSpec,
    SharedQuantizationSpec,
)
from lloydmax.plan.parameter import PlannedParameter
from lloydmax.recipe.sections import Activations
from lloydmax.student.int8.own.fake_quantizers import Bounded, Threshold
from lloydmax.student.int8.own.placing import place, point_modules
from lloydmax.student.thresholds import TrainedThreshold

ANNOTATION = "quantization_annotation"
Place = fx.Node | tuple[fx.Node, fx.Node]
"""An output, or an input: what is used, and who uses it."""


class ThresholdFakeQuantize(TrainedThreshold, FakeQuantizeBase):
    """The fake quantizer of a weight or an activation; see :class:`~lloydmax.student.thresholds.TrainedThreshold`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.dtype = torch.int8 if self.weights else torch.uint8
        self.known = OfTorchao()


class BoundedFakeQuantize(Bounded, FakeQuantizeBase):
    """The fake quantizer of an activation whose range is known."""

    dtype, qscheme, quant_min, quant_max, is_dynamic = torch.uint8, torch.per_tensor_affine, 0, 255, False


def weight_spec(p: PlannedParameter) -> Any:
    """How the weight of an int8 layer is quantized."""
    options: Any = p.options
    given = {"bits": options.bits, "scheme": options.scheme, "granularity": p.granularity, "axis": p.axis}
    made = ThresholdFakeQuantize.with_args(**given)
    told = made()
    axis = p.axis if p.granularity == "channel" else None
    return QuantizationSpec(torch.int8, made, told.quant_min, told.quant_max, told.qscheme, axis)


def annotate_activations(model: fx.GraphModule, layers: list[fx.Node], settings: Activations) -> None:
    """Mark the inputs and outputs of what is quantized, by the same rules as for a recipe's own int8 models.

    Args:
        model: exported, batch norms folded.
        layers: what computes with a quantized weight.
        settings: of the activations.
    """
    trial = fx.GraphModule(model, copy.deepcopy(model.graph))
    nodes = {node.name: node for node in model.graph.nodes}
    names = {node.name for node in layers}
    place(trial, [node for node in trial.graph.nodes if node.name in names], lambda: Threshold(weights=False))
    made = ThresholdFakeQuantize.with_args(bits=settings.bits, scheme=settings.scheme, weights=False)
    spec = QuantizationSpec(torch.uint8, made, 0, 255, made().qscheme)
    first: dict[int, Place] = {}
    for point, module in point_modules(trial).items():
        for where in _places(point, nodes):
            own = _bounded(module) if isinstance(module, Bounded) else spec
            _annotate(where, SharedQuantizationSpec(first[id(module)]) if id(module) in first else own)
            first.setdefault(id(module), where)


def _places(point: fx.Node, nodes: Mapping[str, fx.Node]) -> Iterator[Place]:
    """Where in the program itself a fake quantizer of the trial is."""
    value: Any = point.args[0]
    if value.op == "call_function" and list(value.users) == [point]:
        yield nodes[value.name]
    else:
        yield from ((nodes[value.name], nodes[user.name]) for user in point.users)


def _bounded(module: Bounded) -> Any:
    made = BoundedFakeQuantize.with_args(scale=module.scale, zero_point=module.zero_point)
    return QuantizationSpec(torch.uint8, made, 0, 255, torch.per_tensor_affine)


def _annotate(where: Place, spec: Any) -> None:
    node = where if isinstance(where, fx.Node) else where[1]
    annotation = node.meta.setdefault(ANNOTATION, QuantizationAnnotation(_annotated=True))
    if isinstance(where, fx.Node):
        annotation.output_qspec = spec
    else:
        annotation.input_qspec_map[where[0]] = spec
