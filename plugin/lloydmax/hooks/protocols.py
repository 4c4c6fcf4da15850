"""What a strategy is: the four kinds of classes that plugins register, and what a recovery step works on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from lloydmax.data import even
from lloydmax.errors import RecoveryError
from lloydmax.hooks.events import Events
from lloydmax.hooks.time_limit import TimeLimit
from lloydmax.network.outputs import Outputs
from lloydmax.runtime import processes
from lloydmax.runtime.modes import device_of
from lloydmax.runtime.seeding import seeded as seeded
from lloydmax.runtime.state import UNFIT, read, set_aside, write

if TYPE_CHECKING:
    from lloydmax.codebook.codebook import Codebook
    from lloydmax.data import Source
    from lloydmax.hooks.units import Unit
    from lloydmax.runtime.cache import Cache


class Quantizer(Protocol):
    """Weight -> codebook.

    A class may set ``even = True`` where its centroids are always ``scale * (i - zero_point)``. One with an option
    ``price`` (of a bit, in squared units of the weight) has a method ``rate(weight)`` that returns a function: price ->
    bits a weight of its entropy-coded codes, and the gain; a recipe's ``bits`` takes such quantizers. Where that
    function has a method ``fit(price)``, too, it gives what the quantizer's own would.
    """

    Options: ClassVar[type[BaseModel]]

    def __init__(self, options: Any) -> None: ...

    def fit(self, weight: Tensor, *, importance: Tensor | None = None, axis: int = 0) -> Codebook:
        """The codebook of a finite floating ``weight``; ``importance`` has its shape; same input, same bytes."""


class Importance(Protocol):
    """How much the error of each weight matters."""

    Options: ClassVar[type[BaseModel]]

    def __init__(self, options: Any) -> None: ...

    def measure(self, model: nn.Module, names: Sequence[str], data: Source) -> dict[str, Tensor]:
        """For each named parameter a non-negative tensor of its shape, from unlabelled data.

        One that looks at what the model returns takes ``outputs``, too: how that is read, see
        :class:`lloydmax.extend.Outputs`.
        """


class RecoveryStep(Protocol):
    """Wins accuracy back, without labels.

    A class may set ``needs_data = False`` where it can run without unlabelled inputs, and ``before_fit = True``
    where it changes the weights that the codebooks are then fitted to. Such a step runs on an uncompressed copy of
    the teacher, and comes first in ``recover``. If it changes which parameters there are, it has a method
    ``restructure(model)`` that does so in place without data, for :func:`lloydmax.plan`; ``run`` calls it, too.
    ``settles = True`` is for a quick step with an option ``samples`` that only takes up what clustering shifts as a
    whole: codebooks are then compared with it. ``keeps_codes = True`` says that codes and centroids stay as they are.
    """

    Options: ClassVar[type[BaseModel]]

    def __init__(self, options: Any) -> None: ...

    def run(self, recovery: Recovery) -> dict[str, Any]:
        """Improve ``recovery.student`` in place; returns what was measured (JSON-able)."""


class SearchMethod(Protocol):
    """Chooses the centroids of every layer under a budget."""

    Options: ClassVar[type[BaseModel]]

    def __init__(self, options: Any) -> None: ...

    def choose(self, units: Sequence[Unit], budget: int) -> dict[str, int]:
        """Name of every unit -> one of its numbers of centroids, with the least total damage that it finds and at
        most ``budget`` bytes in all; :class:`lloydmax.BudgetError` where not even the fewest bytes fit."""


@dataclass
class Recovery:
    """What a recovery step works on.

    Attributes:
        student: the compressed model, changed in place; parameters with ``requires_grad`` are to be trained.
        teacher: the original; never changed.
        data: unlabelled inputs, possibly of another domain, or ``None``.
        reference_data: a few unlabelled inputs of the original domain, or ``None``.
        seed: all randomness of a step comes from generators with this seed.
        workdir: a folder for large temporary files; ``None``: the system's.
        events: where progress is reported.
        cache: what runs over the same teacher and data share, or ``None``.
        part: file in which a step that takes long may keep its state, see :meth:`keep`, or ``None``.
        traces: what the run changes beside its student, which is kept with that state, or ``None``.
        original: what the codebooks were fitted to: the teacher, as steps before the fit have changed it, or ``None``
            where only the student's host knows.
        outputs: how what the models return is read, as a trial found; ``None``: not tried yet.
        limit: of the time: a step that tells its progress by ``events`` is ended there, or does less by itself.
    """

    student: nn.Module
    teacher: nn.Module
    data: Source | None = None
    reference_data: Source | None = None
    seed: int = 0
    workdir: Path | None = None
    events: Events = field(default_factory=Events)
    cache: Cache | None = None
    part: Path | None = None
    traces: Any = None
    original: nn.Module | None = None
    outputs: Outputs | None = None
    limit: TimeLimit = field(default_factory=TimeLimit)

    def source(self, which: str = "data", padded: bool = True) -> Source:
        """The unlabelled data that a step needs.

        Args:
            which: ``data`` or ``reference_data``.
            padded: whether sequences of several lengths may be in one batch; else they come in batches of one length
                each, without padding, for a step that looks at what is inside the models.

        Raises:
            RecoveryError: there is none.
        """
        source = self.data if which == "data" else self.reference_data
        if source is None:
            raise RecoveryError(f"this recovery step needs unlabelled inputs: pass {which}=...")
        return source if padded else even(source, self.teacher)

    def batch_size(self, most: int, source: Source) -> int:
        """Samples of one forward pass: fewer than ``most`` where the outputs for so many would be large."""
        return most if self.outputs is None else min(most, self.outputs.at_once(source.first(1)))

    def enough(self, order: Tensor, rows: int | None) -> Tensor:
        """The first samples of an order that have so many places altogether, see
        :meth:`~lloydmax.network.outputs.Outputs.enough`; all where it is ``None``, or nothing was tried yet."""
        return order if rows is None or self.outputs is None else self.outputs.enough(order, rows)

    def generator(self) -> torch.Generator:
        """A fresh CPU generator with the seed of this run."""
        return torch.Generator().manual_seed(self.seed)

    @property
    def device(self) -> torch.device:
        """Where the student is."""
        return device_of(self.student)

    @property
    def processes(self) -> int:
        """How many processes recover this student together, each on a replica of its own; 1: this one alone."""
        return processes.size()

    def keep(self, state: dict[str, Any]) -> None:
        """Keep what the rest of a step depends on, so that a run which is killed can go on from here.

        Args:
            state: tensors and plain data in dicts, lists and tuples, such as the ``state_dict`` of an optimizer; it
                replaces what was kept before. Nothing is kept where the run has no ``workdir``.

        Raises:
            RecoveryError: something else is in the state. OutputError: it cannot be written.
        """
        if self.part is not None:
            write(self.part, {"step": state, "traces": self.traces and self.traces.state()})

    def kept(self, take: Callable[[dict[str, Any]], None] | None = None) -> dict[str, Any] | None:
        """What this step kept in an earlier process that was killed; ``None``: it starts at the beginning.

        Args:
            take: goes on from it. Where it raises (one of :data:`lloydmax.runtime.state.UNFIT`), it leaves all as it
                was: what was kept does not fit, is told and set aside.
        """
        kept = read(self.part)
        if self.part is None or kept is None:
            return None
        traces = self.traces and self.traces.state()
        try:
            state: dict[str, Any] = {**kept["step"]}
            if self.traces is not None:
                self.traces.load(kept["traces"])
            if take is not None:
                take(state)
            return state
        except UNFIT as error:
            set_aside(self.part, f"it does not fit this run: {error}")
            if self.traces is not None:
                self.traces.load(traces)
            return None
