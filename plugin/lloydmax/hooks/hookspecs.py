"""The hooks that a plugin can implement.

A plugin is a module (or object) with functions marked ``@lloydmax.hookimpl`` under the names below, announced
by its distribution in the entry-point group ``lloydmax``::

    [project.entry-points.lloydmax]
    my_plugin = "my_package.my_module"

The four *registries* return ``{name: class}``. Every class has a pydantic ``Options`` (unknown keys forbidden),
is built with an instance of it, and does one thing; :mod:`lloydmax.hooks.protocols` has the exact signatures.
*finished* is for hosts. The *events* return nothing; progress bars, loggers, trackers and trial pruners implement them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from torch import nn

    from lloydmax.codebook.codebook import Codebook

hookspec = pluggy.HookspecMarker("lloydmax")
hookimpl = pluggy.HookimplMarker("lloydmax")


@hookspec
def lloydmax_quantizers() -> dict[str, type]:  # type: ignore[empty-body]
    """Return ``{name: class}`` of quantizers: weight -> codebook (:class:`lloydmax.hooks.protocols.Quantizer`)."""


@hookspec
def lloydmax_recovery_steps() -> dict[str, type]:  # type: ignore[empty-body]
    """Return ``{name: class}`` of recovery steps (:class:`lloydmax.hooks.protocols.RecoveryStep`)."""


@hookspec
def lloydmax_importances() -> dict[str, type]:  # type: ignore[empty-body]
    """Return ``{name: class}`` of importances: how much each weight matters
    (:class:`lloydmax.hooks.protocols.Importance`)."""


@hookspec
def lloydmax_search_methods() -> dict[str, type]:  # type: ignore[empty-body]
    """Return ``{name: class}`` of methods that choose the centroids of every layer under a budget
    (:class:`lloydmax.hooks.protocols.SearchMethod`)."""


@hookspec
def lloydmax_finished(model: nn.Module) -> None:
    """A model has its codebooks for good, from ``compress``, ``load`` or a host that converts: a plugin may change how
    it behaves beside its outputs, such as how its host saves it."""


@hookspec
def lloydmax_expected(seconds: float, bytes: int) -> None:
    """What a run of ``compress`` will take, about, told before its work: seconds, and bytes of memory at most. It is
    measured on a few inputs, and only where a plugin or listener has this hook."""


@hookspec
def lloydmax_stage_started(stage: str, total: int | None) -> None:
    """A stage starts; ``total`` units if known.

    Stages are ``prepare``, ``importance NAME``, ``price``, ``fit``, ``calibrate``, ``measure``, ``finish``,
    ``estimate``, ``sweep``, ``search``, ``synthesize``, and recovery steps by their names. One may start within
    another: ``teacher`` (the teacher's outputs are computed) in ``distill``, ``ranges`` (of activations) in
    ``equalize``.
    """


@hookspec
def lloydmax_stage_finished(stage: str, seconds: float, metrics: dict[str, Any]) -> None:
    """A stage ended after ``seconds`` of wall time, with what it measured."""


@hookspec
def lloydmax_parameter_fitted(name: str, codebook: Codebook, index: int, total: int) -> None:
    """Parameter ``name`` got its codebook; ``index`` counts from 1 to ``total``."""


@hookspec
def lloydmax_step(step: str, index: int, total: int, metrics: dict[str, float]) -> None:
    """Unit ``index`` of ``total`` of the stage ``step`` is done: of a recovery step an optimizer step, layer or round,
    of ``measure``, ``calibrate``, ``teacher`` and ``ranges`` a sample, of ``finish`` a layer, of ``sweep`` and
    ``search`` a choice that was measured.

    ``metrics`` has what is known at this point, for example ``loss`` and, when it was just measured,
    ``agreement``. Raising :class:`lloydmax.StopRecovery` ends the whole run (for trial pruners).
    """
