"""Models that run on int8 kernels: what a recipe with an ``activations:`` section ends in.

The student is prepared, trained and converted by ``torch.ao.quantization`` in FX graph mode; this module keeps the
names of the original architecture, so that such a model has codebooks, a plan and a file like any other.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lloydmax.codebook.codebook import Codebook
from lloydmax.codebook.grid import even
from lloydmax.errors import CheckpointError, IntegrationError
from lloydmax.network.folding import folded
from lloydmax.student.int8.model import IntegerModel

if TYPE_CHECKING:
    from lloydmax.data import Source
    from lloydmax.plan.plan import Plan, PlannedParameter

_BATCH = 32


def prepare(
    student: nn.Module,
    plan: Plan,
    codebooks: Mapping[str, Codebook],
    source: Source,
    seed: int,
    tell: Callable[[int, int, dict[str, float]], None],
) -> torch.fx.GraphModule:
    """The student as a graph with trained thresholds and codebooks in it, thresholds initialized from data.

    Args:
        student: batch norms folded; its modules move into the graph.
        plan: of the student, with a recipe that has ``activations``.
        codebooks: of the parameters that get free centroids.
        source: unlabelled inputs.
        seed: of the choice of the calibration samples.
        tell: gets the samples done, all of them, and ``{"widened": share of the ranges of activations that the last
            batch added to them, the mean over activations; "activations": their number}``.

    Raises:
        IntegrationError: the model cannot be traced, or the plan asks for what the host cannot do.
    """
    from lloydmax.data import random_order
    from lloydmax.runtime.modes import device_of, evaluating

    graph = _graph(student, plan)
    for name, codebook in codebooks.items():
        if not plan.parameters[name].even:
            _fake_quantizer(graph, name).hold(codebook)
    assert plan.recipe.activations is not None
    order = random_order(len(source), plan.recipe.activations.samples, seed)
    activations = [threshold for name, threshold in _thresholds(graph).items() if not _of_weight(name)]
    done, ranges = 0, torch.zeros(len(activations))
    with evaluating(graph):
        for indices, batch in source.batches(_BATCH, order):
            batch.to(device_of(graph)).run(graph)
            done, before, ranges = done + len(indices), ranges, _ranges(activations)
            widened = ((ranges - before) / ranges.clamp(min=1e-30)).mean()
            tell(done, len(order), {"widened": float(widened), "activations": float(len(activations))})
    for threshold in _thresholds(graph).values():
        threshold.observer_enabled[0] = 0
    set_trainable(graph, plan)
    return graph


def set_trainable(graph: nn.Module, plan: Plan) -> None:
    """Make trainable what the plan says: centroids of codebooks, factors of thresholds, and float parameters."""
    for parameter in graph.parameters():
        parameter.requires_grad_(False)
    plain = dict(graph.named_parameters())
    for name in plan.trainable:
        p = plan.parameters.get(name)
        if p is None:
            if name in plain:
                plain[name].requires_grad_(True)
            continue
        quantizer = _fake_quantizer(graph, name)
        for parameter in quantizer.factors() if p.even else [quantizer.centroids]:
            parameter.requires_grad_(True)


def convert(graph: nn.Module, plan: Plan, skeleton: nn.Module) -> IntegerModel:
    """The trained graph on int8 kernels, on the CPU, where they are.

    Args:
        graph: a ``torch.fx.GraphModule`` from :func:`prepare`; left unusable.
        plan: the same.
        skeleton: the folded float student; only its names, and tensors that the graph does not use, are kept.
    """
    with _upstream():
        from torch.ao.quantization.quantize_fx import convert_fx

        from lloydmax.integrations.torch_ao import backend_config

    activations = [_qparams(threshold) for name, threshold in _thresholds(graph).items() if not _of_weight(name)]
    names = [*dict(skeleton.named_parameters()), *_persistent(skeleton)]
    assert isinstance(graph, torch.fx.GraphModule)
    with _upstream():
        converted = convert_fx(graph.cpu().eval(), backend_config=backend_config())
    known = {f"{path}.".lstrip(".") for path, _ in converted.named_modules()}
    tensors = dict(skeleton.named_parameters()) | dict(skeleton.named_buffers())
    unused = {n: tensors[n].detach().cpu() for n in names if f"{n.rpartition('.')[0]}.".lstrip(".") not in known}
    levels = {p.name: levels_of(p) for p in plan.parameters.values() if p.even}
    return IntegerModel(converted, names, levels, activations, folded(skeleton), unused).eval()


def restore(
    model: nn.Module, plan: Plan, codebooks: Mapping[str, Codebook], activations: Sequence[tuple[float, int]]
) -> IntegerModel:
    """The int8 model that a file describes, from the float architecture with its decoded weights.

    Raises:
        CheckpointError: this version of PyTorch quantizes other activations than the one that wrote the file.
    """
    graph = _graph(model, plan)
    thresholds = _thresholds(graph)
    points = [threshold for name, threshold in thresholds.items() if not _of_weight(name)]
    if len(points) != len(activations):
        raise CheckpointError(
            f"holds {len(activations)} quantized activations, this model has {len(points)} with torch "
            f"{torch.__version__}: load it with the version of torch that wrote it"
        )
    for threshold, (scale, zero) in zip(points, activations, strict=True):
        threshold.fix(torch.tensor([scale]), torch.tensor([zero], dtype=torch.int32))
    for name, codebook in codebooks.items():
        quantizer = _fake_quantizer(graph, name)
        if not plan.parameters[name].even:
            quantizer.hold(codebook)
            continue
        _, low = levels_of(plan.parameters[name])
        rows = even(codebook)
        if rows is None:
            raise CheckpointError(f"the codebook of {name!r} is not evenly spaced")
        quantizer.fix(rows[:, 0].contiguous(), rows[:, 1].to(torch.int32) + low)
    return convert(graph, plan, model)


def levels_of(p: PlannedParameter) -> tuple[int, int]:
    """Number of levels and lowest integer of a uniformly quantized parameter."""
    half = (p.centroids + 1) // 2
    return p.centroids, -half + (p.centroids % 2)


def _graph(student: nn.Module, plan: Plan) -> torch.fx.GraphModule:
    with _upstream():
        from torch.ao.quantization.quantize_fx import prepare_qat_fx

        from lloydmax.integrations.torch_ao import apply_recipe, backend_config, threshold_qconfig_mapping

    settings = plan.recipe.activations
    assert settings is not None
    mapping = threshold_qconfig_mapping(activation_bits=settings.bits, activation_scheme=settings.scheme)
    planned = {name.rpartition(".")[0] for name in plan.parameters}
    for name, module in student.named_modules():
        if module._parameters and name not in planned:
            mapping.set_module_name(name, None)
    fitted = {name: replace(p, importance=None) for name, p in plan.parameters.items()}
    apply_recipe(mapping, replace(plan, parameters=fitted), student)
    try:
        with _upstream():
            graph = prepare_qat_fx(student.train(), mapping, (), backend_config=backend_config())
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise IntegrationError(
            f"{type(student).__name__} cannot be traced for int8 activations: {reason}. Leave out 'activations:', or "
            "write its forward without control flow that depends on tensors"
        ) from error
    return graph.eval()


def _fake_quantizer(graph: nn.Module, name: str) -> Any:
    module: Any = graph.get_submodule(name.rpartition(".")[0])
    return module.weight_fake_quant


def _thresholds(graph: nn.Module) -> dict[str, Any]:
    from lloydmax.student.thresholds import TrainedThreshold

    return {name: module for name, module in graph.named_modules() if isinstance(module, TrainedThreshold)}


def _ranges(thresholds: Sequence[Any]) -> Tensor:
    """Widths of the observed ranges, on the CPU; 0 where nothing was observed."""
    return torch.tensor([float(t.max_val[0] - t.min_val[0]) if t.min_val.numel() else 0.0 for t in thresholds])


def _of_weight(name: str) -> bool:
    return name.endswith("weight_fake_quant")


def _qparams(threshold: Any) -> tuple[float, int]:
    scale, zero = threshold.calculate_qparams()
    return float(scale), int(zero)


def _persistent(model: nn.Module) -> Iterator[str]:
    for prefix, module in model.named_modules():
        for leaf, buffer in module._buffers.items():
            if buffer is not None and leaf not in module._non_persistent_buffers_set:
                yield f"{prefix}.{leaf}".lstrip(".")


@contextlib.contextmanager
def _upstream() -> Iterator[None]:
    """The host's warnings about its own deprecation and inner workings are of no use here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        inner = ".*(reduce_range|be quantized|erase_node|tensor creation functions).*"
        warnings.filterwarnings("ignore", message=inner)
        yield
