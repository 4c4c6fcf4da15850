"""What a killed run left in its ``workdir``: the student after every finished step, and a step that was under way."""

from __future__ import annotations

import copy
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from lloydmax.data import Source
from lloydmax.hooks import registry
from lloydmax.recipe.recipe import Recipe
from lloydmax.recipe.sections import KEEP
from lloydmax.runtime import code, processes, seeding
from lloydmax.runtime.description import Description
from lloydmax.runtime.digest import model_fingerprint
from lloydmax.runtime.files import made_folder
from lloydmax.runtime.locks import locked
from lloydmax.runtime.machine import arithmetic
from lloydmax.runtime.modes import device_of
from lloydmax.runtime.state import UNFIT, read, set_aside, write


class Remembers(Protocol):
    """What can go on from a state of plain data."""

    def state(self) -> Any:
        """What it remembers."""

    def load(self, state: Any) -> None:
        """Remember what another one did."""


class Traces:
    """What a run changes beside its student: its random states, what is known of its data, and what it has told.

    Args:
        held: all that remembers, in an order that is always the same; ``None`` where there is none.
    """

    def __init__(self, held: Sequence[Remembers | None]) -> None:
        self._held = held

    def state(self) -> dict[str, Any]:
        """All of it, as plain data."""
        states = [None if one is None else one.state() for one in self._held]
        return {"random": seeding.states_of_run(), "held": states}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state`.

        Raises:
            ValueError, or another of :data:`lloydmax.runtime.state.UNFIT`: it is something else; all is as before.
        """
        before = self.state()
        try:
            self._set(state)
        except UNFIT:
            self._set(before)
            raise

    def _set(self, state: dict[str, Any]) -> None:
        for one, kept in zip(self._held, state["held"], strict=True):
            if one is not None:
                one.load(kept)
        if state["random"] is not None:
            seeding.restore_states_of_run(state["random"])


class KeptSteps:
    """The finished steps of one run.

    Args:
        workdir: where the state is kept; ``None``: nothing is.
        identity: a digest of everything that the result depends on; runs that differ in it do not see each other.
        traces: of the run, which are kept with the student.
    """

    def __init__(self, workdir: Path | None, identity: bytes, traces: Traces) -> None:
        self.folder = None if workdir is None else workdir / f"compress-{identity.hex()[:16]}"
        self._traces = traces

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No other run works on these steps meanwhile; see :func:`lloydmax.runtime.locks.locked`."""
        if self.folder is not None:
            made_folder(self.folder)
        with locked(None if self.folder is None else self.folder / "lock"):
            if self.folder is not None and processes.writes():
                for left in self.folder.glob(".lloydmax-*.tmp"):  # of a killed run: nobody else writes here now
                    left.unlink(missing_ok=True)
            yield

    def part(self, number: int) -> Path | None:
        """The file in which step ``number`` may keep its own state while it is under way."""
        return None if self.folder is None else self.folder / f"step{number}-part.state"

    def interrupted(self, step: str) -> str:
        """What is said of a step that somebody interrupts."""
        said = f"interrupted in {step!r}: the model is finished as it is now, without the steps that were left"
        return said if self.folder is None else f"{said}; the same call goes on from {self.folder}"

    def step(self, number: int, student: nn.Module, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What ``run`` gives (plain data), with what it does to the student; both are kept, and taken from there."""
        if self.folder is None:
            return run()
        whole = self.folder / f"step{number}.state"
        if (kept := read(whole)) is not None and self._loaded(student, kept, whole):
            figures: dict[str, Any] = kept["figures"]
        else:
            figures = run()
            write(whole, {"student": student_state(student), "figures": figures, "traces": self._traces.state()})
        if (part := self.part(number)) is not None and processes.writes():
            with suppress(OSError):
                part.unlink()
        return figures

    def _loaded(self, student: nn.Module, kept: Any, file: Path) -> bool:
        """Whether the student is now as it was kept; else it is as before, and the file set aside."""
        before, traces = copy.deepcopy(student_state(student)), self._traces.state()
        try:
            load_student(student, kept["student"])
            self._traces.load(kept["traces"])
            if not isinstance(kept["figures"], dict):
                raise TypeError("no figures")
            return True
        except UNFIT as error:
            set_aside(file, f"it does not fit this run: {error}")
            load_student(student, before)
            self._traces.load(traces)
            return False


def student_state(student: nn.Module) -> dict[str, Any]:
    """All that steps change in a student: its state dict, and the buffers that this leaves out."""
    state = student.state_dict()
    more = {name: buffer for name, buffer in student.named_buffers() if name not in state}
    return {"state": dict(state), "versions": dict(getattr(state, "_metadata", {})), "buffers": more}


def load_student(student: nn.Module, kept: dict[str, Any]) -> None:
    """Make a student what another one was, see :func:`student_state`."""
    state = OrderedDict(kept["state"])
    state._metadata = OrderedDict(kept["versions"])  # type: ignore[attr-defined]
    student.load_state_dict(state)
    for name, value in kept["buffers"].items():
        buffer = student.get_buffer(name)
        buffer.data = value.to(buffer.device)


def identity(
    model: nn.Module,
    recipe: Recipe,
    sources: Iterable[Source | None],
    given: Iterable[object],
    known: bytes | None = None,
) -> bytes:
    """A digest (16 bytes) of everything that a result depends on.

    Args:
        model: see :func:`~lloydmax.runtime.digest.model_fingerprint`.
        recipe: whose strategies count by their code or the versions of their distributions.
        sources: of unlabelled inputs, see :meth:`lloydmax.data.Source.contents`.
        given: the other arguments: tensors, arrays, plain data.
        known: the fingerprint of the model, from before anything ran it; ``None``: it is made now.
    """
    versions = [
        code.version("lloydmax"), torch.__version__, np.__version__, sys.version_info[:2], *_strategies(recipe),
    ]  # fmt: skip
    parts = [
        known or model_fingerprint(model), recipe.data(), versions, arithmetic(device_of(model)),
        [source and (source.known or source.contents()) for source in sources], list(given),
    ]  # fmt: skip
    return processes.first(Description().of(parts), device_of(model))


def _strategies(recipe: Recipe) -> Iterator[Any]:
    """The classes that a recipe names, and the versions of what they come with."""
    named = [("quantizer", rule.quantizer) for rule in recipe.quantize if rule.quantizer != KEEP]
    named += [("importance", rule.importance) for rule in recipe.quantize if rule.importance is not None]
    named += [("step", step.step) for step in recipe.recover]
    for kind, name in named:
        entry = registry.find(kind, name)
        yield kind, name, code.version(entry.distribution), entry.cls
