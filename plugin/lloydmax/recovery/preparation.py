"""From the plan and its codebooks to a student that can be trained, and from the student to what is saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from torch import nn

from lloydmax.codebook.codebook import Codebook
from lloydmax.data import Source
from lloydmax.format.parts import round_floats
from lloydmax.hooks.events import Events
from lloydmax.network.copying import deep_copy
from lloydmax.network.folding import fold_batch_norms
from lloydmax.network.parameters import promote
from lloydmax.plan.plan import Plan, plan_as_is, verify_plan
from lloydmax.student import int8
from lloydmax.student.attachment import released
from lloydmax.student.held import remember
from lloydmax.student.student import CodebookStudent, Int8Student, Student


def changes(teacher: nn.Module, plan: Plan) -> bool:
    """Whether codebooks are fitted to another model than the teacher, though no step runs before: see
    :func:`to_be_fitted`."""
    held_in_buffers = {name for name, buffer in teacher.named_buffers() if not isinstance(buffer, nn.Parameter)}
    return plan.recipe.activations is not None or not held_in_buffers.isdisjoint(plan.parameters)


def to_be_fitted(
    teacher: nn.Module, student: nn.Module, plan: Plan, changed: bool, example_inputs: object = None
) -> tuple[nn.Module, Plan]:
    """The weights that codebooks are fitted to, and their plan.

    Args:
        teacher: the original.
        student: a copy of it, as the steps before the fit have changed it. In place, batch norms are folded where the
            plan's recipe quantizes activations, and buffers that get codebooks become parameters.
        plan: of the teacher.
        changed: whether any step ran before the fit.
        example_inputs: see :func:`lloydmax.plan`.

    Returns:
        The teacher, or a copy of the student where this is another model now; and the plan of that.
    """
    changed |= plan.recipe.activations is not None and bool(fold_batch_norms(student))
    changed |= promote(student, plan.parameters)
    if not changed:
        return teacher, plan
    made = plan_as_is(student, plan.recipe, example_inputs, like=plan)
    told = tuple(note for note in plan.structure if note not in made.structure)
    return deep_copy(student), replace(made, structure=made.structure + told)


def student_of(
    model: nn.Module,
    plan: Plan,
    codebooks: Mapping[str, Codebook],
    gradients: Mapping[str, bool],
    calibration: Source | None,
    seed: int,
    events: Events,
) -> Student:
    """The student of the kind that the recipe asks for; what it holds is verified, what trains is what the plan says.

    Args:
        model: what the codebooks were fitted to, or a copy; used up.
        plan: of that model.
        codebooks: by parameter name.
        gradients: ``requires_grad`` that the remaining parameters get in the end, by name.
        calibration: unlabelled inputs for the ranges of activations, where these are quantized.
        seed: of the choice of calibration samples.
        events: where progress is reported.

    Raises:
        PlanMismatchError: the student does not hold what the plan says.
        IntegrationError: a model that cannot run with quantized activations.
    """
    settings = plan.recipe.activations
    if settings is None:
        return prepare(model, plan, codebooks, gradients)
    assert calibration is not None
    with events.stage("calibrate"):
        student = Int8Student(model, plan.parameters, codebooks, settings.bits, settings.scheme, settings.host)
        int8.calibrate(student.model, calibration, settings.samples, seed, partial(events.step, "calibrate"))
        student.train_only(plan.trainable)
    return student


def prepare(
    model: nn.Module, plan: Plan, codebooks: Mapping[str, Codebook], gradients: Mapping[str, bool] | None = None
) -> CodebookStudent:
    """A model, in place, as a student with codebooks; see :func:`student_of` for the arguments and errors."""
    student = CodebookStudent(model, codebooks, plan.trainable, gradients or {})
    verify_plan(plan, model)
    return student


def finished(model: nn.Module, plan: Plan, gradients: Mapping[str, bool]) -> nn.Module:
    """A trained model with codebooks as it is run and stored, :func:`sealed`.

    Args:
        model: changed in place.
        plan: what it must hold.
        gradients: ``requires_grad`` that the remaining parameters get, by name.

    Returns:
        ``model``, or its replacement when it is itself a single layer; in evaluation mode.

    Raises:
        PlanMismatchError: the model does not hold what the plan says.
    """
    return sealed(released(model, gradients), plan)


def sealed(model: nn.Module, plan: Plan) -> nn.Module:
    """A finished model, verified, with its recipe; values as the file keeps them.

    Raises:
        PlanMismatchError: the model does not hold what the plan says.
    """
    remember(model, plan.recipe.data(), plan.recipe.storage.model_dump())
    round_floats(model)
    verify_plan(plan, model)
    return model


def gradients(model: nn.Module) -> dict[str, bool]:
    """``requires_grad`` of every parameter, by name."""
    return {name: parameter.requires_grad for name, parameter in model.named_parameters()}
