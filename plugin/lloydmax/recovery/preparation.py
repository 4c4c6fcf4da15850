"""TODO docstring."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from lloydmax import checkpoint
from lloydmax.codebook.codebook import Codebook
from lloydmax.plan.plan import Plan, verify_plan
from lloydmax.student.codebooks import attach, attached, finish
from lloydmax.student.held import remember


def prepare(student: nn.Module, plan: Plan, codebooks: Mapping[str, Codebook]) -> None:
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
    return _remembering(student, plan)


def _remembering(student: nn.Module, plan: Plan) -> nn.Module:
    """The finished student, verified, with its recipe; values as the file keeps them."""
    remember(student, plan.recipe.data(), plan.recipe.storage.model_dump())
    checkpoint.round_floats(student)
    verify_plan(plan, student)
    return student


def _set_trainable(student: nn.Module, plan: Plan) -> None:
    for parameter in student.parameters():
        parameter.requires_grad_(False)
    centroids = {name: original for name, _, _, _, original in attached(student)}
    plain = dict(student.named_parameters())
    for name in plan.trainable:
        (centroids[name] if name in centroids else plain[name]).requires_grad_(True)
