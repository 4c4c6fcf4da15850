"""Reconstruction: codes that keep the outputs of each layer, not each weight.

Frantar, Ashkboos, Hoefler & Alistarh (2023), "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", layer by layer on inputs that the compressed layers before have made, with codebooks in place of a grid,
and Chou, Lookabaugh & Gray (1989), "Entropy-constrained vector quantization", in the choice where bits have a price.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

import torch
from lloydmax import hookimpl
from lloydmax.extend import Recovery, attached, evaluating
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from lloydmax_strategies.frontier import Frontier
from lloydmax_strategies.matching.preactivations import stages
from lloydmax_strategies.reconstruction.gram import Gram, LayerRows, NotPlain
from lloydmax_strategies.reconstruction.operands import operands
from lloydmax_strategies.reconstruction.target import Read, Target
from lloydmax_strategies.reconstruction.targets import Targets, is_plain, targets_of
from lloydmax_strategies.tap import forward_order

_MEMORY = 1 << 29
"""Bytes that the second moments of what one weight multiplies may take."""


class Reconstruct:
    """Chooses the codes of each layer anew, so that its outputs stay: the weights of an output channel make up for each
    other's errors (Frantar et al. 2023, GPTQ).

    Convolutions, linear layers, whatever else a module multiplies by (GPT-2's ``Conv1D``, stacked experts, on the
    tokens that are routed to each), the gates of recurrent layers and queries, keys and values of attention, with one
    code for each weight, one after the other on the outputs of the compressed layers before; of a head that is tied to
    an embedding, both uses count. Where bits have a price, the codes keep their entropy, if need be by a larger
    distance of all centroids (a higher price where these are not trained), and bits go to the inputs that matter most.
    The others, transposed convolutions, blocks of weights and embeddings, are named in ``skipped``.
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
            description="of an output channel that are looked at together; wider layers are done by so many inputs at "
            "a time, each making up for the errors of those before.",
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
        order = recovery.enough(source.draw(options.samples, recovery.seed), options.rows)
        found = targets_of(student, recovery.original, options.bias)
        errors: list[tuple[float, float]] = []
        changed = codes = 0
        with evaluating(student):
            embeddings = [one for target in found.values() for one in target.embeddings]
            calls = forward_order(student, [*found, *embeddings], source, order[:2])
            size = recovery.batch_size(options.batch_size, source)
            front = Frontier(student, source, order, size)
            users = [module for module in calls if module in found]
            for index, module in enumerate(users, start=1):
                inputs = partial(front.read, module, calls=calls[module])
                passes = -(-len(order) // size) * calls[module]
                most = None if options.rows is None else max(1, options.rows // passes)
                for target, work in self._work(module, found[module], inputs, most):
                    before = target.holder.codes.clone()
                    looked_up = [one for one in found[module].embeddings if one in calls]
                    counts = [_looked_up(front, one, calls[one], target) for one in looked_up]
                    try:
                        errors += work(sum(counts) if counts else None)
                    except NotPlain:
                        continue
                    changed += int((target.holder.codes != before).sum())
                    codes += before.numel()
                recovery.events.step("reconstruct", index, len(users), {"error": errors[-1][1] if errors else 0.0})
        ready = [target for targets in found.values() for target in targets.by_leaf.values() if target.done]
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

    def _work(
        self, module: nn.Module, targets: Targets, read: Callable[..., Iterator[Any]], most: int | None
    ) -> Iterator[tuple[Target, Callable[[Any], list[tuple[float, float]]]]]:
        """The weights that a module multiplies by and that can be done, each with what does it once those before it are
        done."""
        if targets.staged:
            run, seen = stages(module), list(read(what="call"))
            for stage in run:
                grams: dict[str, Gram] = {}
                for one in seen:
                    for leaf, rows in stage.operands(module, one).items():
                        if leaf in targets.by_leaf:
                            grams.setdefault(leaf, Gram(len(rows), rows.shape[2], rows.device)).add(rows)
                for leaf, gram in grams.items():
                    targets.by_leaf[leaf].groups = len(gram.rows)
                    yield targets.by_leaf[leaf], partial(self._whole, targets.by_leaf[leaf], gram)
                if stage is not run[-1]:
                    seen = [stage.after(module, one) for one in seen]
            return
        for target in targets.by_leaf.values():
            plain = is_plain(module)
            again = _plain_rows(module, target, read, most) if plain else _foreign_rows(module, target, read, most)
            yield target, partial(self._read, target, again)

    def _whole(self, target: Target, gram: Gram, _: Tensor | None) -> list[tuple[float, float]]:
        return [target.reconstruct(gram, self.options.damping, self.options.refit)]

    def _read(self, target: Target, read: Read, counts: Tensor | None) -> list[tuple[float, float]]:
        width, damping = self.options.columns, self.options.damping
        if target.columns > width:
            return [target.by_columns(read, width, damping, counts)]
        at_once = max(1, _MEMORY // (8 * target.columns**2))
        if target.groups <= at_once:
            gram = _gram(target, read, slice(0, target.groups))
            if counts is not None:
                return [target.looked_up(gram, counts, damping)]
            return self._whole(target, gram, None)
        found = []
        for start in range(0, target.groups, at_once):
            where = slice(start, min(start + at_once, target.groups))
            found.append(target.by_groups(_gram(target, read, where), where, damping))
        return found


def _gram(target: Target, read: Read, where: slice) -> Gram:
    """Of some of the groups."""
    gram = Gram(where.stop - where.start, target.columns, target.weight.device)
    for some, rows in read():
        first, last = max(some.start, where.start), min(some.stop, where.stop)
        if first < last:
            gram.add(rows[first - some.start : last - some.start], slice(first - where.start, last - where.start))
    return gram


def _plain_rows(module: nn.Module, target: Target, read: Callable[..., Iterator[Any]], most: int | None) -> Read:
    def again() -> Iterator[tuple[slice, Tensor]]:
        seen = LayerRows(module, target.decoded(), most)
        for inputs in read():
            yield from ((slice(0, target.groups), rows) for rows in seen.of(inputs))

    return again


def _foreign_rows(module: nn.Module, target: Target, read: Callable[..., Iterator[Any]], most: int | None) -> Read:
    axis, groups = target.order.axis, target.groups

    def again() -> Iterator[tuple[slice, Tensor]]:
        for seen in read(what="call"):
            run = partial(module.forward, *seen.args, **seen.kwargs)
            for where, rows in operands(run, target.decoded(), axis, groups):
                yield where, rows if most is None else rows[:, :: max(1, -(-rows.shape[1] // most))]

    return again


def _looked_up(front: Frontier, embedding: nn.Module, calls: int, target: Target) -> Tensor:
    """How often each row of an embedding is looked up."""
    rows = target.order.shape[0]
    counts = target.weight.new_zeros(rows, dtype=torch.float64)
    for given in front.read(embedding, calls=calls):
        counts += given.flatten().long().bincount(minlength=rows)
    return counts


@hookimpl
def lloydmax_recovery_steps() -> dict[str, type]:
    """Register ``reconstruct``."""
    return {"reconstruct": Reconstruct}
