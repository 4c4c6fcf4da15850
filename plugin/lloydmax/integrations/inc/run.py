"""One compression inside INC, from ``prepare`` to ``convert``."""

from __future__ import annotations

import copy
from collections.abc import Callable, Set
from dataclasses import replace
from typing import Any

from torch import nn

from lloydmax.data import Captured, Source, capture_inputs
from lloydmax.errors import IntegrationError, RecoveryError
from lloydmax.fitting.fit import fit
from lloydmax.hooks.events import Events
from lloydmax.hooks.protocols import Recovery
from lloydmax.integrations.inc import files
from lloydmax.integrations.inc.config import RUN, CodebookConfig
from lloydmax.integrations.inc.host import logger
from lloydmax.integrations.inc.layer import LayerConfig
from lloydmax.integrations.inc.noted import noted_by_others
from lloydmax.integrations.inc.others import configurations
from lloydmax.plan.parameter import PlannedParameter
from lloydmax.plan.plan import Plan, warn_of
from lloydmax.recovery.preparation import finished, gradients, prepare
from lloydmax.recovery.steps import needs_data, recover, recovery_steps, tried_for
from lloydmax.runtime.cache import Cache
from lloydmax.runtime.digest import fingerprint, told


class Run:
    """One compression inside INC, from ``prepare`` to ``convert``.

    The prepared model holds it as a plain attribute: its teacher is in no module list and no state dict, and deep
    copies of the model share it.

    Args:
        config: the configuration of the whole model.
        model: the original; :meth:`prepare` turns it into the student.
        leaf: an entry of INC's mapping, with the other configurations and what they take.
        example_inputs: so that ranges of a recipe count layers in forward order.
    """

    def __init__(
        self,
        config: CodebookConfig,
        model: nn.Module,
        leaf: LayerConfig,
        example_inputs: Any,
    ) -> None:
        self.config = config
        self.others = (*configurations(config.others), *leaf.others)
        known, config.planned = config.planned, None  # INC has just asked for it, but without the inputs
        plan = config.plan(model, example_inputs) if known is None or example_inputs is not None else known
        self.plan, self.taken = _limited(plan, leaf.taken)
        self.types = {name: type(module).__name__ for name, module in model.named_modules()}
        self.before = noted_by_others(model)
        self.recipe = self.plan.recipe
        self.steps = recovery_steps(self.recipe)
        self.early = [name for name, step in self.steps if getattr(step, "before_fit", False)]
        if self.recipe.activations:
            raise IntegrationError(
                "int8 activations ('activations:') cannot run inside INC: use lloydmax.compress with this recipe"
            )
        self.needs = needs_data(self.recipe)
        self.gradients = gradients(model)
        self.events = Events()
        self.captured: Captured | None = None
        self.teacher: nn.Module | None = None
        self.fingerprint: bytes | None = None
        if not self.whole:
            warn_of(self.plan)
        if self.steps and not self.whole:
            self.teacher = copy.deepcopy(model)

    @property
    def whole(self) -> bool:
        """Whether the recipe compares whole models, which only :func:`lloydmax.compress` does."""
        found = self.recipe
        given = (self.config.effort, found.bits, found.synthesize, *self.early)
        return found.keep == "best" or any(one is not None for one in given)

    @property
    def cache(self) -> Cache | None:
        """Shared with the other trials of a tuning run."""
        return None if self.config.trials is None else self.config.trials.cache

    @property
    def weighted(self) -> bool:
        """Whether the fit needs data."""
        return any(p.importance is not None for p in self.plan.parameters.values())

    def refuse_two_steps(self) -> None:
        """Refuse ``prepare``, where there is nothing to prepare without data.

        Raises:
            IntegrationError: says so.
        """
        if self.weighted or self.whole:
            what = self.needs[0] if self.needs and not self.whole else "bits, effort or 'keep: best'"
            raise IntegrationError(
                f"{what} needs data before the codebooks are fitted: call quantize(model, config, run_args=(loader,))"
            )

    def refuse_no_data(self) -> None:
        """Raises:
        RecoveryError: how to give the inputs that are missing.
        """
        raise RecoveryError(
            f"{self.needs[0]} needs unlabelled inputs, and the model was called with none: "
            "quantize(model, config, run_fn=calibrate) with the function that feeds your calibration data, "
            "quantize(model, config, run_args=(loader,)), or convert(model, data=loader)"
        )

    def prepare(self, model: nn.Module, source: Source | None = None) -> None:
        """Turn the model into the student; collect the inputs that it is called with, if recovery needs any."""
        with told(self.fingerprint, model):
            found = fit(model, self.plan, source, self.events, self.cache)
        prepare(model, self.plan, found)
        if (self.needs or self.others) and source is None:
            self.captured = Captured(model)

    def capture(self, model: nn.Module, calibrate: Callable[[nn.Module], Any]) -> Source:
        """The inputs that a calibration function feeds, collected on a copy of the original."""
        scratch = copy.deepcopy(model).eval()
        before = [parameter._version for parameter in scratch.parameters()]
        with capture_inputs(scratch) as captured:
            calibrate(scratch)
        if before != [parameter._version for parameter in scratch.parameters()]:
            raise IntegrationError(
                "run_fn trains the model, but an importance needs its inputs before there is anything to train: "
                "pass a calibration function, or the data by run_args=(loader,)"
            )
        return self._shared(captured)

    def convert(self, model: nn.Module, source: Source | None = None, reference: Source | None = None) -> nn.Module:
        """Recover with the given, or else the collected inputs, and finish."""
        if self.captured is not None:
            self.captured.close(model)
            if source is None and reference is None and len(self.captured):
                source = self._shared(self.captured)
        if self.needs and source is None and reference is None:
            self.refuse_no_data()
        vars(model).pop(RUN, None)
        if self.steps:
            assert self.teacher is not None
            recovery = Recovery(
                model,
                self.teacher,
                source,
                reference,
                self.recipe.seed,
                events=self.events,
                cache=self.cache,
                original=self.teacher,
                outputs=tried_for(self.steps, self.teacher, (source, reference), self.recipe.asked_outputs, self.cache),
            )
            with told(self.fingerprint, self.teacher):
                for figures in recover(recovery, self.steps):
                    logger.info("codebook: %s", figures)
        return self.dressed(finished(model, self.plan, self.gradients))

    def dressed(self, student: nn.Module) -> nn.Module:
        """The finished model with what INC's ``save`` looks for."""
        logger.info(
            "codebook: %d parameters hold what was planned, %d bytes of file",
            len(self.plan.parameters),
            self.plan.predicted_bytes,
        )
        return files.dressed(student, self.types, self.before)

    def _shared(self, captured: Captured) -> Source:
        """The collected inputs; equal ones of an earlier trial where there are, so that more can be shared."""
        source = captured.source()
        if self.cache is None:
            return source
        key = ("inputs", fingerprint(tensor for batch in captured.batches for tensor in batch.tensors()))
        return self.cache.get(key, lambda: source)

    def __deepcopy__(self, memo: dict[int, Any]) -> Run:
        return self


def run_of(model: nn.Module) -> Run | None:
    """The run that a prepared model carries, or ``None``."""
    run: Run | None = vars(model).get(RUN)
    return run


def _limited(plan: Plan, taken: Set[str]) -> tuple[Plan, list[str]]:
    """The plan without what other algorithms take, and the layers of it that they take."""

    def held(p: PlannedParameter) -> set[str]:
        return {name.rpartition(".")[0] for name in (p.name, *p.tied)}

    found = {layer for p in plan.parameters.values() for layer in held(p)} & taken
    if not found:
        return plan, []
    parameters = {name: p for name, p in plan.parameters.items() if held(p).isdisjoint(found)}
    skipped = tuple(one for one in plan.skipped if one.name.rpartition(".")[0] not in taken)
    return replace(plan, parameters=parameters, skipped=skipped), sorted(found)
