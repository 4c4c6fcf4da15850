"""How far a model's outputs move when parameters get codebooks: measured, or estimated for all choices at once.

The estimate is second-order. With ``e`` the error that a codebook makes in a weight, the Kullback-Leibler divergence
from the teacher is ``e^T F e / 2`` up to higher orders, ``F`` the Fisher information of the outputs (Martens 2020,
"New insights and perspectives on the natural gradient method", section 9). ``F = E[g g^T]`` for gradients ``g`` of a
random combination of the outputs, so the squares of ``g^T e`` estimate it: one backward pass over a few samples gives
one draw for every parameter and every codebook together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lloydmax.choosing.journal import Journal
from lloydmax.codebook.codebook import Codebook
from lloydmax.codebook.weight import check_weight
from lloydmax.data import Batch, Source
from lloydmax.errors import FitError, RecoveryError
from lloydmax.fitting.fit import importances
from lloydmax.hooks.events import Events
from lloydmax.network.outputs import Outputs, comparable
from lloydmax.network.private import own
from lloydmax.plan.plan import Plan
from lloydmax.plan.quantizing import fit_many
from lloydmax.runtime.cache import Cache
from lloydmax.runtime.digest import fingerprint
from lloydmax.runtime.modes import device_of, evaluation_mode
from lloydmax.teacher.agreement import Agreement, Comparison, differences
from lloydmax.teacher.fisher import fisher_draw, gauss_newton_draw
from lloydmax.teacher.refusal import ask

Floats = NDArray[np.float64]
_BATCH = 64
"""Samples of one forward pass."""
_DRAWS = 64
"""Random projections of the Fisher information: an estimate of a sum of squares is within 20 % or so."""
_PIECES, _GRADIENT_BYTES, _PARTS = 16, 1 << 30, 4
"""Draws whose gradients are held at once at most, the memory for them, and the share of it for errors of weights."""


@dataclass(frozen=True)
class Projections:
    """Arrays ``(draws, options)``, float64, whose squares, summed over the draws, are what each option alone does.

    Attributes:
        kl: the KL divergence in nats; ``None`` where what counts is not one output that has, or may have, classes.
        apart: how far apart in what the outputs tell.
        mse: the mean squared difference of the outputs.
        power: their mean square.
    """

    kl: Floats | None
    apart: Floats
    mse: Floats
    power: float


class Bench:
    """One model on which codebooks are tried.

    Args:
        teacher: the outputs to compare with; never changed.
        original: the uncompressed weights, usually the teacher itself; never changed.
        plan: of ``original``; its numbers of centroids do not matter.
        tried: for every planned parameter the numbers of centroids to try.
        source: unlabelled inputs.
        samples: how many of them count, drawn with ``seed``.
        seed: of all randomness.
        journal: where every measurement is looked up and kept.
        events: where progress is reported.
        cache: shared with other runs.
        outputs: how outputs are read; ``None``: a trial tells.

    Attributes:
        passes: forward passes over all samples so far, a backward pass counted as two.
    """

    def __init__(
        self,
        teacher: nn.Module,
        original: nn.Module,
        plan: Plan,
        tried: Mapping[str, Sequence[int]],
        source: Source,
        samples: int,
        seed: int,
        journal: Journal,
        events: Events,
        cache: Cache | None = None,
        outputs: Outputs | None = None,
    ) -> None:
        self.plan, self.tried, self.source, self.seed = plan, tried, source, seed
        self.journal, self.events, self.cache = journal, events, cache or Cache()
        self.comparison = Comparison(teacher, source, samples, seed, outputs, cache=cache, events=events)
        self.outputs = self.comparison.outputs
        self._drawn = self.outputs.leaves
        if len(self._drawn) == 1 and self._drawn[0].kind == "unclear" and self._drawn[0].classes is not None:
            self._drawn = (replace(self._drawn[0], kind="classes"),)  # the other draw is that of quantities
        self.original = original
        self.student = own(original).requires_grad_(False).eval()
        self.weights = {name: original.get_parameter(name).detach() for name in plan.parameters}
        self.passes = 1.0
        self._importances = importances(original, plan, source, events)
        self._keys = {
            name: fingerprint([w] if (importance := self._importances.get(name)) is None else [w, importance])
            for name, w in self.weights.items()
        }

    def codebook(self, name: str, centroids: int) -> Codebook:
        """The codebook of one parameter; all numbers of centroids are fitted when one is first asked for."""
        p, importance = self.plan.parameters[name], self._importances.get(name)
        chosen = (p.quantizer, p.options.model_dump_json(), *p.layout.channel_axes)
        key = ("codebooks", self._keys[name], *chosen, *self.tried[name])

        def make() -> dict[int, Codebook]:
            try:
                check_weight(self.weights[name], importance)
                return fit_many(p, self.weights[name], importance, self.tried[name])
            except FitError as error:
                raise FitError(f"{name}: {error}") from None

        return self.cache.get(key, make)[centroids]

    def error(self, name: str, centroids: int) -> Tensor:
        """The dense weight as the file would give it back, minus the original; float32, in its shape."""
        return self._dense(name, centroids).float() - self.weights[name].float()

    def measure(self, choice: Mapping[str, int]) -> Agreement:
        """Compare the teacher with the model whose named parameters have this many centroids, the others unchanged."""
        key = "measure " + " ".join(f"{name}={choice[name]}" for name in sorted(choice))
        found: Agreement = self.journal.get(key, lambda: asdict(self._measured(choice)), Agreement.read)
        return found

    def _measured(self, choice: Mapping[str, int]) -> Agreement:
        self.passes += 1
        with self._compressed(choice):
            return self.comparison.measure(self.student)

    def power(self) -> float:
        """Mean square of the teacher's outputs."""
        return float(self.journal.get("power", self._power, lambda kept: _numbers(kept, ())))

    def _power(self) -> float:
        squared, values, device = 0.0, 0, device_of(self.student)
        for indices, batch in self.source.batches(_BATCH, self.comparison.order):
            for output in self._wanted(indices, batch, device):
                squared += float(comparable(output, output)[1].double().square().sum())
                values += output.numel()
        return squared / max(values, 1)

    def projections(self, options: Sequence[tuple[str, int]], draws: int = _DRAWS) -> Projections:
        """What :meth:`measure` would say for each option alone, up to second order, as sums of squares.

        Args:
            options: pairs of a parameter and its centroids.
            draws: backward passes at least, where there are as many samples.

        Returns:
            Sums over options before squaring tell what they do together.
        """
        order = self.comparison.order
        size = max(1, len(order) // draws)
        pieces = list(order.split(size))
        held = sum(4 * 2 * weight.numel() for weight in self.weights.values())
        step = max(1, min(_PIECES, _GRADIENT_BYTES // held))
        chunks = [pieces[start : start + step] for start in range(0, len(pieces), step)]
        rows: list[dict[str, Any]] = []
        with self.events.stage("estimate", total=len(chunks)):
            for number, chunk in enumerate(chunks):
                draw = partial(self._project, chunk, options, number)
                key, take = (
                    f"project by kind {len(options)} {size} {step} {number}",
                    partial(_row, options=len(options)),
                )
                rows.append(self.journal.get(key, draw, take))
                self.events.step("estimate", number + 1, len(chunks), {})
        samples, values = (sum(row[key] for row in rows) for key in ("samples", "values"))
        apart, mse = (np.array([draw for row in rows for draw in row[key]]) for key in ("apart", "mse"))
        power = sum(row["power"] for row in rows) / values
        leaf, *others = self.outputs.leaves
        apart, mse = apart / math.sqrt(2 * samples * len(self.outputs.leaves)), mse / math.sqrt(values)
        kl = apart if not others and any(row["decisions"] for row in rows) else None
        if not others and leaf.kind == "unclear":
            apart = mse / (math.sqrt(2) * leaf.spread)
        return Projections(kl, apart, mse, power)

    def _project(self, pieces: list[Tensor], options: Sequence[tuple[str, int]], number: int) -> dict[str, Any]:
        """Draws from pieces of the samples, each projected on the error of every option."""
        generator = torch.Generator().manual_seed(((self.seed << 20) + number) % 2**63)
        names = list(self.plan.parameters)
        parameters = [self.student.get_parameter(name) for name in names]
        found: dict[str, Any] = {"samples": 0, "decisions": 0, "values": 0, "power": 0.0}
        device, drawn = device_of(self.student), 0
        gradients = [torch.zeros(2 * len(pieces), p.numel(), device=p.device) for p in parameters]
        with self._differentiable(parameters):
            for piece in pieces:
                self.passes += 5 * len(piece) / len(self.comparison.order)
                for _, batch in self.source.batches(len(piece), piece):
                    outputs = self._outputs(batch, device)
                    for output in outputs:
                        found["values"] += output.numel()
                        found["power"] += float(comparable(output, output)[1].detach().double().square().sum())
                    found["samples"] += len(outputs[0])
                    found["decisions"] += self.outputs.scores(outputs) is not None
                    for loss in (fisher_draw(outputs, generator, self._drawn), gauss_newton_draw(outputs, generator)):
                        if drawn == len(gradients[0]):  # batches that stay as they came may be more than the pieces
                            gradients = [torch.cat([kept, torch.zeros_like(kept)]) for kept in gradients]
                        grads = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
                        for kept, gradient in zip(gradients, grads, strict=True):
                            if gradient is not None:
                                kept[drawn].view(gradient.shape).copy_(gradient)
                        drawn += 1
                        del grads
        projected = np.zeros((drawn, len(options)))
        for name, kept in zip(names, gradients, strict=True):
            columns = [n for n, (parameter, _) in enumerate(options) if parameter == name]
            at_once = max(1, _GRADIENT_BYTES // (4 * kept.shape[1] * _PARTS))
            for start in range(0, len(columns), at_once):
                some = columns[start : start + at_once]
                errors = torch.stack([self.error(name, options[column][1]).reshape(-1) for column in some])
                projected[:, some] = (kept[:drawn] @ errors.T).double().cpu().numpy()
        found["apart"], found["mse"] = projected[0::2].tolist(), projected[1::2].tolist()
        return found

    def slopes(self, choice: Mapping[str, int], options: Sequence[tuple[str, int]]) -> Floats:
        """First-order change of the measured damage of a compressed model when one option replaces the chosen one.

        Args:
            choice: the compressed model: centroids of every planned parameter.
            options: pairs of a parameter and its centroids.

        Returns:
            float64 ``(len(options),)``: change of :attr:`~lloydmax.teacher.agreement.Agreement.damage`.
        """
        key = f"slopes {len(options)} " + " ".join(f"{name}={choice[name]}" for name in sorted(choice))
        found: Floats = self.journal.get(
            key, lambda: self._slopes(choice, options), lambda kept: _numbers(kept, (len(options),))
        )
        return found

    def _slopes(self, choice: Mapping[str, int], options: Sequence[tuple[str, int]]) -> list[float]:
        names = list(self.plan.parameters)
        parameters = [self.student.get_parameter(name) for name in names]
        device, order = device_of(self.student), self.comparison.order
        self.passes += 3
        with self._compressed(choice), self._differentiable(parameters):
            total = [torch.zeros_like(p, dtype=torch.float32) for p in parameters]
            for indices, batch in self.source.batches(_BATCH, order):
                loss = self._distance(self._outputs(batch, device), self._wanted(indices, batch, device)) * (
                    len(indices) / len(order)
                )
                for gradient, part in zip(total, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
                    if part is not None:
                        gradient += part
        by_name = dict(zip(names, total, strict=True))
        at = {name: float((by_name[name] * self.error(name, choice[name])).sum()) for name in names}
        return [float((by_name[name] * self.error(name, k)).sum()) - at[name] for name, k in options]

    def _wanted(self, indices: Tensor, batch: Batch, device: torch.device) -> list[Tensor]:
        """The teacher's outputs."""
        return self.comparison.targets.of(indices, batch.to(device, channels_last=True))

    def _distance(self, outputs: list[Tensor], wanted: list[Tensor]) -> Tensor:
        each = zip(outputs, wanted, self.outputs.leaves, strict=True)
        return torch.stack([differences(*one).mean() for one in each]).mean()

    def _outputs(self, batch: Batch, device: torch.device) -> list[Tensor]:
        inputs = batch.to(device, channels_last=True)
        outputs = self.outputs.of(ask(self.student, inputs), inputs)
        if not any(output.requires_grad for output in outputs):
            raise RecoveryError(
                "no gradient reaches the parameters from the model's output, so the damage cannot be estimated "
                "(a detach or no_grad in its forward?); measure it instead: estimate=False"
            )
        return outputs

    def _dense(self, name: str, centroids: int) -> Tensor:
        codebook = self.codebook(name, centroids)
        if self.plan.recipe.storage.floats == "float16" and codebook.centroids.dtype == torch.float32:
            rounded = codebook.centroids.half().float()
            if bool(torch.isfinite(rounded).all()):
                codebook = replace(codebook, centroids=rounded)
        return codebook.dequantize()

    @contextmanager
    def _compressed(self, choice: Mapping[str, int]) -> Iterator[None]:
        """Dense weights as the codebooks give them, the original ones afterwards."""
        try:
            for name, centroids in choice.items():
                self.student.get_parameter(name).data.copy_(self._dense(name, centroids))
            yield
        finally:
            for name in choice:
                self.student.get_parameter(name).data.copy_(self.weights[name])

    @contextmanager
    def _differentiable(self, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
        try:
            for parameter in parameters:
                parameter.requires_grad_(True)
            with evaluation_mode(self.student), torch.enable_grad():
                yield
        finally:
            for parameter in parameters:
                parameter.requires_grad_(False)


def _numbers(kept: Any, shape: tuple[int, ...]) -> Floats:
    """Numbers that were kept, float64 of this shape.

    Raises:
        TypeError, ValueError: it is something else.
    """
    found = np.array(kept)
    if found.dtype.kind not in "if" or found.shape != shape:
        raise ValueError(f"not numbers of shape {shape}")
    return found.astype(np.float64)


def _row(kept: Any, options: int) -> dict[str, Any]:
    """What :meth:`Bench._project` gave; raises as :func:`_numbers` where it is something else."""
    for key in ("samples", "decisions", "values", "power"):
        _numbers(kept[key], ())
    for key in ("apart", "mse"):
        for draw in kept[key]:
            _numbers(draw, (options,))
    row: dict[str, Any] = kept
    return row
