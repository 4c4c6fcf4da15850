"""Recovery: the steps of a recipe, run in order on a student, or one of them on its own."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lloydmax.data import Source, unlabelled
from lloydmax.errors import DataError, ModelError, OutputError, RecoveryError
from lloydmax.hooks import registry
from lloydmax.hooks.events import Events, heard
from lloydmax.hooks.protocols import Recovery, RecoveryStep, seeded
from lloydmax.hooks.time_limit import TimeUp
from lloydmax.network.given import network, refuse_lazy
from lloydmax.network.outputs import AskedOutputs, Auto, Outputs
from lloydmax.network.private import original, private
from lloydmax.progress.bars import ProgressBars, drawn
from lloydmax.recipe.recipe import Recipe
from lloydmax.recovery.soundness import kept_sound
from lloydmax.runtime import processes
from lloydmax.runtime.cache import Cache, number
from lloydmax.runtime.dense import not_dense
from lloydmax.runtime.digest import arrays_in
from lloydmax.runtime.files import made_folder
from lloydmax.runtime.modes import device_of, evaluating, own_modes
from lloydmax.runtime.seeding import check_seed
from lloydmax.runtime.temporary import sweep
from lloydmax.student.attachment import separate
from lloydmax.student.int8.model import Int8Model
from lloydmax.teacher.finite import LOOKED_AT, look
from lloydmax.teacher.refusal import ask
from lloydmax.teacher.trial import tried

_FIRST = 8
"""Inputs of the first forward pass of a host's prepared model."""
_FEW = {"samples": 32, "rows": 4096}
"""Options of a step that is run to compare codebooks: at most so many."""
_SPENT = "backward through the graph a second time"
"""What torch says of a tensor whose history is used up."""


NamedStep = tuple[str, RecoveryStep]
"""A recovery step with its registered name."""


@contextmanager
def running(model: nn.Module, seed: int, progress: bool, listeners: Sequence[object]) -> Iterator[Events]:
    """What every run needs, and its events: bars on stderr, the processes of the launcher together, seeds set.

    Args:
        model: on the device of the run.
        seed: of the global random state, which is restored afterwards.
        progress: whether to show bars.
        listeners: plugin objects whose event hooks hear only this run.
    """
    with ExitStack() as stack:
        if progress and drawn() and processes.writes():
            listeners = [*listeners, stack.enter_context(ProgressBars())]
        stack.enter_context(processes.together(device_of(model)))
        stack.enter_context(seeded(seed, model))
        yield Events(listeners)


def recovery_steps(recipe: Recipe) -> list[NamedStep]:
    """The recovery steps of a recipe, built."""
    return [(step.step, registry.make("step", step.step, step.options, RecoveryError)) for step in recipe.recover]


def settling(steps: Sequence[NamedStep]) -> list[RecoveryStep]:
    """Those that only take up what clustering shifts as a whole, with few inputs: codebooks are compared with them."""
    return [_with_few(step) for _, step in steps if getattr(step, "settles", False)]


def untrained(steps: Sequence[NamedStep]) -> list[RecoveryStep]:
    """All those that do not train, with few inputs; none where no other than those that settle is among them."""
    found = [step for _, step in steps if not hasattr(getattr(step, "options", None), "epochs")]
    return [] if all(getattr(step, "settles", False) for step in found) else [_with_few(step) for step in found]


def _with_few(step: Any) -> RecoveryStep:
    options = getattr(step, "options", None)
    given = ((name, getattr(options, name, None), most) for name, most in _FEW.items())
    fewer = {name: min(value, most) for name, value, most in given if value is not None}
    return type(step)(options.model_copy(update=fewer)) if options is not None and fewer else step


def needs_data(recipe: Recipe) -> list[str]:
    """What in a recipe cannot run without unlabelled inputs, for messages; empty: nothing."""
    importances = sorted({rule.importance for rule in recipe.quantize if rule.importance is not None})
    steps = [name for name, step in recovery_steps(recipe) if getattr(step, "needs_data", True)]
    calibrated = ["'activations:'"] if recipe.activations else []
    weighted = [f"importance {name!r}" for name in importances]
    return [*weighted, *calibrated, *(f"recovery step {name!r}" for name in steps)]


def recover(recovery: Recovery, steps: Sequence[NamedStep]) -> Iterator[dict[str, Any]]:
    """Run recovery steps, one for each item taken; yields ``{"step": name, ...what it measured}``."""
    for name, step in steps:
        with recovery.events.stage(name) as figures, kept_sound(name, recovery):
            figures.update(step.run(recovery))
        yield {"step": name, **figures}


def in_time(recovery: Recovery, step: NamedStep) -> dict[str, Any]:
    """Run a recovery step as far as there is time for it; what it measured, with ``cut`` in words where it was cut."""
    try:
        with recovery.limit.ending():
            return next(recover(recovery, [step]))
    except TimeUp:
        return {"cut": "ended before it was done"}


def tried_for(
    steps: Sequence[NamedStep],
    teacher: nn.Module,
    sources: Iterable[Source | None],
    asked: AskedOutputs,
    cache: Cache | None = None,
) -> Outputs | None:
    """How outputs are read, see :func:`lloydmax.teacher.trial.tried`; ``None`` also where no step compares any (none
    has an option ``output``) and those of this teacher cannot be compared.

    Raises:
        DataError: the teacher cannot take the data. RecoveryError: its outputs cannot be compared, but have to be.
    """
    try:
        return tried(teacher, sources, asked, cache)
    except RecoveryError:
        if any("output" in type(step).Options.model_fields for _, step in steps):
            raise
        return None


def distill(student: nn.Module, teacher: nn.Module, data: Any, **options: Any) -> dict[str, Any]:
    """Train ``student`` to give the same outputs as ``teacher`` on unlabelled data, in place.

    It trains every parameter that requires a gradient, so it serves any host's prepared model.

    Args:
        student: changed in place; left in evaluation mode.
        teacher: never changed.
        data: anything that :func:`lloydmax.compress` takes.
        options: of the recovery step ``distill`` (``lloydmax schema`` lists them), and ``seed``, ``workdir``,
            ``progress``, ``listeners``, ``tokenizer`` as in :func:`lloydmax.compress`, and ``classes`` and ``mask`` as
            in a recipe.

    Returns:
        What was measured: loss, agreement, steps, why it stopped.

    Raises:
        RecoveryError, ModelError, DataError: as :func:`run_step`.
    """
    measured = run_step("distill", student, teacher, data, **options)
    student.eval()
    return measured


def renormalize(student: nn.Module, data: Any, teacher: nn.Module | None = None, **options: Any) -> dict[str, Any]:
    """Re-estimate the batch-norm statistics of a model from unlabelled inputs, in place.

    Args:
        student: changed in place.
        data: anything that :func:`lloydmax.compress` takes.
        teacher: the original, which only the option ``relative`` needs; never changed.
        options: of the recovery step ``renormalize``, and ``seed``, ``workdir``, ``progress``, ``listeners``,
            ``tokenizer``.

    Returns:
        What was measured: samples, layers, how.

    Raises:
        RecoveryError, ModelError, DataError: as :func:`run_step`.
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
    classes: int | Auto | None = "auto",
    mask: str | None = "auto",
    tokenizer: Any = None,
    **options: Any,
) -> dict[str, Any]:
    """Run one registered recovery step on its own; see :func:`distill` for the arguments.

    Raises:
        RecoveryError: no such step, wrong options, nothing to train, or a student that does not take what the teacher
            takes. ModelError: student or teacher is not a network, or has no values. DataError: unusable data.
    """
    with own_modes():
        made = registry.make("step", name, options, RecoveryError)
        seed, listeners = check_seed(seed), heard(listeners)
        workdir = folder(workdir)
        _check_student(student)
        separate(student, network(teacher, "the teacher"))
        teacher = student if teacher is student else private(teacher)
        with running(student, seed, progress, listeners) as events:
            source, reference = (
                open_source(given, teacher, workdir, seed, tokenizer=tokenizer) for given in (data, reference_data)
            )
            asked = AskedOutputs(options.get("output"), classes, mask)
            outputs = tried_for([(name, made)], teacher, (source, reference), asked)
            _settle(student, source)
            if outputs is not None and teacher is not student and not hasattr(getattr(made, "options", None), "epochs"):
                for opened in filter(None, (source, reference)):
                    look(teacher, opened, outputs, opened.draw(LOOKED_AT, seed))
            recovery = Recovery(student, teacher, source, reference, seed, workdir, events, outputs=outputs)
            with events.stage(name) as measured, kept_sound(name, recovery):
                measured.update(_ran(made, recovery))
            for opened in filter(None, (source, reference)):
                opened.tell()
        return measured


def _ran(step: RecoveryStep, recovery: Recovery) -> dict[str, Any]:
    """What a step measured.

    Raises:
        RecoveryError: something in the student was computed once, with a history that no second step can go through.
    """
    try:
        return step.run(recovery)
    except RuntimeError as error:
        if _SPENT not in str(error):
            raise
        raise RecoveryError(
            "the student holds a tensor that was computed from others before, through which gradients can go only "
            "once: make it a parameter, or compute it in forward"
        ) from error


def _check_student(student: nn.Module) -> None:
    """Refuse what cannot be trained in place.

    Raises:
        ModelError: it names what is in the way. RecoveryError: it runs on int8 kernels.
    """
    refuse_lazy(network(student, "the student"), "the student")
    if any(isinstance(module, Int8Model) for module in student.modules()):
        raise RecoveryError(
            "the student runs on int8 kernels, which cannot be trained: compress with the step in the recipe, which "
            "then runs before the kernels"
        )
    for name, held in (*student.named_parameters(), *student.named_buffers()):
        if held.is_meta:
            raise ModelError(f"{name} of the student is on the meta device, it has no values: load the weights first")
        if held.requires_grad and (kind := not_dense(held)):
            raise ModelError(f"{name} of the student is {kind}, or leave it out: {name}.requires_grad_(False)")
        if isinstance(held, nn.Parameter) and held.is_inference():
            raise ModelError(
                f"{name} of the student was made in inference mode, so that nothing can be trained: make or copy "
                "the student outside of torch.inference_mode()"
            )


def _settle(student: nn.Module, source: Source | None) -> None:
    """Run the student once: a host's prepared model has observers and codebooks that take shape at the first input.

    Raises:
        RecoveryError: it does not take what the teacher takes.
    """
    if source is None:
        return
    with evaluating(student):
        for _, batch in source.batches(_FIRST, torch.arange(min(_FIRST, len(source)))):
            try:
                ask(student, batch.to(device_of(student)))
            except DataError as error:
                raise RecoveryError(
                    f"the student has to take the same inputs as the teacher, in shape and dtype: {error}"
                ) from error


def open_source(
    data: Any,
    model: nn.Module,
    workdir: Path | None,
    seed: int,
    cache: Cache | None = None,
    tokenizer: Any = None,
) -> Source | None:
    """Unlabelled inputs for this model, or ``None`` where none were given.

    With a ``cache``, runs share the source of the same object or path as long as its contents are the same, see
    :meth:`~lloydmax.data.Source.contents`. What can be read only once is shared as it is.
    """
    if data is None:
        return None
    make = partial(unlabelled, data, model, workdir=workdir, seed=seed, tokenizer=tokenizer)
    if cache is None:
        return _anew(_alike(make(), model))
    held = [data, *arrays_in(data), tokenizer]
    same = str(data) if isinstance(data, (str, Path)) else tuple(map(id, held))
    key = ("source", same, number(original(model)), seed)
    if isinstance(data, Iterator):
        _, source = cache.get(key, lambda: (held, make()))
        return _anew(_alike(source, model))
    opened = _alike(make(), model)
    contents = opened.contents()
    # a source of the caller's is copied: what is kept under its number holds for these contents only
    _, source = cache.get((*key, contents), lambda: (held, copy.copy(opened) if opened is data else opened))
    return _anew(source, contents)


def _alike(source: Source, model: nn.Module) -> Source:
    """The source, where all processes have the same.

    Raises:
        DataError: each has samples of its own.
    """
    if processes.size() > 1 and not processes.alike(source.sketch(), device_of(model)):
        raise DataError(
            f"the {processes.size()} processes were given different data ({source.describe()} in this one): give all "
            "of them the same, such as the whole dataset or a loader without shares; the work is shared out here"
        )
    return source


def _anew(source: Source, contents: bytes | None = None) -> Source:
    """Without what the model of an earlier run could not use; with what is known of its contents now."""
    source.left_out.restart()
    source.known = contents
    return source


def folder(workdir: str | Path | None, keep: bool = True) -> Path | None:
    """A folder for large temporary files, made if it is missing; ``None``: the system's.

    Args:
        workdir: the folder.
        keep: see :func:`~lloydmax.runtime.files.made_folder`.

    Raises:
        OutputError: it cannot be made, or written into.
    """
    try:
        if workdir is None:
            return None
        found = made_folder(workdir, keep)
    except OutputError as error:
        raise OutputError(f"workdir {error}") from None
    if keep:
        sweep(found)
    return found
