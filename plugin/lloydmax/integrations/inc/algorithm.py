"""The algorithm ``codebook`` in INC's registry: it runs lloydmax's pipeline in INC's phases."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from lloydmax.data import Source, unlabelled
from lloydmax.errors import IntegrationError
from lloydmax.hooks.protocols import seeded
from lloydmax.integrations.inc import tuning
from lloydmax.integrations.inc.config import RUN, CodebookConfig
from lloydmax.integrations.inc.host import (
    NAME,
    Mode,
    algos_mapping,
    config_registry,
    dump_model_op_stats,
    register_algo,
    register_config,
)
from lloydmax.integrations.inc.layer import LayerConfig
from lloydmax.integrations.inc.others import feeding, with_others
from lloydmax.integrations.inc.run import Run, run_of
from lloydmax.integrations.inc.whole import compressed
from lloydmax.network.copying import deep_copy
from lloydmax.network.parameters import model_bytes
from lloydmax.runtime.cache import number
from lloydmax.runtime.modes import own_modes

_MappingOfLayers = Mapping[tuple[str, str], Any]


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
        configs_mapping: ``{(layer name, type name): configuration}`` of the layers that get codebooks.
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
            return _convert(model, data, reference_data, example_inputs, kwargs)
        leaf = _leaf(configs_mapping)
        config: Any = leaf.root
        watch = tuning.watch(config.trials)
        run = Run(config, model, leaf, example_inputs)
        if mode == Mode.PREPARE:
            run.refuse_two_steps()
            run.prepare(model)
            vars(model)[RUN] = run
            return model
        return _quantize(model, run, watch, run_fn, run_args, example_inputs)


def _convert(model: nn.Module, data: Any, reference: Any, example_inputs: Any, more: dict[str, Any]) -> nn.Module:
    run = run_of(model)
    if run is None:
        raise IntegrationError("convert was given a model that was not prepared: call prepare, or quantize")
    if more and not run.others:
        raise IntegrationError(f"convert takes data and reference_data, not {', '.join(more)}")
    with seeded(run.recipe.seed, model):
        given = run.config.data if data is None else data
        sources = [_source(one, run, model) for one in (given, reference)]
        captured = run.captured
        student = run.convert(model, *sources)
    replay = sources[0] or (captured.source() if captured is not None and len(captured) else None)
    return _told(with_others(student, run.others, feeding(replay), None, example_inputs))


def _quantize(
    model: nn.Module, run: Run, watch: tuning.Watch | None, run_fn: Any, run_args: Any, example_inputs: Any
) -> nn.Module:
    cache = None if watch is None else run.cache
    others = [other.to_dict() for other in run.others]
    if cache is not None and run.config.trials is not None:
        run.fingerprint = run.config.trials.fingerprint(model)
    key = ("model", watch and number(watch), run.fingerprint, repr((run.config.to_dict(), others)))
    if cache is not None and (known := cache.find(key)) is not None:
        return deep_copy(known)
    calibrate = None if run_fn is None else functools.partial(_call, run_fn, run_args)
    with seeded(run.recipe.seed, model):
        source, reference = (_source(given, run, model) for given in _data(run.config.data, run_fn, run_args))
        if source is None and calibrate is not None and (run.weighted or run.whole):
            source, calibrate = run.capture(model, calibrate), None
        if run.whole:
            student = compressed(model, run, source, reference, example_inputs)
        else:
            if calibrate is None and source is None and reference is None and run.needs:
                run.refuse_no_data()
            run.prepare(model, source)
            if calibrate is not None:
                calibrate(model)
            student = run.convert(model, source, reference)
    if run_fn is None:
        run_fn, run_args = feeding(source), None
    student = with_others(student, run.others, run_fn, run_args, example_inputs)
    if cache is not None:
        kept = deep_copy(student)
        cache.put(key, kept, model_bytes(kept))
    return _told(student)


def _told(model: nn.Module) -> nn.Module:
    """The model; INC's log has the table of its layers that INC's own algorithms print there."""
    noted: Any = model.qconfig
    ours = {key: one for key, one in noted.items() if isinstance(one, LayerConfig)}
    dump_model_op_stats(Mode.CONVERT, ours)
    return model


def _call(run_fn: Callable[..., Any], run_args: Any, model: nn.Module) -> None:
    run_fn(model, *run_args) if run_args else run_fn(model)


def _data(data: Any, run_fn: Any, run_args: Any) -> tuple[Any, Any]:
    """Unlabelled and reference data: INC passes ``run_args`` on even without a ``run_fn``."""
    if run_fn is not None or run_args is None:
        return data, None
    given = run_args if isinstance(run_args, tuple) else (run_args,)
    if data is not None:
        raise IntegrationError("the data are given twice, by CodebookConfig(data=...) and by run_args: leave one out")
    if not 1 <= len(given) <= 2:
        raise IntegrationError(
            "without run_fn, run_args is the unlabelled data, (loader,), or unlabelled and reference data, "
            f"(loader, reference); got {len(given)} items"
        )
    return given[0], given[1] if len(given) == 2 else None


def _source(given: Any, run: Run, model: nn.Module) -> Source | None:
    if given is None:
        return None
    if run.cache is None:
        return unlabelled(given, model, seed=run.recipe.seed)
    _, source = run.cache.get(("data", id(given)), lambda: (given, unlabelled(given, model, seed=run.recipe.seed)))
    return source


def _leaf(mapping: _MappingOfLayers) -> LayerConfig:
    """One of the entries of the configuration of the whole model."""
    leaves = [leaf for leaf in mapping.values() if isinstance(leaf, LayerConfig) and leaf.root is not None]
    roots = {id(leaf.root): leaf for leaf in leaves}
    if len(roots) != 1:
        raise IntegrationError(
            f"{len(roots)} CodebookConfigs are combined: add their local configurations to one, by set_local"
        )
    return leaves[0]


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
