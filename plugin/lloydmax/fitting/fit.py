"""Fit the codebooks of a plan."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lloydmax.codebook.weight import check_weight
from lloydmax.data import Batch, Source, even
from lloydmax.errors import FitError, PluginError, RecoveryError
from lloydmax.fitting.candidates import MOST_ROUNDS, Choice, Judging, chosen
from lloydmax.fitting.sizing import ROUNDS
from lloydmax.hooks import registry
from lloydmax.hooks.events import Events
from lloydmax.hooks.time_limit import TimeLimit
from lloydmax.network.outputs import Outputs
from lloydmax.network.parameters import weight_of
from lloydmax.plan.plan import Plan, PlannedParameter
from lloydmax.plan.quantizing import laid_out, quantize
from lloydmax.runtime.cache import Cache, bytes_of, number
from lloydmax.runtime.digest import fingerprint, model_fingerprint
from lloydmax.runtime.modes import evaluating
from lloydmax.teacher.trial import trial

if TYPE_CHECKING:
    from lloydmax.codebook.codebook import Codebook

_REMEMBERED = 1 << 28
"""Bytes of codebooks that one run remembers, if no cache is given."""
_MEASURING, _COMPARING = 0.2, 0.3
"""Shares of the time that is left after which no more inputs are looked at for importances, or ways compared."""


def fit(
    model: nn.Module,
    plan: Plan,
    source: Source | None = None,
    events: Events | None = None,
    cache: Cache | None = None,
) -> dict[str, Codebook]:
    """Fit the codebook of every planned parameter.

    Args:
        model: the original; not changed. Buffers that get codebooks may still be buffers.
        plan: of that model.
        source: unlabelled inputs, for importances.
        events: where progress is reported.
        cache: fits are looked up in it and kept in it.

    Raises:
        FitError: names a parameter that no codebook can be fitted to. RecoveryError: an importance without data.
    """
    return fit_best(model, plan, source, events, cache)[1]


def fit_best(
    model: nn.Module,
    plan: Plan,
    source: Source | None = None,
    events: Events | None = None,
    cache: Cache | None = None,
    judge: Judging | None = None,
    changed: bool = False,
    outputs: Outputs | None = None,
    limit: TimeLimit | None = None,
) -> tuple[Choice, dict[str, Codebook]]:
    """The same where the recipe's ``bits`` leave open what the codebooks are like.

    Args:
        model: see :func:`fit`.
        plan: see :func:`fit`.
        source: see :func:`fit`.
        events: see :func:`fit`.
        cache: see :func:`fit`.
        judge: the damage that codebooks do, by which they are chosen, see :func:`~lloydmax.fitting.candidates.chosen`;
            ``None``: nothing is compared.
        changed: whether recovery changes codes.
        outputs: how those of the model are read; ``None``: a trial tells.
        limit: of the time: less is measured and compared where there is little; ``None``: none.

    Returns:
        The plan, with what it was compared with, and its codebooks.
    """
    events, limit = events or Events(), limit or TimeLimit()
    weights = {name: weight_of(model, name) for name in plan.parameters}
    weighted = importances(model, plan, source, events, outputs, cache, limit)
    cache = cache or (None if plan.recipe.bits is None else Cache(_REMEMBERED))

    rates: dict[tuple[str, str], Any] = {}

    def rate(p: PlannedParameter) -> Any:
        key = p.name, p.granularity
        if key not in rates:
            rates[key] = registry.make("quantizer", p.quantizer, p.options).rate(weights[p.name])
        return rates[key]

    def fitted(p: PlannedParameter) -> Codebook:
        known = rates.get((p.name, p.granularity)) if getattr(p.options, "price", 0.0) else None
        at_price = getattr(known, "fit", None)
        try:
            return _fitted(p, weights[p.name], weighted.get(p.name), cache, at_price)
        except FitError as error:
            raise FitError(f"{p.name}: {error}") from None

    choice = Choice(plan)
    if plan.recipe.bits is not None:
        with events.stage("price"):
            means, weighted = weighted, {}
            done, total = 0, len(plan.parameters) * (MOST_ROUNDS if judge else ROUNDS)

            def attempt(tried: Plan) -> dict[str, Codebook]:
                nonlocal done
                made = {}
                for p in tried.parameters.values():
                    made[p.name] = fitted(p)
                    done += 1
                    events.step("price", min(done, total), total)
                return made

            over = limit.share(_COMPARING, "codebooks")

            def enough() -> bool:
                return over("not all ways to spend the bits were compared")

            choice = chosen(model, plan, means, attempt, rate, judge, changed, source is None, enough)
    found: dict[str, Codebook] = {}
    with events.stage("fit", total=len(plan.parameters)):
        for index, p in enumerate(choice.plan.parameters.values(), start=1):
            found[p.name] = fitted(p)
            events.fitted(p.name, found[p.name], index, len(plan.parameters))
    return choice, found


def as_planned(model: nn.Module, plan: Plan) -> dict[str, Codebook]:
    """The codebooks of a plan that :func:`fit_best` compared, without importances."""
    return {name: quantize(p, weight_of(model, name)) for name, p in plan.parameters.items()}


def importances(
    model: nn.Module,
    plan: Plan,
    source: Source | None,
    events: Events,
    outputs: Outputs | None = None,
    cache: Cache | None = None,
    limit: TimeLimit | None = None,
) -> dict[str, Tensor]:
    """The importance of every weight of the parameters whose rules name one, by parameter name; see :func:`fit_best`.

    With a ``cache``, runs over equal models and the same inputs share it, where these have the same values each time.

    Raises:
        RecoveryError: there is no data to measure it on. PluginError: the importance leaves a parameter out.
    """
    found: dict[str, Tensor] = {}
    for kind in sorted({p.importance for p in plan.parameters.values() if p.importance is not None}):
        if source is None:
            raise RecoveryError(f"importance {kind!r} needs unlabelled inputs: pass data=...")
        names = [p.name for p in plan.parameters.values() if p.importance == kind]
        key = None
        if cache is not None and source.deterministic:
            asked = plan.recipe.asked_outputs, outputs is None
            key = ("importance", kind, tuple(names), model_fingerprint(model), number(source), repr(asked))
            if (known := cache.find(key)) is not None:
                found |= known
                continue
        stage = f"importance {kind}"
        with events.stage(stage), evaluating(model), torch.enable_grad():
            heard = _Heard(even(source, model), stage, events, limit or TimeLimit())
            measure = registry.make("importance", kind, {}).measure
            reads = "outputs" in inspect.signature(measure).parameters
            more = {"outputs": outputs or trial(model, source, plan.recipe.asked_outputs)} if reads else {}
            measured = measure(model, names, heard, **more)
        if missing := [name for name in names if not isinstance(measured.get(name), Tensor)]:
            raise PluginError(
                f"importance {kind!r} measured nothing for {missing[0]!r}; it has to give all it is asked for"
            )
        found |= measured
        if cache is not None and key is not None:
            cache.put(key, dict(measured), bytes_of(measured))
    return found


class _Heard(Source):
    """A source that tells how many of the samples of an order were read, and ends where there is no time for more."""

    def __init__(self, source: Source, stage: str, events: Events, limit: TimeLimit) -> None:
        self._source, self._stage, self._events, self._limit = source, stage, events, limit

    def __len__(self) -> int:
        return len(self._source)

    @property
    def deterministic(self) -> bool:
        return self._source.deterministic

    def describe(self) -> str:
        return self._source.describe()

    def batches(
        self, batch_size: int, order: Tensor | None = None, drop_last: bool = False
    ) -> Iterator[tuple[Tensor, Batch]]:
        done, total = 0, len(self) if order is None else len(order)
        over = self._limit.share(_MEASURING, self._stage)
        for indices, batch in self._source.batches(batch_size, order, drop_last):
            yield indices, batch
            done += len(indices)
            self._events.step(self._stage, done, total)
            if done < total and over(f"{done:,} of {total:,} inputs"):
                return

    def _read(self, order: Tensor, batch_size: int, drop_last: bool) -> Iterator[tuple[Tensor, Batch]]:
        return self._source.batches(batch_size, order, drop_last)


def _fitted(
    p: PlannedParameter,
    weight: Tensor,
    importance: Tensor | None,
    cache: Cache | None,
    at_price: Callable[[float], Codebook] | None = None,
) -> Codebook:
    def make() -> Codebook:
        if at_price is not None:
            return laid_out(p, at_price(p.options.price))  # type: ignore[attr-defined]
        check_weight(weight, importance)
        return quantize(p, weight, importance)

    if cache is None:
        return make()
    tensors = [weight] if importance is None else [weight, importance]
    key = (
        "codebook",
        fingerprint(tensors),
        p.quantizer,
        p.options.model_dump_json(),
        p.layout.channel_axes,
        weight.device,
    )
    found = cache.get(key, make)
    return replace(found, centroids=found.centroids.clone(), codes=found.codes.clone())
