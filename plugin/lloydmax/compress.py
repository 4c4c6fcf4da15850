"""The one call: a trained model, a recipe and inputs without labels make a small model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from lloydmax.checkpoint import save
from lloydmax.errors import RecipeError, RecoveryError
from lloydmax.format.parts import check_state
from lloydmax.hooks.events import heard
from lloydmax.hooks.time_limit import TimeLimit
from lloydmax.network.private import private
from lloydmax.pipeline import Run
from lloydmax.plan.plan import Plan
from lloydmax.plan.plan import plan as make_plan
from lloydmax.recipe.recipe import Recipe
from lloydmax.recovery.steps import (
    folder,
    needs_data,
)
from lloydmax.report.report import Report
from lloydmax.report.score import Evaluate
from lloydmax.runtime.amounts import size
from lloydmax.runtime.cache import Cache, checked_cache
from lloydmax.runtime.modes import own_modes
from lloydmax.runtime.seeding import check_seed
from lloydmax.student import int8
from lloydmax.student.extra import extra_states


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
        return save(self.model, path)


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
    tokenizer: Any = None,
    listeners: Sequence[object] = (),
    cache: Cache | None = None,
    max_time: float | str | TimeLimit | None = None,
    max_memory: int | str | None = None,
) -> Result:
    """Compress a trained model and win its accuracy back without labels.

    Args:
        model: the teacher; never changed, not even for a moment, so that other threads may use it meanwhile.
            ``DataParallel``, ``torch.compile`` and other wrappers are seen through.
        recipe: anything that :meth:`Recipe.load` takes.
        data: unlabelled inputs, from any domain; `recipes/README.md` has all forms. ``None`` where no recovery step
            needs them, and where the recipe has ``synthesize``: then inputs are made, and the agreement is measured on
            made inputs of another kind.
        reference_data: a few unlabelled inputs of the original domain; where given, the agreement is measured
            on them.
        evaluate: called with the original, the compressed and the recovered model; its value is only reported.
        seed: of all randomness; ``None``: the recipe's.
        progress: show progress on stderr.
        workdir: folder for large temporary files, and for the state of the recovery, made if it is missing: after a
            kill the same call goes on from there and ends in the same bytes. What is damaged there is set aside, with
            a warning, and done again. While another process makes the same call, this one waits, and says so.
            `recipes/README.md` tells what counts as the same. ``None``: the system's, and no state is kept.
        example_inputs: a tensor, tuple or dict, so that ranges in the recipe count layers in forward order, and inputs
            that are made (``synthesize``) have their shapes.
        tokenizer: for data that are texts: of ``transformers`` or ``tokenizers``, or any function from a text to token
            numbers.
        listeners: plugin objects whose event hooks hear only this run.
        cache: a :class:`lloydmax.Cache` in which runs over the same model and data share codebooks and the
            teacher's outputs, the trials of a tuning loop for example.
        max_time: seconds, or a text such as ``10m`` or ``1h30m``, after which the model is to be finished: recovery
            steps take as many steps as there is time for, and where there is very little, fewer inputs are looked at.
            What was cut stands in the report. Codebooks are fitted in any case. ``None``: all is done.
        max_memory: bytes, or a text such as ``2GB``, that the process is to have at most (of a model on a CUDA device:
            there). Batches then go through the models in parts; inputs that are mixed are mixed within these.

    Returns:
        A :class:`Result`. Without ``max_time`` the same recipe, data and seed give the same bytes on the same machine.
        Ctrl-C in a
        recovery step ends the recovery: what the step has reached so far is finished, with a warning.

    Raises:
        ModelError, RecipeError, DataError, FitError, RecoveryError: before any work is done wherever that can be told.
            Before the first forward pass: BudgetError where ``bits`` are out of reach, RecoveryError where
            ``max_memory`` is, CheckpointError where no file
            can hold the model, OutputError where ``workdir`` cannot be made or written into; that also later, when the
            disk is full.
    """
    limit, most = TimeLimit.of(max_time), None if max_memory is None else size("max_memory", max_memory, RecipeError)
    with own_modes():
        recipe, teacher = Recipe.load(recipe), private(model)
        seed, listeners = check_seed(recipe.seed if seed is None else seed), heard(listeners)
        checked_cache(cache)
        if not (evaluate is None or callable(evaluate)):
            raise RecipeError(
                f"evaluate is a function of a model that gives a number, not of type {type(evaluate).__name__}"
            )
        planned = make_plan(teacher, recipe, example_inputs)
        given_none = data is None and reference_data is None
        if given_none and recipe.synthesize is None and (needy := needs_data(recipe)):
            raise RecoveryError(f"{needy[0]} needs unlabelled inputs: pass data=...")
        check_state(teacher)
        if recipe.activations is not None and (extra := [*extra_states(teacher)]):
            raise RecipeError(f"{recipe.at('activations')}: int8 kernels keep no extra state, as {extra[0]!r} does")
        if recipe.activations is not None:
            int8.refuse(None, planned.parameters)
        run = Run(
            teacher, recipe, planned, seed, folder(workdir), evaluate, cache, example_inputs, tokenizer, limit, most
        )
        with run.opened(data, reference_data, progress, listeners):
            original, plan = run.plan()
            student, plan = run.fit(original, plan)
            run.recover(student, plan)
            student, plan = run.best(student, original, plan)
            return Result(*run.assemble(student, original, replace(plan, outputs=run.told())))
