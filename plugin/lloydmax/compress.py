"""The pipeline: plan, fit, recover, finish, measure."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lloydmax import checkpoint, plugins
from lloydmax.cache import Cache, fingerprint
from lloydmax.codebook import check_weight
from lloydmax.data import Source, unlabelled
from lloydmax.errors import DataError, FitError, RecoveryError
from lloydmax.outputs import Yardstick
from lloydmax.plan import Plan, PlannedParameter, verify_plan
from lloydmax.plan import plan as make_plan
from lloydmax.recipe import Recipe
from lloydmax.report import Report, Stage, layer_reports
from lloydmax.strategy import Events, Recovery, RecoveryStep, device_of, evaluating, seeded
from lloydmax.student import attach, attached, codebooks, finish, separate

if TYPE_CHECKING:
    from lloydmax.codebook import Codebook

AGREEMENT_SAMPLES = 1000
_HARM = 1.1
_FIRST = 8
Evaluate = Callable[[nn.Module], float]


@dataclass(frozen=True)
class Result:
    """What :func:`compress` gives back.

    Attributes:
        model: the compressed model, in evaluation mode.
        report: sizes, errors, agreement, seconds.
        plan: what was planned, and verified to be what the model holds.
    """

    model: nn.Module
    report: Report
    plan: Plan

    def save(self, path: str | Path) -> int:
        """Write the model to one ``.safetensors`` file; returns its bytes. See :func:`lloydmax.save`."""
        return checkpoint.save(self.model, path)


def compress(
    model: nn.Module,
    recipe: Any,
    data: Any = None,
    reference_data: Any = None,
    evaluate: Evaluate | None = None,
    seed: int | None = None,
    progress: bool = True,
    workdir: str | Path | None = None,
    *,
    example_inputs: Any = None,
    listeners: Sequence[object] = (),
) -> Result:
    """Compress a trained model and win its accuracy back without labels.

    Args:
        model: the teacher; never modified.
        recipe: anything that :meth:`Recipe.load` takes.
        data: unlabelled inputs, from any domain: see the README for all forms. ``None`` where no recovery step
            needs them.
        reference_data: a few unlabelled inputs of the original domain; where given, the agreement is measured
            on them.
        evaluate: called with the original, the compressed and the recovered model; its value is only reported.
        seed: of all randomness; ``None``: the recipe's.
        progress: show progress on stderr.
        workdir: folder for large temporary files; ``None``: the system's.
        example_inputs: a tensor, tuple or dict, so that ranges in the recipe count layers in forward order.
        listeners: plugin objects whose event hooks hear only this run.

    Returns:
        A :class:`Result`. The same recipe, data and seed give the same bytes on the same machine.

    Raises:
        RecipeError, DataError, FitError, RecoveryError: before any work is done wherever that can be told.
    """
    recipe = Recipe.load(recipe)
    plan = make_plan(model, recipe, example_inputs)
    steps = recovery_steps(recipe)
    workdir = _folder(workdir)
    seed = recipe.seed if seed is None else seed
    if data is None and reference_data is None and (needy := needs_data(recipe)):
        raise RecoveryError(f"{needy[0]} needs unlabelled inputs: pass data=...")

    with ExitStack() as stack:
        if progress:
            from lloydmax.progress import ProgressBars

            listeners = [*listeners, stack.enter_context(ProgressBars())]
        stack.enter_context(seeded(seed, model))
        events = Events(listeners)
        source, reference = (_source(given, model, workdir, seed) for given in (data, reference_data))
        with events.stage("prepare"):
            yardstick_source = reference or source
            yardstick = yardstick_source and Yardstick(model, yardstick_source, AGREEMENT_SAMPLES, seed)
            student = copy.deepcopy(model)
        prepare(student, plan, fit(model, plan, source, events))

        def measured_at(stage: str, model: nn.Module) -> Stage:
            score = None if evaluate is None else _score(evaluate, model)
            return Stage(stage, yardstick.measure(model) if yardstick else None, score)

        with events.stage("measure"):
            stages = [Stage("original", None, None if evaluate is None else _score(evaluate, model))]
            stages.append(measured_at("compressed", student))
        recovery = Recovery(student, model, source, reference, seed, workdir, events)
        said: list[dict[str, Any]] = []
        for figures in recover(recovery, steps):
            said.append(figures)
            if len(said) < len(steps):
                stages.append(measured_at(figures["step"], student))
        with events.stage("finish"):
            student = finished(student, plan, gradients(model))
            stages.append(measured_at(steps[-1][0] if steps else "finished", student))
            sizes = checkpoint.accountings(student)
        _warn_of_harm(stages[1:])
        weights = {name: _parameter(model, name) for name in plan.parameters}
        report = Report(
            recipe=recipe.name,
            model=plan.model,
            bytes=sizes,
            stages=stages,
            measured_on=yardstick_source.describe() if yardstick_source else None,
            layers=layer_reports(plan, weights, codebooks(student)),
            recovery=said,
            seconds=dict(events.seconds),
            seed=seed,
        )
    return Result(student, report, plan)


def recovery_steps(recipe: Recipe) -> list[tuple[str, RecoveryStep]]:
    """The recovery steps of a recipe, built: ``[(name, step)]``."""
    return [(step.step, plugins.make("step", step.step, step.options, RecoveryError)) for step in recipe.recover]


def needs_data(recipe: Recipe) -> list[str]:
    """What in a recipe cannot run without unlabelled inputs, for messages; empty: nothing."""
    importances = sorted({rule.importance for rule in recipe.quantize if rule.importance is not None})
    steps = [name for name, step in recovery_steps(recipe) if getattr(step, "needs_data", True)]
    return [*(f"importance {name!r}" for name in importances), *(f"recovery step {name!r}" for name in steps)]


def fit(
    model: nn.Module,
    plan: Plan,
    source: Source | None = None,
    events: Events | None = None,
    cache: Cache | None = None,
) -> dict[str, Codebook]:
    """Fit the codebook of every planned parameter.

    Args:
        model: the original; not changed.
        plan: of that model.
        source: unlabelled inputs, for importances.
        events: where progress is reported.
        cache: fits are looked up in it and kept in it.

    Raises:
        FitError: names a parameter that no codebook can be fitted to. RecoveryError: an importance without data.
    """
    events = events or Events()
    weights = {name: _parameter(model, name) for name in plan.parameters}
    importances = _importances(model, plan, source, events)
    fitted: dict[str, Codebook] = {}
    with events.stage("fit", total=len(plan.parameters)):
        for index, p in enumerate(plan.parameters.values(), start=1):
            try:
                fitted[p.name] = _fitted(p, weights[p.name], importances.get(p.name), cache)
            except FitError as error:
                raise FitError(f"{p.name}: {error}") from None
            events.fitted(p.name, fitted[p.name], index, len(plan.parameters))
    return fitted


def prepare(student: nn.Module, plan: Plan, codebooks: dict[str, Codebook]) -> None:
    """Turn a model, in place, into a student: codebooks attached, verified, trainable what the plan says.

    Args:
        student: the original or a copy of it; left in evaluation mode.
        plan: of the original.
        codebooks: from :func:`fit`.

    Raises:
        PlanMismatchError: the student does not hold what the plan says.
    """
    for name, codebook in codebooks.items():
        attach(student, name, codebook)
    verify_plan(plan, student)
    _set_trainable(student, plan)
    student.eval()


def recover(recovery: Recovery, steps: Sequence[tuple[str, RecoveryStep]]) -> Iterator[dict[str, Any]]:
    """Run recovery steps, one for each item taken; yields ``{"step": name, ...what it measured}``."""
    for name, step in steps:
        with recovery.events.stage(name) as figures:
            figures.update(step.run(recovery))
        yield {"step": name, **figures}


def gradients(model: nn.Module) -> dict[str, bool]:
    """``requires_grad`` of every parameter, by name."""
    return {name: parameter.requires_grad for name, parameter in model.named_parameters()}


def finished(student: nn.Module, plan: Plan, gradients: Mapping[str, bool]) -> nn.Module:
    """The student as it is run and stored: codebook modules, values as the file keeps them, verified.

    Args:
        student: changed in place.
        plan: what the student must hold.
        gradients: ``requires_grad`` that the remaining parameters get, by name: see :func:`gradients`.

    Returns:
        ``student``, or its replacement when it is itself a single layer; in evaluation mode.

    Raises:
        PlanMismatchError: the student does not hold what the plan says.
    """
    student = finish(student).eval()
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(gradients.get(name, False))
        parameter.grad = None
    student._lloydmax = {"recipe": plan.recipe.data(), "storage": plan.recipe.storage.model_dump()}  # type: ignore[assignment]
    checkpoint.round_floats(student)
    verify_plan(plan, student)
    return student


def distill(student: nn.Module, teacher: nn.Module, data: Any, **options: Any) -> dict[str, Any]:
    """Train ``student`` to give the same outputs as ``teacher`` on unlabelled data, in place.

    It trains every parameter that requires a gradient, so it serves any host's prepared model.

    Args:
        student: changed in place; left in evaluation mode.
        teacher: never changed.
        data: anything that :func:`compress` takes.
        options: of the recovery step ``distill`` (``lloydmax schema`` lists them), and ``seed``, ``workdir``,
            ``progress``, ``listeners`` as in :func:`compress`.

    Returns:
        What was measured: loss, agreement, steps, why it stopped.

    Raises:
        RecoveryError: nothing to train, wrong options. DataError: unusable data.
    """
    measured = run_step("distill", student, teacher, data, **options)
    student.eval()
    return measured


def renormalize(student: nn.Module, data: Any, teacher: nn.Module | None = None, **options: Any) -> dict[str, Any]:
    """Re-estimate the batch-norm statistics of a model from unlabelled inputs, in place.

    Args:
        student: changed in place.
        data: anything that :func:`compress` takes.
        teacher: the original, which only the option ``relative`` needs; never changed.
        options: of the recovery step ``renormalize``, and ``seed``, ``workdir``, ``progress``, ``listeners``.

    Returns:
        What was measured: samples, layers, how.

    Raises:
        RecoveryError: wrong options. DataError: unusable data.
    """
    return run_step("renormalize", student, student if teacher is None else teacher, data, **options)


def run_step(
    name: str,
    student: nn.Module,
    teacher: nn.Module,
    data: Any,
    *,
    reference_data: Any = None,
    seed: int = 0,
    workdir: str | Path | None = None,
    progress: bool = False,
    listeners: Sequence[object] = (),
    **options: Any,
) -> dict[str, Any]:
    """Run one registered recovery step on its own; see :func:`distill` for the arguments."""
    made = plugins.make("step", name, options, RecoveryError)
    workdir = _folder(workdir)
    separate(student, teacher)
    with ExitStack() as stack:
        if progress:
            from lloydmax.progress import ProgressBars

            listeners = [*listeners, stack.enter_context(ProgressBars())]
        stack.enter_context(seeded(seed, student))
        source, reference = (_source(given, teacher, workdir, seed) for given in (data, reference_data))
        _settle(student, source)
        events = Events(listeners)
        with events.stage(name) as measured:
            measured.update(made.run(Recovery(student, teacher, source, reference, seed, workdir, events)))
    return measured


def _settle(student: nn.Module, source: Source | None) -> None:
    """Run the student once: a host's prepared model has observers and codebooks that take shape at the first input."""
    if source is not None:
        with evaluating(student):
            for _, batch in source.batches(_FIRST, torch.arange(min(_FIRST, len(source)))):
                batch.to(device_of(student)).run(student)


def _source(data: Any, model: nn.Module, workdir: Path | None, seed: int) -> Source | None:
    return None if data is None else unlabelled(data, model, workdir=workdir, seed=seed)


def _parameter(model: nn.Module, name: str) -> Tensor:
    return model.get_parameter(name).detach()


def _importances(model: nn.Module, plan: Plan, source: Source | None, events: Events) -> dict[str, Tensor]:
    importances: dict[str, Tensor] = {}
    for kind in sorted({p.importance for p in plan.parameters.values() if p.importance is not None}):
        if source is None:
            raise RecoveryError(f"importance {kind!r} needs unlabelled inputs: pass data=...")
        names = [p.name for p in plan.parameters.values() if p.importance == kind]
        with events.stage(f"importance {kind}"), evaluating(model), torch.enable_grad():
            importances |= plugins.make("importance", kind, {}).measure(model, names, source)
    return importances


def _fitted(p: PlannedParameter, weight: Tensor, importance: Tensor | None, cache: Cache | None) -> Codebook:
    def make() -> Codebook:
        check_weight(weight, importance)
        found: Codebook = plugins.make("quantizer", p.quantizer, p.options).fit(
            weight, importance=importance, axis=p.axis
        )
        return found

    if cache is None:
        return make()
    tensors = [weight] if importance is None else [weight, importance]
    key = ("codebook", fingerprint(tensors), p.quantizer, p.options.model_dump_json(), p.axis, weight.device)
    found = cache.get(key, make, lambda made: made.codes.nbytes + made.centroids.nbytes)
    return replace(found, centroids=found.centroids.clone(), codes=found.codes.clone())


def _set_trainable(student: nn.Module, plan: Plan) -> None:
    for parameter in student.parameters():
        parameter.requires_grad_(False)
    centroids = {name: original for name, _, _, _, original in attached(student)}
    plain = dict(student.named_parameters())
    for name in plan.trainable:
        (centroids[name] if name in centroids else plain[name]).requires_grad_(True)


def _warn_of_harm(stages: Sequence[Stage]) -> None:
    for before, after in pairwise(stages):
        if before.agreement is None or after.agreement is None:
            continue
        if after.agreement.mse > _HARM * before.agreement.mse:
            warnings.warn(
                f"recovery step {after.name!r} moved the outputs away from the original's on this data (mean squared "
                f"difference {before.agreement.mse:.3g} -> {after.agreement.mse:.3g}): leave it out or change its "
                "options; for data of another domain renormalize has 'relative: true'",
                stacklevel=3,
            )


def _folder(workdir: str | Path | None) -> Path | None:
    if workdir is None or Path(workdir).is_dir():
        return None if workdir is None else Path(workdir)
    raise DataError(f"workdir {workdir} is not a folder")


def _score(evaluate: Evaluate, model: nn.Module) -> float:
    with evaluating(model):
        return float(evaluate(model))
