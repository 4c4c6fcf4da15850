"""The pipeline: plan, fit, recover, finish, measure."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import nn

from lloydmax import checkpoint
from lloydmax.errors import RecoveryError
from lloydmax.fitting.fit import fit
from lloydmax.hooks.events import Events
from lloydmax.hooks.protocols import Recovery, RecoveryStep, seeded
from lloydmax.network.folding import fold_batch_norms
from lloydmax.plan.plan import Plan, plan_as_is
from lloydmax.plan.plan import plan as make_plan
from lloydmax.progress.history import History
from lloydmax.recipe.recipe import Recipe
from lloydmax.recovery.preparation import _remembering, finished, gradients, prepare
from lloydmax.recovery.resume import Progress, identity
from lloydmax.recovery.steps import folder, needs_data, open_source, recover, recovery_steps
from lloydmax.report import Report, Stage, layer_reports
from lloydmax.runtime import processes
from lloydmax.runtime.cache import Cache
from lloydmax.runtime.modes import device_of, evaluating
from lloydmax.student.codebooks import codebooks
from lloydmax.student.int8 import graph as int8_graph
from lloydmax.teacher.agreement import Agreement, Comparison

AGREEMENT_SAMPLES = 1000
_HARM, _KL_SLACK = 1.1, 1e-3
"""Factor, and nats beside it, from which a step did harm."""
INT8 = "int8"
"""Name of the stage after conversion to int8 kernels."""
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
    cache: Cache | None = None,
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
        workdir: folder for large temporary files, and for the state of the recovery: after a kill the same call
            goes on from there and ends in the same bytes. ``None``: the system's, and no state is kept.
        example_inputs: a tensor, tuple or dict, so that ranges in the recipe count layers in forward order.
        listeners: plugin objects whose event hooks hear only this run.
        cache: a :class:`lloydmax.Cache` in which runs over the same model and data share codebooks and the
            teacher's outputs, the trials of a tuning loop for example.

    Returns:
        A :class:`Result`. The same recipe, data and seed give the same bytes on the same machine. Ctrl-C in a
        recovery step ends the recovery: what the step has reached so far is finished, with a warning.

    Raises:
        RecipeError, DataError, FitError, RecoveryError: before any work is done wherever that can be told.
    """
    recipe = Recipe.load(recipe)
    plan = make_plan(model, recipe, example_inputs)
    steps = recovery_steps(recipe)
    early = [step for step in steps if getattr(step[1], "before_fit", False)]
    late = steps[len(early) :]
    workdir = folder(workdir)
    seed = recipe.seed if seed is None else seed
    if data is None and reference_data is None and (needy := needs_data(recipe)):
        raise RecoveryError(f"{needy[0]} needs unlabelled inputs: pass data=...")

    with ExitStack() as stack:
        if progress and processes.writes():
            from lloydmax.progress.bars import ProgressBars

            listeners = [*listeners, stack.enter_context(ProgressBars())]
        stack.enter_context(processes.together(device_of(model)))
        stack.enter_context(seeded(seed, model))
        history = History()
        events = Events([*listeners, history])
        source, reference = (open_source(given, model, workdir, seed, cache) for given in (data, reference_data))
        with events.stage("prepare") as figures:
            figures |= {"layers": float(len(plan.parameters)), "model_bytes": float(plan.original_bytes)}
            events.step("prepare", 0, 1, figures)
            yardstick_source = reference or source
            yardstick = yardstick_source and Comparison(
                model, yardstick_source, AGREEMENT_SAMPLES, seed, cache=cache, events=events
            )
            student = copy.deepcopy(model)
            stages = [Stage("original", None, None if evaluate is None else _score(evaluate, model))]
            events.step("prepare", 1, 1)
        said: list[dict[str, Any]] = []

        def measured_at(stage: str, model: nn.Module) -> Stage:
            with events.stage("measure", total=len(yardstick.order) if yardstick else None) as figures:
                score = None if evaluate is None else _score(evaluate, model)
                agreement = yardstick.measure(model, partial(events.step, "measure")) if yardstick else None
                if agreement is not None:
                    figures |= {"agreement": agreement.top1, "kl": agreement.kl, "mse": agreement.mse}
                figures |= {} if score is None else {"score": score}
            return Stage(stage, agreement, score)

        recovery = Recovery(student, model, source, reference, seed, workdir, events, cache)
        for figures in recover(recovery, early):
            said.append(figures | history.take(figures["step"]))
            stages.append(measured_at(figures["step"], student))
        original: nn.Module = model
        if early or recipe.activations:
            if recipe.activations:
                fold_batch_norms(student)
            original = copy.deepcopy(student)
            plan = plan_as_is(original, recipe, example_inputs, like=plan)
        fitted = fit(original, plan, source, events, cache)
        skeleton = student
        if recipe.activations:
            calibration = source or reference
            assert calibration is not None
            with events.stage("calibrate"):
                student = int8_graph.prepare(
                    student, plan, fitted, calibration, seed, partial(events.step, "calibrate")
                )
        else:
            prepare(student, plan, fitted)
        stages.append(measured_at("compressed", student))
        recovery.student, recovery.original = student, original
        kept = Progress(
            workdir, [] if workdir is None else [recipe.data(), seed, *identity(model, (source, reference))]
        )
        for number, step in enumerate(late, start=1):
            recovery.part = kept.part(number)
            try:
                said.append(kept.step(number, student, partial(_one, recovery, step, history)))
            except KeyboardInterrupt:
                said.append({"step": step[0], "stopped": "interrupted", **history.take(step[0])})
                warnings.warn(_interrupted(step[0], kept), stacklevel=2)
                break
            if number < len(late) or recipe.activations:
                stages.append(measured_at(step[0], student))
        with events.stage("finish") as figures:
            events.step("finish", 0, len(plan.parameters), {"predicted_bytes": float(plan.predicted_bytes)})
            if recipe.activations:
                student = _remembering(int8_graph.convert(student, plan, skeleton), plan)
            else:
                student = finished(student, plan, gradients(original))
            last = late[-1][0] if late else "finished"
            stages.append(measured_at(INT8 if recipe.activations else last, student))
            sizes = checkpoint.accountings(student, tell=partial(events.step, "finish"))
            sizes = replace(sizes, original=plan.original_bytes)
            figures |= {"file_bytes": sizes.file, "reduction": 1 - sizes.file / sizes.original}
        _warn_of_harm(stages[1 + len(early) :])
        _warn_of_size(sizes.file, plan)
        weights = {name: original.get_parameter(name).detach() for name in plan.parameters}
        report = Report(
            recipe=recipe.name,
            model=plan.model,
            bytes=sizes,
            stages=stages,
            measured_on=yardstick.describe() if isinstance(yardstick, Comparison) else None,
            layers=layer_reports(plan, weights, codebooks(student)),
            trained=[name for name, _ in original.named_parameters() if name in plan.trainable - set(plan.parameters)],
            recovery=said,
            seconds=dict(events.seconds),
            seed=seed,
        )
    return Result(student, report, plan)


def _one(recovery: Recovery, step: tuple[str, RecoveryStep], history: History) -> dict[str, Any]:
    return next(recover(recovery, [step])) | history.take(step[0])


def _interrupted(step: str, kept: Progress) -> str:
    said = f"interrupted in {step!r}: the model is finished as it is now, without the steps that were left"
    return said if kept.folder is None else f"{said}; the same call goes on from {kept.folder}"


def _warn_of_size(size: int, plan: Plan) -> None:
    if plan.recipe.bits is not None and size > plan.predicted_bytes:
        warnings.warn(
            f"{plan.recipe.at('bits')}: the file takes {size} bytes, more than the {plan.predicted_bytes} that "
            f"{plan.recipe.bits:g} bits a weight are: recovery changed the codes too much, or no price of a bit gives "
            "so small a file; ask for fewer bits, or for more recovery steps",
            stacklevel=3,
        )


def _warn_of_harm(stages: Sequence[Stage]) -> None:
    for before, after in pairwise(stages):
        if before.agreement is None or after.agreement is None:
            continue
        if harm := _harm(before.agreement, after.agreement):
            what = f"recovery step {after.name!r}"
            advice = (
                "leave it out or change its options; renormalize and correct_bias have 'relative: true', for data of "
                "another domain and for few centroids"
            )
            if after.name == INT8:
                what, advice = (
                    "conversion to int8",
                    "the kernels of this machine compute something else than was trained",
                )
            warnings.warn(
                f"{what} moved the outputs away from the original's on this data ({harm}): {advice}",
                stacklevel=3,
            )


def _harm(before: Agreement, after: Agreement) -> str | None:
    if before.kl is not None and after.kl is not None and after.kl < before.kl:
        return None
    for name, old, new, slack in (
        ("mean squared difference", before.mse, after.mse, 0.0),
        ("KL divergence", before.kl, after.kl, _KL_SLACK),
    ):
        if old is not None and new is not None and new > _HARM * old + slack:
            return f"{name} {old:.3g} -> {new:.3g}"
    return None


def _score(evaluate: Evaluate, model: nn.Module) -> float:
    with evaluating(model):
        return float(evaluate(model))
