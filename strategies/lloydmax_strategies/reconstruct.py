"""Reconstruction: codes that keep the outputs of each layer, not each weight.

Frantar, Ashkboos, Hoefler & Alistarh (2023), "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", layer by layer on inputs that the compressed layers before have made, with codebooks in place of a grid,
and Chou, Lookabaugh & Gray (1989), "Entropy-constrained vector quantization", in the choice where bits have a price.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from lloydmax import Codebook, RecoveryError, hookimpl
from lloydmax.extend import Channels, CodebookWeight, Recovery, attached, evaluating, even
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from lloydmax_strategies.frontier import Frontier
from lloydmax_strategies.matching.preactivations import stages
from lloydmax_strategies.reconstruction.feedback import Factors, feedback, output_errors, refitted
from lloydmax_strategies.reconstruction.gram import Gram, LayerGram, NotPlain
from lloydmax_strategies.tap import forward_order

_ROUNDS, _TOLERANCE = 8, 0.005
"""Until codes whose bits have a price have the entropy from before, or a little less."""
_STEEPER = 4
"""Times as much must a price alone grow, as one with the distance of centroids, to save a bit."""


class Reconstruct:
    """Chooses the codes of each layer anew, so that its outputs stay: the weights of an output channel make up for each
    other's errors (Frantar et al. 2023, GPTQ).

    Convolutions, linear layers, the gates of recurrent ones and queries, keys and values of attention, with one code
    for each weight, one after the other on the outputs of the compressed layers before. Where bits have a price, the
    codes keep their entropy, if need be by a larger distance of all centroids (a higher price where these are not
    trained), and bits go to the inputs that matter most. The others, transposed convolutions, blocks of weights and
    tied weights, are named in ``skipped``.
    Put it before the steps that train. It comes close to the weights that the codebooks were fitted to; where only a
    host knows these (``run_step``), it takes the decoded ones for them, and changes nothing.
    """

    needs_data = True

    class Options(BaseModel):
        """Options of `reconstruct`."""

        model_config = ConfigDict(extra="forbid")

        samples: PositiveInt = Field(
            default=512, description="inputs, drawn at random; the network runs up to each layer on all of them."
        )

        batch_size: PositiveInt = Field(default=32, description="of one forward pass.")

        damping: PositiveFloat = Field(
            default=0.01, description="of the mean second moment of a layer's inputs, is added to all of them."
        )

        rows: PositiveInt | None = Field(
            default=None,
            description="positions of a layer's inputs, in all samples, that are looked at, nearly, evenly spaced; "
            "`null`: all.",
        )

        columns: PositiveInt = Field(
            default=4096,
            description="of the largest layer that is done, weights of an output channel; larger ones stay as they "
            "are.",
        )

        refit: bool = Field(
            default=False, description="fit the centroids that are trained to the outputs, too, by least squares."
        )

        bias: bool = Field(
            default=True,
            description="move the mean output error into the bias where there is one in floats; the codes then see to "
            "the rest alone.",
        )

        source: Literal["data", "reference_data"] = Field(default="data", description="`data` or `reference_data`.")

    def __init__(self, options: Options) -> None:
        self.options = options

    def run(self, recovery: Recovery) -> dict[str, Any]:
        """Choose the codes of every layer that can be done; names the others."""
        options, student = self.options, recovery.student
        source = recovery.source(options.source, padded=False)
        order = source.draw(options.samples, recovery.seed)
        found = _targets(student, recovery.original, options.columns)
        errors: list[tuple[float, float]] = []
        changed = codes = 0
        with evaluating(student):
            calls = forward_order(student, list(found), source, order[:2])
            size = recovery.batch_size(options.batch_size, source)
            front = Frontier(student, source, order, size)
            for index, module in enumerate(calls, start=1):
                inputs = partial(front.read, module, calls=calls[module])
                passes = -(-len(order) // size) * calls[module]
                most = None if options.rows is None else max(1, options.rows // passes)
                for target, gram in _grams(module, found[module], inputs, most):
                    before = target.holder.codes.clone()
                    errors.append(target.reconstruct(gram, options))
                    changed += int((target.holder.codes != before).sum())
                    codes += before.numel()
                    target.done = True
                recovery.events.step("reconstruct", index, len(calls), {"error": errors[-1][1] if errors else 0.0})
        ready = [target for targets in found.values() for target in targets.values() if target.done]
        names, done = {target.name for target in ready}, {id(target.holder) for target in ready}
        skipped = [held.name for held in attached(student) if id(held.weight) not in done]
        if not names:
            warnings.warn(
                "reconstruct: nothing could be done: " + ", ".join(skipped),
                stacklevel=2,
            )
        first, last = zip(*errors, strict=True) if errors else ((0.0,), (0.0,))
        figures: dict[str, Any] = {"layers": len(names), "samples": len(order), "skipped": skipped}
        if options.refit:
            figures["frozen"] = [t.name for t in ready if not t.refittable()]
        figures |= {"error_before": sum(first) / len(first), "error": sum(last) / len(last)}
        return figures | {"codes_changed": changed / max(codes, 1)}


def _grams(
    module: nn.Module, targets: dict[str, _Target], read: Callable[..., Iterator[Any]], most: int | None
) -> Iterator[tuple[_Target, Gram]]:
    """The weights of one module that can be done, each with what it multiplies once those before it are done."""
    if _is_plain(module):
        target = targets["weight"]
        gram: Gram = LayerGram(module, target.decoded(), most)
        try:
            for inputs in read():
                gram.add(inputs)
        except NotPlain:
            return
        yield target, gram
        return
    run, seen = stages(module), list(read(what="call"))
    for stage in run:
        grams: dict[str, Gram] = {}
        for one in seen:
            for leaf, rows in stage.operands(module, one).items():
                if leaf in targets:
                    grams.setdefault(leaf, Gram(len(rows), rows.shape[2], rows.device)).add(rows)
        for leaf, gram in grams.items():
            targets[leaf].groups = len(gram.moments()[1])
            yield targets[leaf], gram
        if stage is not run[-1]:
            seen = [stage.after(module, one) for one in seen]


def _is_plain(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, _ConvNd)) and not isinstance(module, _ConvTransposeNd)


@dataclass
class _Target:
    name: str
    module: nn.Module
    leaf: str
    holder: CodebookWeight
    centroids: Tensor
    weight: Tensor
    done: bool = False
    groups: int = 1

    def codebook(self) -> Codebook:
        return self.holder.holding(self.centroids)

    def decoded(self) -> Tensor:
        return self.codebook().dequantize()

    def refittable(self) -> bool:
        return self.centroids.requires_grad and even(self.codebook()) is None

    def reconstruct(self, gram: Gram, options: Reconstruct.Options) -> tuple[float, float]:
        """The error of the outputs relative to their mean square, before and after."""
        moments, means = gram.moments()
        if not bool(torch.isfinite(moments).all()):
            raise RecoveryError(f"reconstruct: the inputs of {self.name!r} are not finite")
        bias = self.module._parameters.get(self.leaf.replace("weight", "bias")) if options.bias else None
        power = max(float(output_errors(self._grouped(self.weight), moments).sum()), 1e-30)
        first = float(self._errors(self.codebook(), moments).sum()) / power
        if bias is not None:
            moments = moments - means[:, :, None] * means[:, None, :]
        damped = Factors(moments, options.damping)
        chosen = self._chosen(moments, damped)
        self.holder.recode(chosen)
        self.centroids.copy_(chosen.centroids)
        if options.refit and self.refittable():
            self._refit(moments)
        if bias is not None:
            missing = self._grouped(self.weight - self.decoded().float())
            bias.add_((missing @ means.float()[:, :, None]).flatten().to(bias))
        return first, float(self._errors(self.codebook(), moments).sum()) / power

    def _grouped(self, weight: Tensor) -> Tensor:
        if _is_plain(self.module):
            return Channels(self.module).by_group(weight.float()).flatten(2)
        return weight.float().unflatten(0, (self.groups, -1))

    def _chosen(self, moments: Tensor, factors: Factors) -> Codebook:
        held, weight = self.codebook(), self._grouped(self.weight)
        table = held.centroids.float()
        if held.granularity != "tensor":
            table = table[held.layout.owners(table.device)].view(*weight.shape[:2], held.k)

        given = None
        if held.zeros:
            given = self._grouped(held.zeros_kept(self.weight, torch.full(held.shape, -1, device=weight.device))).long()

        units = self._units(held).view(*weight.shape[:2], 1) if held.price and held.granularity != "tensor" else None
        if units is not None:
            weight, table = weight / units, table / units

        def coded(book: Codebook, scale: float = 1.0, price: Tensor | None = None) -> Codebook:
            bits = None if price is None else book.priced_bits().float()
            codes = feedback(weight, factors, table * scale, bits, price, given)
            return replace(held, centroids=held.centroids * scale, codes=codes.view(held.shape).to(held.codes.dtype))

        if not held.price:
            return self._better(coded(held), moments)
        price = held.price * factors.relief / factors.relief.log().mean().exp()
        free, wanted, tried, step = self.refittable(), held.entropy, held, 1.0
        for _ in range(_ROUNDS):
            tried = coded(tried, step if free else 1.0, price * step**2)
            if wanted * (1 - _TOLERANCE) <= tried.entropy <= wanted:
                break
            step *= 2 ** ((tried.entropy - wanted * (1 - _TOLERANCE / 2)) * (1 if free else _STEEPER))
        each = 1.0 if units is None else units.flatten() ** 2
        errors = [float((self._errors(book, moments) / each).sum()) for book in (tried, held)]
        return tried if tried.entropy <= wanted and errors[0] < errors[1] else held

    @staticmethod
    def _units(held: Codebook) -> Tensor:
        """By which an output channel is divided so that a bit has the same price in all of them, ``(rows,)``."""
        return (held.prices() / held.price).sqrt().float()[held.layout.owners(held.codes.device)]

    def _better(self, tried: Codebook, moments: Tensor) -> Codebook:
        """With the codes from before for output channels that have no less error with the new ones."""
        better = self._errors(tried, moments) < self._errors(self.codebook(), moments)
        better = better.view(-1, *[1] * (tried.codes.dim() - 1))
        return replace(tried, codes=torch.where(better, tried.codes, self.holder.codes))

    def _errors(self, book: Codebook, moments: Tensor) -> Tensor:
        """Of the outputs, for each output channel."""
        return output_errors(self._grouped(self.weight - book.dequantize().float()), moments).flatten()

    def _refit(self, moments: Tensor) -> None:
        held = self.codebook()
        slots = held.layout.slots(held.codes).long()
        shape = self._grouped(self.weight).shape

        def decode(centroids: Tensor) -> Tensor:
            return centroids.flatten()[slots].view(shape)

        def gather(values: Tensor) -> Tensor:
            sums = torch.zeros(held.centroids.numel(), dtype=torch.float64, device=values.device)
            sums = sums.index_add_(0, slots, values.flatten().double()).view(held.centroids.shape)
            return sums.masked_fill(held.still(), 0).float()

        found = refitted(held.centroids.float(), self._grouped(self.weight), moments, decode, gather)
        self.centroids.copy_(found)


def _targets(student: nn.Module, original: nn.Module | None, columns: int) -> dict[nn.Module, dict[str, _Target]]:
    """The weights that can be done, by their names in each module, with what to come close to."""
    weights = {} if original is None else dict(original.named_parameters())
    places = list(attached(student))
    uses: dict[int, int] = {}
    for place in places:
        uses[id(place.weight)] = uses.get(id(place.weight), 0) + 1
    found: dict[nn.Module, dict[str, _Target]] = {}
    for name, module, leaf, holder, centroids in places:
        known = leaf == "weight" if _is_plain(module) else _is_gated(module, leaf)
        if not known or holder.layout.block > 1 or uses[id(holder)] > 1 or holder.codes[0].numel() > columns:
            continue
        kept = weights.get(name)
        fits = kept is not None and tuple(kept.shape) == holder.layout.shape
        weight = kept if kept is not None and fits else holder.holding(centroids).dequantize()
        weight = weight.detach().to(centroids.device, torch.float32)
        found.setdefault(module, {})[leaf] = _Target(name, module, leaf, holder, centroids, weight)
    return found


def _is_gated(module: nn.Module, leaf: str) -> bool:
    if isinstance(module, _ConvNd):
        return False
    return any(leaf in one.weights for stage in stages(module) for one in stage.sums)


@hookimpl
def lloydmax_recovery_steps() -> dict[str, type]:
    """Register ``reconstruct``."""
    return {"reconstruct": Reconstruct}
