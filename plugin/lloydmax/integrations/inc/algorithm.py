"""The algorithm ``codebook`` in INC's registry: it runs lloydmax's pipeline in INC's phases."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from lloydmax.data import Captured, Source, capture_inputs, unlabelled
from lloydmax.errors import IntegrationError, RecoveryError
from lloydmax.fitting.fit import fit
from lloydmax.hooks.events import Events
from lloydmax.hooks.protocols import Recovery, seeded
from lloydmax.integrations.inc import files, tuning
from lloydmax.integrations.inc.composition import compose
from lloydmax.integrations.inc.config import RUN, CodebookConfig
from lloydmax.integrations.inc.host import (
    NAME,
    Mode,
    algos_mapping,
    config_registry,
    logger,
    quantize,
    register_algo,
    register_config,
)
from lloydmax.integrations.inc.layer import LayerConfig
from lloydmax.plan.plan import Plan, warn_of
from lloydmax.recovery.preparation import finished, gradients, prepare
from lloydmax.recovery.steps import needs_data, recover, recovery_steps, tried_for
from lloydmax.runtime.cache import Cache, bytes_of, number
from lloydmax.runtime.digest import fingerprint, model_fingerprint
from lloydmax.runtime.modes import own_modes

_MappingOfLayers = Mapping[tuple[str, str], Any]


class Run:
    """One compression inside INC, from ``prepare`` to ``convert``.

    The prepared model holds it as a plain attribute: its teacher is in no module list and no state dict, and deep
    copies of the model share it.

    Args:
        config: the configuration of the whole model.
        model: the original; :meth:`prepare` turns it into the student.
        mapping: INC's mapping, which may give some layers to other algorithms.
        example_inputs: so that ranges of a recipe count layers in forward order.
    """

    def __init__(self, config: CodebookConfig, model: nn.Module, mapping: _MappingOfLayers, example_inputs: Any):
        self.config = config
        self.foreign = {key: other for key, other in mapping.items() if other.name != NAME}
        self.plan = self._rest(model) if self.foreign else config.plan(model, example_inputs)
        warn_of(self.plan)
        self.recipe = self.plan.recipe
        self.steps = recovery_steps(self.recipe)
        early = [name for name, step in self.steps if getattr(step, "before_fit", False)]
        if self.recipe.activations or early:
            what = "int8 activations ('activations:')" if self.recipe.activations else f"the step {early[0]!r}"
            raise IntegrationError(f"{what} cannot run inside INC: use lloydmax.compress with this recipe")
        self.needs = needs_data(self.recipe)
        self.gradients = gradients(model)
        self.events = Events()
        self.captured: Captured | None = None
        self.teacher: nn.Module | None = None
        if self.steps:
            self.teacher = config.pristine or copy.deepcopy(model)
        config.pristine = None

    def _rest(self, model: nn.Module) -> Plan:
        """The plan of the untouched model, without what other algorithms take; they may have run already."""
        plan, taken = self.config.planned, {name for name, _ in self.foreign}
        parameters = {name: p for name, p in plan.parameters.items() if name.rpartition(".")[0] not in taken}
        held = {name for name, _ in model.named_parameters()}
        skipped = tuple(one for one in plan.skipped if one.name.rpartition(".")[0] not in taken)
        return replace(plan, parameters=parameters, trainable=plan.trainable & held, skipped=skipped)

    @property
    def cache(self) -> Cache | None:
        """Shared with the other trials of a tuning run."""
        return None if self.config.trials is None else self.config.trials.cache

    @property
    def weighted(self) -> bool:
        """Whether the fit needs data."""
        return any(p.importance is not None for p in self.plan.parameters.values())

    def prepare(self, model: nn.Module, source: Source | None = None) -> None:
        """Turn the model into the student; collect the inputs that it is called with, if recovery needs any."""
        prepare(model, self.plan, fit(model, self.plan, source, self.events, self.cache))
        if self.needs and source is None:
            self.captured = Captured(model)

    def capture(self, model: nn.Module, calibrate: Callable[[nn.Module], Any]) -> Source:
        """The inputs that a calibration function feeds, collected on a copy of the original."""
        scratch = copy.deepcopy(model).eval()
        before = [parameter._version for parameter in scratch.parameters()]
        with capture_inputs(scratch) as captured:
            calibrate(scratch)
        if before != [parameter._version for parameter in scratch.parameters()]:
            raise IntegrationError(
                "run_fn trains the model, but an importance needs its inputs before there is anything to train: "
                "pass a calibration function, or the data by run_args=(loader,)"
            )
        return self._shared(captured)

    def convert(self, model: nn.Module, source: Source | None = None, reference: Source | None = None) -> nn.Module:
        """Recover with the given, or else the collected inputs, and finish."""
        if self.captured is not None:
            self.captured.close(model)
            if source is None and reference is None and len(self.captured):
                source = self._shared(self.captured)
        if self.needs and source is None and reference is None:
            raise RecoveryError(
                f"{self.needs[0]} needs unlabelled inputs, and the model was called with none: "
                "quantize(model, config, run_fn=calibrate) with the function that feeds your calibration data, "
                "quantize(model, config, run_args=(loader,)), or convert(model, data=loader)"
            )
        vars(model).pop(RUN, None)
        if self.steps:
            assert self.teacher is not None
            recovery = Recovery(
                model,
                self.teacher,
                source,
                reference,
                self.recipe.seed,
                events=self.events,
                cache=self.cache,
                original=self.teacher,
                outputs=tried_for(self.steps, self.teacher, (source, reference), self.recipe.asked_outputs, self.cache),
            )
            for figures in recover(recovery, self.steps):
                logger.info("codebook: %s", figures)
        student = finished(model, self.plan, self.gradients)
        logger.info("codebook: %d parameters hold what was planned", len(self.plan.parameters))
        mapping = {(name, kind): LayerConfig(bits) for (name, kind), bits in self._layers().items()}
        return files.dressed(student, {**mapping, **_before(student), **self.foreign})

    def _shared(self, captured: Captured) -> Source:
        """The collected inputs; equal ones of an earlier trial where there are, so that more can be shared."""
        source = captured.source()
        if self.cache is None:
            return source
        key = ("inputs", fingerprint(tensor for batch in captured.batches for tensor in batch.tensors()))
        return self.cache.get(key, lambda: source)

    def _layers(self) -> dict[tuple[str, str], int]:
        self.config.get_model_info(_Prepared(self))
        return {(name, kind): self.config._bits[name] for name, kind in self.config._info}

    def __deepcopy__(self, memo: dict[int, Any]) -> Run:
        return self


class _Prepared(nn.Module):
    """Stands for a prepared model where only its run counts."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        vars(self)[RUN] = run


def run_of(model: nn.Module) -> Run | None:
    """The run that a prepared model carries, or ``None``."""
    run: Run | None = vars(model).get(RUN)
    return run


def codebook(
    model: nn.Module,
    configs_mapping: _MappingOfLayers,
    mode: Mode = Mode.QUANTIZE,
    *args: Any,
    run_fn: Callable[..., Any] | None = None,
    run_args: Any = None,
    example_inputs: Any = None,
    data: Any = None,
    reference_data: Any = None,
    **kwargs: Any,
) -> nn.Module:
    """INC's entry: ``quantize``, ``prepare`` and ``convert`` call it.

    Args:
        model: the original, or the prepared model; changed in place.
        configs_mapping: ``{(layer name, type name): configuration}``, other algorithms' included.
        mode: the phase.
        args: unused.
        run_fn: the user's calibration or training; called with the student, and ``run_args``.
        run_args: positional arguments of ``run_fn``; without one: unlabelled data, and reference data if two.
        example_inputs: see :func:`lloydmax.compress`.
        data: of ``convert(model, data=...)``: unlabelled inputs.
        reference_data: likewise.
        kwargs: other algorithms' keyword arguments of ``convert``.

    Raises:
        RecipeError, DataError, FitError, RecoveryError, IntegrationError: the message says what to do.
    """
    with own_modes():
        if mode == Mode.CONVERT:
            run = run_of(model)
            if run is None:
                raise IntegrationError("convert was given a model that was not prepared: call prepare, or quantize")
            if kwargs and not run.foreign:
                raise IntegrationError(f"convert takes data and reference_data, not {', '.join(kwargs)}")
            with seeded(run.recipe.seed, model):
                sources = [_source(given, run, model) for given in (data, reference_data)]
                captured = run.captured
                student = run.convert(model, *sources)
            replay = sources[0] or (captured.source() if captured is not None and len(captured) else None)
            return _with_others(student, run.config, _feeding(replay), None, example_inputs)
        config = _root(configs_mapping)
        watch = tuning.watch(config.trials)
        run = Run(config, model, configs_mapping, example_inputs)
        if mode == Mode.PREPARE:
            if run.weighted:
                raise IntegrationError(f"{run.needs[0]} needs data before the codebooks are fitted: call quantize")
            run.prepare(model)
            vars(model)[RUN] = run
            return model
        return _quantize(model, run, watch, run_fn, run_args, example_inputs)


def _quantize(
    model: nn.Module, run: Run, watch: tuning.Watch | None, run_fn: Any, run_args: Any, example_inputs: Any
) -> nn.Module:
    cache = None if watch is None else run.cache
    key = ("model", watch and number(watch), cache and model_fingerprint(model), repr(run.config.to_dict()))
    if cache is not None and (known := cache.find(key)) is not None:
        return copy.deepcopy(known)
    calibrate = None if run_fn is None else functools.partial(_call, run_fn, run_args)
    source: Source | None = None
    reference: Source | None = None
    with seeded(run.recipe.seed, model):
        if calibrate is None and run_args is not None:
            source, reference = (_source(given, run, model) for given in _data(run_args))
        elif calibrate is not None and run.weighted:
            source = run.capture(model, calibrate)
        elif calibrate is None and run.needs:
            run.convert(model)
        run.prepare(model, source)
        if calibrate is not None and not run.weighted:
            calibrate(model)
        student = run.convert(model, source, reference)
    student = _with_others(student, run.config, run_fn, run_args, example_inputs)
    if cache is not None:
        kept = copy.deepcopy(student)
        cache.put(key, kept, bytes_of(kept))
    return student


def _call(run_fn: Callable[..., Any], run_args: Any, model: nn.Module) -> None:
    run_fn(model, *run_args) if run_args else run_fn(model)


def _data(run_args: Any) -> tuple[Any, Any]:
    """Unlabelled and reference data: INC passes ``run_args`` on even without a ``run_fn``."""
    if not isinstance(run_args, tuple):
        return run_args, None
    if not 1 <= len(run_args) <= 2:
        raise IntegrationError(
            "without run_fn, run_args is the unlabelled data, (loader,), or unlabelled and reference data, "
            f"(loader, reference); got {len(run_args)} items"
        )
    return run_args[0], run_args[1] if len(run_args) == 2 else None


def _source(given: Any, run: Run, model: nn.Module) -> Source | None:
    if given is None:
        return None
    if run.cache is None:
        return unlabelled(given, model, seed=run.recipe.seed)
    _, source = run.cache.get(("data", id(given)), lambda: (given, unlabelled(given, model, seed=run.recipe.seed)))
    return source


def _root(mapping: _MappingOfLayers) -> CodebookConfig:
    roots = {id(leaf.root): leaf.root for leaf in mapping.values() if isinstance(leaf, LayerConfig) and leaf.root}
    if len(roots) != 1:
        raise IntegrationError(
            f"{len(roots)} CodebookConfigs are combined: add their local configurations to one, by set_local"
        )
    (root,) = roots.values()
    if root._asked_by_composition and all(other.name == NAME for other in mapping.values()):
        logger.warning(
            "codebook: no layer is left to the other configurations. In OtherConfig(...) + CodebookConfig(...) INC "
            "heeds only their white lists of names, and CodebookConfig wins where both match: write "
            "CodebookConfig(...) + OtherConfig(...), or compose(...), and white lists"
        )
    root._asked_by_composition = False
    return root


def _before(model: nn.Module) -> dict[Any, Any]:
    """What INC's other algorithms noted on the model in earlier calls."""
    noted = vars(model).get("qconfig")
    return {key: c for key, c in noted.items() if getattr(c, "name", NAME) != NAME} if isinstance(noted, dict) else {}


def _feeding(source: Source | None) -> Callable[[nn.Module], None] | None:
    """A calibration function for INC's other algorithms from the inputs that ours used."""
    if source is None:
        return None

    def feed(model: nn.Module) -> None:
        with torch.no_grad():
            for _, batch in source.batches(32):
                batch.run(model)

    return feed


def _with_others(model: nn.Module, config: CodebookConfig, run_fn: Any, run_args: Any, inputs: Any) -> nn.Module:
    if config.others is None:
        return model
    ours = vars(model)["qconfig"]
    others = compose(config.others)
    theirs = others.to_config_mapping(model_info=others.get_model_info(model))
    if not theirs:
        raise IntegrationError(f"others={config.others} match no layer of the model: check names and types")
    run_args = None if run_fn is None else run_args
    quantized = quantize(model, others, run_fn=run_fn, run_args=run_args, example_inputs=inputs)
    return files.dressed(quantized, {**ours, **theirs})


def register() -> None:
    """Put ``CodebookConfig`` and the algorithm into INC's registries; importing this package does it.

    Raises:
        IntegrationError: another package holds the name.
    """
    held = (config_registry.get_cls_configs().get("torch", {}).get(NAME), algos_mapping.get(NAME))
    mine: Any
    for mine, taken in zip((CodebookConfig, codebook), held, strict=True):
        if taken is not None and (taken.__module__, taken.__qualname__) != (mine.__module__, mine.__qualname__):
            raise IntegrationError(
                f"the name {NAME!r} is already registered with Intel Neural Compressor by {taken.__module__}: "
                "import only one of the two packages"
            )
    register_config(framework_name="torch", algo_name=NAME, priority=50)(CodebookConfig)
    register_algo(NAME)(codebook)
