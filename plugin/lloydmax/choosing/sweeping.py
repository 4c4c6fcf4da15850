"""How a sweep is done: what is tried, the estimate of everything, the few measurements that check it."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from lloydmax.choosing.damage import Bench, Floats
from lloydmax.choosing.journal import Journal
from lloydmax.choosing.reach import check_reach
from lloydmax.choosing.rows import Row, Units
from lloydmax.choosing.sweep import Sweep
from lloydmax.codebook.layout import code_bits
from lloydmax.data.randomness import check_samples
from lloydmax.errors import RecipeError, RecoveryError
from lloydmax.format import coding
from lloydmax.hooks import registry
from lloydmax.hooks.events import Events, heard
from lloydmax.hooks.protocols import Recovery, seeded
from lloydmax.network.private import own, private
from lloydmax.plan.plan import Plan, PlannedParameter, restructured
from lloydmax.plan.plan import plan as make_plan
from lloydmax.plan.prediction import most_centroids
from lloydmax.progress.bars import ProgressBars
from lloydmax.recipe.checks import refuse_bits
from lloydmax.recipe.recipe import Recipe
from lloydmax.recipe.search import Budget, Search
from lloydmax.recipe.sections import KEEP
from lloydmax.recipe.space import listed, put
from lloydmax.recovery.preparation import to_be_fitted
from lloydmax.recovery.resume import Traces, identity
from lloydmax.recovery.steps import folder, open_source, recover, recovery_steps
from lloydmax.runtime.arguments import whole
from lloydmax.runtime.cache import Cache, checked_cache
from lloydmax.runtime.digest import model_fingerprint
from lloydmax.runtime.modes import own_modes
from lloydmax.runtime.seeding import check_seed
from lloydmax.teacher.agreement import Agreement
from lloydmax.teacher.trial import trial

_MEASURED_OF = 32
"""One of so many estimates is measured, to check them."""
_FEWEST = 3
"""Measurements at least: a law with two constants needs more than two points."""
_WORTH = 1e-3
"""Share of the largest damage below which an estimate is not worth a measurement."""


@dataclass(frozen=True)
class Settings:
    """The arguments of :func:`lloydmax.sweep` that :func:`lloydmax.search` has, too."""

    centroids: Sequence[int] | None = None
    samples: int | None = None
    units: Units = "parameters"
    estimate: bool = True
    seed: int | None = None
    workdir: str | Path | None = None
    cache: Cache | None = None
    progress: bool = False
    example_inputs: Any = None
    tokenizer: Any = None
    listeners: tuple[object, ...] = ()


@dataclass(frozen=True)
class Trials:
    """What there is to try, and the bench to try it on.

    Attributes:
        recipe: as given.
        plan: with any numbers of centroids.
        bench: where codebooks are tried.
        units: the parameters of each unit.
        options: of each unit, ascending numbers of centroids.
        estimate: whether to estimate.
        started: when, by ``time.perf_counter``.
    """

    recipe: Recipe
    plan: Plan
    bench: Bench
    units: dict[str, tuple[str, ...]]
    options: dict[str, list[int]]
    estimate: bool
    started: float

    def pairs(self) -> list[tuple[str, int]]:
        """Every unit with each of its numbers of centroids."""
        return [(unit, k) for unit, ks in self.options.items() for k in ks]

    def choice(self, unit: str, centroids: int) -> dict[str, int]:
        """Centroids of each parameter of a unit; those with fewer distinct values get fewer."""
        return {name: min(centroids, max(self.bench.tried[name])) for name in self.units[unit]}

    def choices(self, chosen: Mapping[str, int]) -> dict[str, int]:
        """Centroids of every parameter for centroids of every unit."""
        return {name: k for unit, centroids in chosen.items() for name, k in self.choice(unit, centroids).items()}

    def bytes(self, choice: Mapping[str, int]) -> int:
        """Codes and codebooks of these parameters as stored."""
        planned = [self.plan.parameters[name].with_centroids(k) for name, k in choice.items()]
        return sum(self.stream(p) + p.codebook_bytes(self.recipe.storage) for p in planned)

    def stream(self, p: PlannedParameter) -> int:
        """Bytes of the codes of one parameter as stored."""
        if self.recipe.storage.codes == "packed":
            return p.code_bytes
        codebook = self.bench.codebook(p.name, p.centroids)
        return min(p.code_bytes, len(coding.encode(codebook.codes, codebook.bits, self.recipe.storage.codes)))


def sweep(
    model: nn.Module,
    recipe: Any,
    data: Any,
    centroids: Sequence[int] | None = None,
    *,
    samples: int | None = None,
    units: Units = "parameters",
    estimate: bool = True,
    seed: int | None = None,
    workdir: str | Path | None = None,
    cache: Cache | None = None,
    progress: bool = False,
    example_inputs: Any = None,
    tokenizer: Any = None,
    listeners: Sequence[object] = (),
) -> Sweep:
    """For everything that a recipe selects and every number of centroids, the damage it alone does, and its bytes.

    Recovery is left out, but for steps that change the weights before the codebooks are fitted.

    Args:
        model: the teacher; never modified.
        recipe: anything that :meth:`Recipe.load` takes. A rule's list of ``centroids`` is what is tried for it. A
            rule with one value keeps it where the recipe has lists elsewhere; otherwise, and for rules without
            ``centroids``, the argument ``centroids`` is tried.
        data: unlabelled inputs, see :func:`lloydmax.compress`.
        centroids: the numbers to try; ``None``: those of the recipe's ``search`` section (default 2, 4 ... 256).
        samples: how many inputs count, drawn with the seed; ``None``: the section's (default 500).
        units: ``parameters`` are tried one by one, ``rules`` all that a rule selects together.
        estimate: estimate all from gradients at a tenth of the cost or less, and measure a few of them to check;
            ``False``: measure everything.
        seed: of all randomness; ``None``: the recipe's.
        workdir: a folder in which every measurement is kept, made if it is missing; a run that was killed goes on from
            there, see :func:`lloydmax.compress`.
        cache: shared with other runs over the same model and data.
        progress: show progress on stderr.
        example_inputs, tokenizer: see :func:`lloydmax.compress`.
        listeners: plugin objects whose event hooks hear only this run.

    Raises:
        RecipeError: see :func:`lloydmax.plan`, or a choice of something else than centroids. DataError, FitError.
        RecoveryError: no gradient reaches the weights (then ``estimate=False`` helps).
    """
    settings = Settings(
        centroids, samples, units, estimate, seed, workdir, cache, progress, example_inputs, tokenizer, heard(listeners)
    )
    with own_modes(), opened(model, recipe, data, settings) as trials:
        return swept(trials)[0]


@contextmanager
def opened(
    model: nn.Module, recipe: Any, data: Any, settings: Settings, budget: Budget | None = None
) -> Iterator[Trials]:
    """Read and check everything, a budget for its reach; see :func:`lloydmax.sweep` for the arguments and errors."""
    recipe, model = Recipe.load(recipe), private(model)
    refuse_bits(recipe, "a sweep or search, which chooses numbers of centroids,")
    section = recipe.search or Search()
    samples = section.samples if settings.samples is None else check_samples(settings.samples)
    seed = check_seed(recipe.seed if settings.seed is None else settings.seed)
    checked_cache(settings.cache)
    started, listeners = time.perf_counter(), settings.listeners
    lists, single = _what_to_try(recipe, _asked(settings.centroids, section.centroids))
    plan = make_plan(model, single, settings.example_inputs)
    if budget is not None:
        fewest = {p.name: min(p.centroids, *(lists[p.rule] or [p.centroids])) for p in plan.parameters.values()}
        check_reach(restructured(model, single), recipe, plan, fewest, budget)
    place = folder(settings.workdir)
    with ExitStack() as stack:
        if settings.progress:
            listeners = (*listeners, stack.enter_context(ProgressBars()))
        stack.enter_context(seeded(seed, model))
        events = Events(listeners)
        source = open_source(data, model, place, seed, settings.cache, settings.tokenizer)
        if source is None:
            raise RecoveryError("a sweep needs unlabelled inputs: pass data=...")
        fingerprint = None if place is None else model_fingerprint(model)
        outputs = trial(model, source, single.asked_outputs, settings.cache)
        recovery = Recovery(own(model), model, source, None, seed, place, events, outputs=outputs)
        early = [step for step in recovery_steps(single) if getattr(step[1], "before_fit", False)]
        list(recover(recovery, early))
        original, plan = to_be_fitted(model, recovery.student, plan, bool(early), settings.example_inputs)
        tried = {p.name: _numbers(p, original, lists[p.rule]) for p in plan.parameters.values()}
        units = _units(plan, single, settings.units)
        options = {
            unit: sorted(
                {min(k, max(tried[n][-1] for n in names)) for n in names for k in lists[_rule(plan, n)] or tried[n]}
            )
            for unit, names in units.items()
        }
        told = b""
        if place is not None:
            given = (tried, units, samples, settings.estimate, seed, settings.example_inputs)
            told = identity(model, single, [source], given, fingerprint)
        journal = stack.enter_context(Journal.alone(place, "search", told, Traces([source])))
        bench = Bench(model, original, plan, tried, source, samples, seed, journal, events, settings.cache, outputs)
        yield Trials(recipe, plan, bench, units, options, settings.estimate, started)


def swept(trials: Trials) -> tuple[Sweep, Floats | None]:
    """The sweep, and the projections (see :meth:`Bench.projections`) whose squares are the damage of each pair of a
    unit and its centroids; ``None`` where all was measured."""
    bench, pairs = trials.bench, trials.pairs()
    choices = [trials.choice(unit, k) for unit, k in pairs]
    projected: Floats | None = None
    if trials.estimate:
        options = [(name, k) for name, ks in bench.tried.items() for k in ks]
        column = {option: n for n, option in enumerate(options)}
        drawn = bench.projections(options)
        power, projected, mse = drawn.power, *(_together(one, choices, column) for one in (drawn.apart, drawn.mse))
        kl = None if drawn.kl is None else _together(drawn.kl, choices, column)
        checked = _to_check(np.square(projected).sum(0))
    else:
        checked, power = list(range(len(pairs))), bench.power()
    found: dict[int, Agreement] = {}
    with bench.events.stage("sweep", total=len(checked)):
        for done, number in enumerate(checked, start=1):
            found[number] = bench.measure(choices[number])
            bench.events.step("sweep", done, len(checked), _told(found[number]))
    rows, one = [], len(bench.outputs.leaves) == 1
    law = _agreement_law(found.values())
    for number, ((unit, k), choice) in enumerate(zip(pairs, choices, strict=True)):
        numbers = [trials.plan.parameters[name].number for name in choice]
        if (measured := found.get(number)) is not None:
            damage = max(measured.damage or 0.0, 0.0)  # rounding may leave -1e-8
            divergence = max(measured.kl, 0.0) if one and measured.kl is not None else None
            agreement, noise = measured.top1 if one else None, measured.mse
        else:
            assert projected is not None
            damage = float(np.square(projected[:, number]).sum())
            divergence = None if kl is None else float(np.square(kl[:, number]).sum())
            agreement = None if divergence is None else law(divergence)
            noise = float(np.square(mse[:, number]).sum())
        rows.append(
            Row(
                unit,
                numbers[0] if len(numbers) == 1 else None,
                sum(trials.plan.parameters[name].weights for name in choice),
                k,
                code_bits(k) / trials.plan.parameters[trials.units[unit][0]].block,
                trials.bytes(choice),
                divergence,
                agreement,
                10 * math.log10(power / noise) if noise > 0 and power > 0 else math.inf,
                measured is not None,
                damage,
            )
        )
    sweep = Sweep(
        trials.plan.model, trials.recipe.name, rows, bench.source.describe(), len(bench.comparison.order),
        bench.passes, time.perf_counter() - trials.started, trials.units,
    )  # fmt: skip
    return sweep, projected


def _told(found: Agreement) -> dict[str, float]:
    """What matters of a measurement, for events."""
    return {"damage": found.damage or 0.0} if found.kl is None else {"kl": found.kl}


def _together(projected: Floats, choices: Sequence[Mapping[str, int]], column: Mapping[tuple[str, int], int]) -> Floats:
    """Projections of the parameters of each unit, added up."""
    return np.stack([projected[:, [column[option] for option in choice.items()]].sum(1) for choice in choices], axis=1)


def _to_check(noise: Floats) -> list[int]:
    """Which options to measure: spread evenly over those with more than a trace of damage, the worst one included."""
    worst_first = np.argsort(-noise, kind="stable")
    count = int((noise > _WORTH * noise.max()).sum())
    wanted = min(count, max(_FEWEST, len(noise) // _MEASURED_OF))
    return sorted({int(worst_first[n]) for n in np.linspace(0, count - 1, wanted).round().astype(int)}) if count else []


def _agreement_law(measured: Any) -> Any:
    """Agreement for a divergence, ``1 - c KL^b``, fitted to what was measured (``b`` is near 1/2: a decision flips
    where the move of the outputs, which grows with the root of the divergence, exceeds the margin)."""
    points = [(math.log(m.kl), math.log(1 - m.top1)) for m in measured if m.kl and m.top1 is not None and m.top1 < 1]
    if not points:
        return lambda kl: 1.0
    x, y = np.array(points).T
    b = 0.5
    if len(points) >= _FEWEST and np.ptp(x) > 1:
        b = float(np.clip(np.polyfit(x, y, 1)[0], 0.3, 1.0))
    a = float((y - b * x).mean())
    return lambda kl: 1 - min(1.0, math.exp(a + b * math.log(kl))) if kl > 0 else 1.0


def _asked(given: Any, usual: Sequence[int]) -> Sequence[int]:
    """The numbers of centroids that a caller asks for, or the usual ones.

    Raises:
        RecipeError: no list of whole numbers.
    """
    if given is None:
        return usual
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
        raise RecipeError(f"centroids is a list of numbers such as [2, 4, 8], not {given!r}")
    if not (found := [whole("centroids", k, RecipeError, least=None) for k in given]):
        raise RecipeError("centroids is empty: give numbers such as [2, 4, 8]")
    return found


def _what_to_try(recipe: Recipe, numbers: Sequence[int]) -> tuple[list[list[int] | None], Recipe]:
    """The centroids to try for each rule (``None``: only its own), and the recipe with one value for each."""
    data: Any = recipe.data()
    for where, values in recipe.choices().items():
        if where[0] != "quantize" or where[2:] != ("centroids",):
            raise RecipeError(f"{recipe.at(*where)}: a search chooses centroids only; write one value here")
        data = put(data, where, listed(recipe.at(*where), values))
    recipe = recipe.changed(data)
    some = any(isinstance(rule.options.get("centroids"), list) for rule in recipe.quantize)
    data = copy.deepcopy(recipe.data())
    data.pop("search", None)
    found: list[list[int] | None] = []
    for rule, entry in zip(recipe.quantize, data["quantize"], strict=True):
        own = rule.options.get("centroids")
        tried = None
        if _chooses(rule.quantizer) and not (some and isinstance(own, (int, float))):
            tried = sorted({*(map(int, own) if isinstance(own, list) else numbers)})
            entry["centroids"] = tried
        found.append(tried)
    recipe.changed(data)
    for entry, tried in zip(data["quantize"], found, strict=True):
        if tried is not None:
            entry["centroids"] = tried[-1]
    return found, recipe.changed(data)


def _chooses(quantizer: str) -> bool:
    return quantizer != KEEP and "centroids" in registry.find("quantizer", quantizer, RecipeError).options.model_fields


def _numbers(p: PlannedParameter, model: nn.Module, tried: list[int] | None) -> list[int]:
    """The numbers of centroids to fit, none above the number of distinct values."""
    if tried is None:
        return [p.centroids]
    most = most_centroids(model.get_parameter(p.name).detach(), p.layout.with_centroids(tried[-1]))
    return sorted({min(k, most) for k in tried})


def _rule(plan: Plan, name: str) -> int:
    return plan.parameters[name].rule


def _units(plan: Plan, recipe: Recipe, units: Units) -> dict[str, tuple[str, ...]]:
    """The parameters of each unit, in forward order."""
    if units == "parameters":
        return {name: (name,) for name in plan.parameters}
    if units != "rules":
        raise RecipeError(f"units must be 'parameters' or 'rules', got {units!r}")
    found: dict[int, list[str]] = {}
    for p in plan.parameters.values():
        found.setdefault(p.rule, []).append(p.name)
    return {
        f"quantize[{rule + 1}]: {', '.join(recipe.quantize[rule].selectors)}": tuple(names)
        for rule, names in found.items()
    }
