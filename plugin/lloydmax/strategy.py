"""What a strategy is: the four kinds of classes that plugins register, and what a recovery step works on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import pluggy
import torch
from pydantic import BaseModel
from torch import Tensor, nn

from lloydmax import hookspecs, plugins
from lloydmax.errors import RecoveryError
from lloydmax.seeding import seeded as seeded

if TYPE_CHECKING:
    from lloydmax.cache import Cache
    from lloydmax.choosing.allocation import Unit
    from lloydmax.codebook import Codebook
    from lloydmax.data import Source


class StopRecovery(Exception):
    """Raised by a ``lloydmax_step`` hook to end the whole run (a pruned trial)."""


class Quantizer(Protocol):
    """Weight -> codebook.

    A class may set ``even = True`` where its centroids are always ``scale * (i - zero_point)``. One with an option
    ``price`` (of a bit, in squared units of the weight) has a method ``rate(weight)`` that returns a function: price ->
    bits a weight of its entropy-coded codes; a recipe's ``bits`` takes such quantizers.
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
        """For each named parameter a non-negative tensor of its shape, from unlabelled data."""


class RecoveryStep(Protocol):
    """Wins accuracy back, without labels.

    A class may set ``needs_data = False`` where it can run without unlabelled inputs, and ``before_fit = True``
    where it changes the weights that the codebooks are then fitted to. Such a step runs on an uncompressed copy of
    the teacher, and comes first in ``recover``. If it changes which parameters there are, it has a method
    ``restructure(model)`` that does so in place without data, for :func:`lloydmax.plan`; ``run`` calls it, too.
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


class Events:
    """Reports what happens to every plugin and to the listeners of one run.

    Args:
        listeners: plugin objects with event hooks that hear only this run (a progress bar, a trial pruner).
    """

    def __init__(self, listeners: Sequence[object] = ()) -> None:
        self._local = pluggy.PluginManager("lloydmax")
        self._local.add_hookspecs(hookspecs)
        for listener in listeners:
            self._local.register(listener)
        self._local.check_pending()
        self.seconds: dict[str, float] = {}
        self._open = 0

    def step(self, step: str, index: int, total: int, metrics: dict[str, float] | None = None) -> None:
        """One unit of a stage is done: an optimizer step, a batch, or as many samples as ``index`` says."""
        for manager in (plugins.manager(), self._local):
            manager.hook.lloydmax_step(step=step, index=index, total=total, metrics=metrics or {})

    def fitted(self, name: str, codebook: Codebook, index: int, total: int) -> None:
        """One parameter got its codebook."""
        for manager in (plugins.manager(), self._local):
            manager.hook.lloydmax_parameter_fitted(name=name, codebook=codebook, index=index, total=total)

    @contextmanager
    def stage(self, stage: str, total: int | None = None) -> Iterator[dict[str, Any]]:
        """A timed stage; put what it measured into the dict that it yields. A stage within a stage is reported, too;
        its time is that of the outer one."""
        metrics: dict[str, Any] = {}
        managers = (plugins.manager(), self._local)
        for manager in managers:
            manager.hook.lloydmax_stage_started(stage=stage, total=total)
        started = time.perf_counter()
        self._open += 1
        try:
            yield metrics
        finally:
            seconds = time.perf_counter() - started
            self._open -= 1
            if not self._open:
                self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
            for manager in managers:
                manager.hook.lloydmax_stage_finished(stage=stage, seconds=seconds, metrics=metrics)


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
        part: file in which a step that takes long may keep its state, to go on from after a kill, or ``None``.
        original: what the codebooks were fitted to: the teacher, as steps before the fit have changed it, or ``None``
            where only the student's host knows.
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
    original: nn.Module | None = None

    def source(self, which: str = "data") -> Source:
        """The unlabelled data that a step needs: ``which`` is ``data`` or ``reference_data``.

        Raises:
            RecoveryError: there is none.
        """
        source = self.data if which == "data" else self.reference_data
        if source is None:
            raise RecoveryError(f"this recovery step needs unlabelled inputs: pass {which}=...")
        return source

    def generator(self) -> torch.Generator:
        """A fresh CPU generator with the seed of this run."""
        return torch.Generator().manual_seed(self.seed)


@contextmanager
def evaluation_mode(*models: nn.Module) -> Iterator[None]:
    """All models in evaluation mode; the mode of every module is restored afterwards. With recurrent layers cuDNN is
    off meanwhile: in this mode it gives them no gradients."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    recurrent = torch.cuda.is_available() and any(isinstance(module, nn.RNNBase) for module, _ in modes)
    try:
        for model in models:
            model.eval()
        with torch.backends.cudnn.flags(enabled=False) if recurrent else nullcontext():
            yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """:func:`evaluation_mode`, and no gradients."""
    with evaluation_mode(*models), torch.no_grad():
        yield


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter or buffer; the CPU when it has none."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")
