"""One compression, phase by phase: prepare, fit, recover, measure, assemble."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lloydmax.codebook.codebook import Codebook
from lloydmax.fitting.candidates import Spare, Tried
from lloydmax.fitting.fit import as_planned, fit_best
from lloydmax.format.sizes import accountings
from lloydmax.hooks.protocols import Recovery
from lloydmax.hooks.time_limit import TimeLimit
from lloydmax.network.private import own
from lloydmax.plan.plan import Plan
from lloydmax.progress.history import History
from lloydmax.recipe.recipe import Recipe
from lloydmax.recovery.expected import looked_ahead
from lloydmax.recovery.holding_out import AGREEMENT_SAMPLES, Held
from lloydmax.recovery.keeping import Keeping, Settled
from lloydmax.recovery.made import made_inputs, unknown
from lloydmax.recovery.preparation import changes, gradients, sealed, student_of, to_be_fitted
from lloydmax.recovery.repricing import within
from lloydmax.recovery.resume import KeptSteps, Traces, identity
from lloydmax.recovery.steps import (
    NamedStep,
    in_time,
    needs_data,
    open_source,
    recover,
    recovery_steps,
    running,
)
from lloydmax.report.figures import Answer, Stage
from lloydmax.report.harm import warn_of_harm, warn_of_size
from lloydmax.report.layers import layer_reports
from lloydmax.report.report import Report
from lloydmax.report.score import Evaluate, scored
from lloydmax.runtime.cache import Cache
from lloydmax.runtime.digest import model_fingerprint
from lloydmax.student.attachment import attached, codebooks, released
from lloydmax.student.student import Student
from lloydmax.teacher.agreement import Agreement, Comparison
from lloydmax.teacher.finite import LOOKED_AT, look
from lloydmax.teacher.judge import MOST_JUDGED, Judge
from lloydmax.teacher.plausibility import tell_doubts
from lloydmax.teacher.trial import tried

SEEN = ", which the steps had, too: give 320 or more, and some are held out"
"""Of inputs that the agreement was measured on."""
_FINISH = 0.05
"""Share of the time of the fit that it takes to finish the model."""


@dataclass
class Run:
    """One compression, phase by phase; what it has measured so far."""

    teacher: nn.Module
    recipe: Recipe
    planned: Plan
    seed: int
    workdir: Path | None
    evaluate: Evaluate | None
    cache: Cache | None
    example_inputs: Any
    tokenizer: Any = None
    limit: TimeLimit = field(default_factory=TimeLimit)
    max_memory: int | None = None
    stages: list[Stage] = field(default_factory=list)
    said: list[dict[str, Any]] = field(default_factory=list)
    tried: list[Tried] = field(default_factory=list)
    spare: Spare | None = None

    @contextmanager
    def opened(self, data: Any, reference_data: Any, progress: bool, listeners: Sequence[object]) -> Iterator[None]:
        """Data read, seeds set, progress shown; all as it was afterwards."""
        steps = recovery_steps(self.recipe)
        self.early = [step for step in steps if getattr(step[1], "before_fit", False)]
        self.late = steps[len(self.early) :]
        self.history = History()
        with running(self.teacher, self.seed, progress, [*listeners, self.history, self.limit]) as self.events:
            self.data, self.reference = (
                open_source(given, self.teacher, self.workdir, self.seed, self.cache, self.tokenizer)
                for given in (data, reference_data)
            )
            self.fingerprint = None if self.workdir is None else model_fingerprint(self.teacher)
            held = Held(self.data, self.reference, self.reference or self.data)
            if self.data is None and self.recipe.synthesize is not None:
                self.data, other = made_inputs(
                    self.teacher, self.recipe, self.example_inputs, self.seed, self.events, self.limit
                )
                held = Held(self.data, self.reference, self.reference or other)
            learns = bool(steps or needs_data(self.recipe))
            held = held.apart(self.teacher, self.recipe, data is not None, learns, self.seed, self.cache, self.events)
            self.source, self.near, self.unseen, self.seen = held.source, held.near, held.unseen, held.seen
            outputs = tried(self.teacher, (self.data, self.reference), self.recipe.asked_outputs, self.cache)
            given = (self.teacher, self.planned, steps, (self.source or self.near, self.unseen), outputs)
            self.outputs = looked_ahead(*given, self.events, self.limit, self.max_memory)
            trains = next((name for name, step in steps if hasattr(getattr(step, "options", None), "epochs")), None)
            for source in filter(None, (None if data is None else self.data, self.reference)):
                tell_doubts(self.teacher, source, trains if source is self.data else None, self.cache, self.outputs)
            yield

    def told(self) -> tuple[str, ...]:
        """What the outputs tell, in words."""
        return () if self.outputs is None else tuple(map(str, self.outputs.leaves))

    def plan(self) -> tuple[nn.Module, Plan]:
        """The steps before the fit are run; what the codebooks are fitted to then, and its plan."""
        plan = self.planned
        with self.events.stage("prepare") as figures:
            figures |= {"layers": float(len(plan.parameters)), "model_bytes": float(plan.original_bytes)}
            self.events.step("prepare", 0, 1, figures)
            self.comparison = self._comparison()
            self.judge = Judge(self.comparison) if self.comparison and self.recipe.keep == "best" else None
            if self.source is not None and self.reference is not None and self.outputs is not None:
                look(self.teacher, self.source, self.outputs, self.source.draw(LOOKED_AT, self.seed))
            settled = not self.early and not changes(self.teacher, plan)
            student = self.teacher if settled else own(self.teacher)
            self.stages.append(Stage("original", None, self._score(self.teacher)))
            self.events.step("prepare", 1, 1)
        self.recovery = Recovery(
            student, self.teacher, self.source, self.near, self.seed, self.workdir, self.events, self.cache,
            outputs=self.outputs, limit=self.limit,
        )  # fmt: skip
        for figures in recover(self.recovery, self.early):
            self.said.append(figures | self.history.take(figures["step"]))
            self.stages.append(self.measure(figures["step"], student))
        original, plan = to_be_fitted(self.teacher, student, plan, bool(self.early), self.example_inputs)
        self.student = None if original is self.teacher else student
        self.recovery.student = original
        return original, plan

    def fit(self, original: nn.Module, plan: Plan) -> tuple[Student, Plan]:
        """The student with its codebooks, and the plan of what these are."""
        judge = None if self.judge is None else Settled(self.judge, self.recovery, original, self.late).judged
        changed = not all(getattr(step, "keeps_codes", False) for _, step in self.late)
        given = (self.source, self.events, self.cache, judge, changed, self.outputs, self.limit)
        choice, found = fit_best(original, plan, *given)
        self.tried += choice.tried
        self.spare = choice.spare
        return self._student(original, choice.plan, found), choice.plan

    def _student(self, original: nn.Module, plan: Plan, found: dict[str, Codebook]) -> Student:
        """With these codebooks, and measured."""
        whole = self.student
        if whole is None:  # late, and without the weights that get codebooks: a copy takes memory
            whole = own(original, plan.parameters if self.recipe.activations is None else ())
        calibration = self.source or self.near
        student = student_of(whole, plan, found, gradients(original), calibration, self.seed, self.events)
        self.recovery.student, self.recovery.original = student.model, original
        self.stages.append(self.measure("compressed", student.model))
        return student

    def recover(self, student: Student, plan: Plan) -> None:
        """The steps after the fit, each kept, so that the run can go on after a kill."""
        self.recovery.traces = traces = Traces((self.data, self.reference, self.history))
        kept = KeptSteps(self.workdir, b"" if self.workdir is None else self._identity(student), traces)
        keeping = Keeping(self.judge, self.recovery.original)
        with kept.alone():
            for number, step in enumerate(self.late, start=1):
                self.limit.reserve = self._afterwards()
                if self.limit.left <= 0:
                    self.said.append({"step": step[0], "cut": "not run"})
                    continue
                self.recovery.part = kept.part(number)
                try:
                    keeping.now, known = None, self.stages[-1].agreement
                    run = partial(keeping.run, student.model, partial(self._step, step), known)
                    self.said.append(said := {"step": step[0]} | kept.step(number, student.model, run))
                    if "kept" in said:
                        self.tried.append(Tried("step", step[0], said["damage"], said["kept"]))
                except KeyboardInterrupt:
                    self.said.append({"step": step[0], "stopped": "interrupted", **self.history.take(step[0])})
                    warnings.warn(kept.interrupted(step[0]), stacklevel=3)
                    break
                steps_to_come = number < len(self.late)
                if steps_to_come and said.get("kept", True) and not getattr(step[1], "keeps_codes", False):
                    keeping.now = None if self._resize(student, plan) else keeping.now
                if steps_to_come or student.finished_as is not None:
                    self.stages.append(self.measure(step[0], student.model, keeping.now))

    def _resize(self, student: Student, plan: Plan) -> bool:
        """Whether a step made codes so dear that some give way to cheaper ones, as they would in the end: the steps to
        come can make up for that now."""
        original, held = self.recovery.original, codebooks(student.model)
        if self.recipe.bits is None or original is None or not any(book.price for book in held.values()):
            return False
        model = sealed(released(own(student.model), {}), plan)
        weights = {name: original.get_parameter(name).detach() for name in plan.parameters}
        within(model, plan.predicted_bytes, accountings, weights)
        found = codebooks(model)
        dear = [one for one in attached(student.model) if not torch.equal(held[one.name].codes, found[one.name].codes)]
        for one in dear:
            one.weight.recode(found[one.name])
        return bool(dear)

    def best(self, student: Student, original: nn.Module, plan: Plan) -> tuple[Student, Plan]:
        """The student, or if recovery left it with more damage, the spared codebooks and what settles them."""
        if self.spare is None or self.judge is None or self.judge.damage(student.model).mean <= self.spare.damage.mean:
            return student, plan
        del self.stages[1 + len(self.early) :]
        self.said = [one | {"kept": False} if "kept" in one else one for one in self.said]
        self.tried = [replace(one, kept=one.name == self.spare.name) for one in self.tried]
        self.late = [step for step in self.late if getattr(step[1], "keeps_codes", False)]
        self.student = None  # is used up
        student = self._student(original, self.spare.plan, as_planned(original, self.spare.plan))
        self.recover(student, self.spare.plan)
        return student, self.spare.plan

    def measure(self, stage: str, model: nn.Module, known: Agreement | None = None) -> Stage:
        """Agreement with the teacher, if it is not known yet, and the caller's own score."""
        comparison = self.comparison
        with self.events.stage("measure", total=len(comparison.order) if comparison else None) as figures:
            score = self._score(model)
            told = partial(self.events.step, "measure")
            agreement = comparison.measure(model, told, tokens=True) if comparison and known is None else known
            if agreement is not None:
                figures |= {"agreement": agreement.agreed, "kl": agreement.kl, "mse": agreement.mse}
                if agreement.tokens is not None and agreement.tokens.perplexity is not None:
                    figures["perplexity"] = agreement.tokens.perplexity
            figures |= {} if score is None else {"score": score}
        return Stage(stage, agreement, score)

    def assemble(self, student: Student, original: nn.Module, plan: Plan) -> tuple[nn.Module, Report, Plan]:
        """The finished model, the report, and the plan."""
        with self.events.stage("finish") as figures:
            self.events.step("finish", 0, len(plan.parameters), {"predicted_bytes": float(plan.predicted_bytes)})
            model = sealed(student.finish(), plan)
            measured = partial(accountings, tell=partial(self.events.step, "finish"))
            weights = {name: original.get_parameter(name).detach() for name in plan.parameters}
            most = None if self.recipe.bits is None else plan.predicted_bytes
            sizes = measured(model) if most is None else within(model, most, measured, weights)
            sizes = replace(sizes, original=plan.original_bytes)
            last = self.late[-1][0] if self.late else "finished"
            self.stages.append(self.measure(student.finished_as or last, model))
            figures |= {"file_bytes": sizes.file, "reduction": 1 - sizes.file / sizes.original}
        warn_of_harm(self.stages[1 + len(self.early) :], student.finished_as, self.judge is not None)
        warn_of_size(sizes.file, plan)
        report = Report(
            recipe=self.recipe.name,
            model=plan.model,
            bytes=sizes,
            stages=self.stages,
            measured_on=None if self.comparison is None else self.comparison.describe() + SEEN * self.seen,
            layers=layer_reports(plan, weights, codebooks(model), sizes),
            trained=[name for name, _ in original.named_parameters() if name in plan.trainable - set(plan.parameters)],
            recovery=self.said,
            seconds=dict(self.events.seconds),
            seed=self.seed,
            notes=(*plan.notes, *unknown(plan, self.source or self.reference), *self.limit.notes(self.said)),
            data=self._data(),
            outputs=[] if self.outputs is None else [Answer.of(leaf) for leaf in self.outputs.leaves],
            tried=self.tried,
            weights=plan.total_weights,
        )
        return model, report, plan

    def _identity(self, student: Student) -> bytes:
        """Of what the steps after the fit depend on: all that was given, and what was made of it so far."""
        made = {name: value for name, value in student.model.state_dict().items() if isinstance(value, Tensor)}
        given = (
            self.seed,
            self.example_inputs,
            made,
            *["in time"] * self.limit.given,
            *([self.max_memory] if self.max_memory else []),
        )
        return identity(self.teacher, self.recipe, (self.data, self.reference), given, self.fingerprint)

    def _comparison(self) -> Comparison | None:
        if self.unseen is None:
            return None
        most = MOST_JUDGED if self.recipe.keep == "best" else AGREEMENT_SAMPLES
        given = (self.teacher, self.unseen, most, self.seed, self.outputs)
        return Comparison(*given, cache=self.cache, events=self.events)

    def _data(self) -> dict[str, dict[str, Any]]:
        """How many samples there were, and which were left out, told once more where no warning did."""
        sources = {"data": self.data, "reference_data": self.reference}
        for source in filter(None, sources.values()):
            source.tell()
        return {name: source.figures() for name, source in sources.items() if source is not None}

    def _score(self, model: nn.Module) -> float | None:
        return scored(self.evaluate, model, first=model is self.teacher and self.outputs is None)

    def _step(self, step: NamedStep) -> dict[str, Any]:
        return in_time(self.recovery, step) | self.history.take(step[0])

    def _afterwards(self) -> float:
        """Seconds that are needed after a recovery step: it is measured, and the model finished."""
        spent, measures = self.events.seconds, 1 + (self.judge is not None)
        return measures * spent["measure"] / (len(self.stages) - 1) + _FINISH * (spent.get("price", 0.0) + spent["fit"])
