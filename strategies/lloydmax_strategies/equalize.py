"""Equalization: channels that differ in scale are scaled alike, and the next layer scales them back.

Heavy-tailed weights, above all those of depthwise convolutions whose batch norm is folded, waste the levels of a
codebook or of an int8 grid on a few channels. Between two layers with a positively homogeneous activation every
channel can be scaled freely: Nagel et al., ICCV 2019, section 4.1; for ReLU6 Goncharenko et al., ICANN 2019. Where a
batch norm is not folded, it can take the scale back at once, whatever comes after it.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any, Literal

import torch
from lloydmax import RecoveryError, hookimpl
from lloydmax.extend import Channels, Link, Network, Recovery, device_of, evaluating, fold_batch_norms, folded
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn

from lloydmax_strategies.fold_batch_norm import check_unchanged
from lloydmax_strategies.scales import LOCK, Scales, absorb, scale_into_norms


class Equalize:
    """Before the fit: evens out channels of different scale; the network computes the same."""

    needs_data = False
    before_fit = True

    class Options(BaseModel):
        """Options of `equalize`.

        Data is needed only where a ReLU6 limits the scales, and for `absorb_bias` without batch norm. To correct
        biases after quantization there is the step `correct_bias`.
        """

        model_config = ConfigDict(extra="forbid")

        method: Literal["cross_layer", "rescale", "batch_norm"] = Field(
            default="cross_layer",
            description="`cross_layer`: between any two layers, until each channel has the same range on both sides "
            "(Nagel et al. 2019). `rescale`: depthwise filters alone get the mean range of the locked ones, or the "
            "geometric mean of all where none is locked (Goncharenko et al. 2019). `batch_norm`: all filters before a "
            "batch norm get the same range, and the batch norm takes it back; batch norms are not folded, nothing "
            "limits the scales, and no data is needed: the one for codebooks.",
        )

        measure: Literal["range", "rms"] = Field(
            default="range",
            description="of `batch_norm`: what all filters of a layer get alike, their `range` or their `rms`.",
        )

        fold: bool = Field(
            default=True,
            description="fold batch norms first; without that only layers that no batch norm follows can be equalized "
            "by the other two methods.",
        )

        iterations: PositiveInt = Field(default=30, description="of `cross_layer` over all chains, at most.")

        relu6: Literal["lock", "skip"] = Field(
            default="lock",
            description="`lock`: channels that come near the ceiling on the calibration data (5.9 of 6) stay as they "
            "are, and no other is scaled up to it. `skip`: leave chains with a ReLU6 alone.",
        )

        samples: PositiveInt = Field(default=100, description="calibration inputs.")

        batch_size: PositiveInt = Field(default=32, description="of one forward pass.")

        source: Literal["data", "reference_data"] = Field(default="data", description="`data` or `reference_data`.")

        absorb_bias: bool = Field(
            default=False,
            description="move into the next bias what never leaves the linear part of a ReLU: the batch norm's "
            "`beta - 3 gamma`, or without batch norm the least output on the calibration data (Nagel et al. 2019, "
            "section 4.1.3). It makes the ranges of activations smaller, and is exact only for inputs above it.",
        )

    def __init__(self, options: Options) -> None:
        self.options = options

    def restructure(self, model: nn.Module) -> None:
        """Fold batch norms in place, if that is asked for."""
        if self.options.fold and self.options.method != "batch_norm":
            fold_batch_norms(model)

    def run(self, recovery: Recovery) -> dict[str, Any]:
        """Scale the channels of the student; returns what was found and how much more alike the ranges are."""
        model, options = recovery.student, self.options
        with check_unchanged(recovery, "equalize") as measured, torch.no_grad():
            if options.method == "batch_norm":
                measured |= self._into_norms(recovery, options.measure)
                return measured
            shapes = _norm_shapes(model) if options.absorb_bias and options.fold else {}
            self.restructure(model)
            links = self._links(model)
            least, most = self._extremes(recovery, links, shapes)
            scales = Scales(model, links, most)
            before = scales.spread()

            def tell(done: int) -> None:
                recovery.events.step("equalize", done, options.iterations, {"spread": scales.spread()})

            tell(0)
            rounds = scales.equalize(options.iterations, tell) if options.method == "cross_layer" else 1
            if options.method == "rescale":
                scales.rescale()
            measured |= {"spread_before": before, "spread_after": scales.spread(), "rounds": rounds}
            measured |= {"chains": len(links), "folded": len(folded(model))}
            measured |= {"channels": scales.channels, "locked": scales.locked, "largest_scale": scales.largest}
            scales.apply()
        if options.absorb_bias:
            measured["absorbed"] = sum(
                absorb(model, link, least[link.first] * scales.of(link)) for link in links if link.first in least
            )
        return measured

    @staticmethod
    def _into_norms(recovery: Recovery, measure: str) -> dict[str, Any]:
        model, tell = recovery.student, partial(recovery.events.step, "equalize")
        found = scale_into_norms(model, Network(model).pairs, measure, tell)
        if not found["chains"]:
            raise RecoveryError(
                f"no chain to equalize in {type(model).__name__}: no layer is followed by a batch norm of its own with "
                "weights and running statistics; other methods need none"
            )
        return found

    def _links(self, model: nn.Module) -> list[Link]:
        network = Network(model)
        found = links = network.links
        if self.options.relu6 == "skip":
            links = [link for link in links if link.activation != "relu6"]
        if self.options.method == "rescale":
            links = [link for link in links if Channels(model.get_submodule(link.first)).depthwise]
        if links:
            return links
        kind = "chain that starts at a depthwise convolution" if self.options.method == "rescale" and found else "chain"
        what = [f"{name} feeds {end}" for name, end in network.ends.items()]
        what += [f"{link.first} feeds {link.second} through {link.activation}" for link in found]
        instead = "; ".join(what[:6]) + (f"; and {len(what) - 6} more" if len(what) > 6 else "")
        raise RecoveryError(
            f"no {kind} to equalize in {type(model).__name__}: "
            + (instead or "it calls no convolution or linear layer with a weight of its own exactly once")
            + ("" if self.options.fold else "; fold: true folds batch norms that stand between")
        )

    def _extremes(
        self, recovery: Recovery, links: list[Link], shapes: dict[str, tuple[Tensor, Tensor]]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Of the outputs of first layers: the least that is sure, where to absorb, and the largest, before a ReLU6."""
        absorbing = [link.first for link in links if self.options.absorb_bias and link.activation == "relu"]
        least = {name: shapes[name][0] - 3 * shapes[name][1] for name in absorbing if name in shapes}
        limited = [link.first for link in links if link.activation == "relu6"]
        if not (wanted := {*limited, *(name for name in absorbing if name not in least)}):
            return least, {}
        extremes = {name: _Extremes(recovery.student.get_submodule(name)) for name in wanted}
        source, options = recovery.source(self.options.source, padded=False), self.options
        order = source.draw(options.samples, recovery.seed)
        ceilings = {link.first: LOCK * link.ceiling for link in links if link.activation == "relu6"}
        done = 0
        with evaluating(recovery.student), ExitStack() as stack:
            for found in extremes.values():
                stack.callback(found.layer.register_forward_hook(found.add).remove)
            stack.enter_context(recovery.events.stage("ranges", total=len(order)))
            for indices, _ in source.through(recovery.student, options.batch_size, order):
                done += len(indices)
                locked = sum(float((extremes[name].most >= ceiling).sum()) for name, ceiling in ceilings.items())
                recovery.events.step("ranges", done, len(order), {"locked": locked})
        least |= {name: extremes[name].least for name in absorbing if name not in least}
        return least, {name: extremes[name].most for name in limited}


class _Extremes:
    """The least and the largest output of each channel of a layer."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer
        self.least = torch.full((Channels(layer).outputs,), float("inf"), dtype=torch.float64, device=device_of(layer))
        self.most = -self.least

    def add(self, layer: nn.Module, args: Any, output: Tensor) -> None:
        """Take in the outputs of one batch; a forward hook."""
        rows = output.transpose(0, -1 if isinstance(layer, nn.Linear) else 1).flatten(1).double()
        self.least = torch.minimum(self.least, rows.amin(1))
        self.most = torch.maximum(self.most, rows.amax(1))


def _norm_shapes(model: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """``(beta, |gamma|)`` of the batch norm after each layer, before it is folded."""
    pairs: list[tuple[str, Any]] = [(layer, model.get_submodule(norm)) for layer, norm in Network(model).pairs]
    return {
        layer: (norm.bias.double().clone(), norm.weight.double().abs())
        for layer, norm in pairs
        if norm.weight is not None and norm.bias is not None
    }


@hookimpl
def lloydmax_recovery_steps() -> dict[str, type]:
    """Register ``equalize``."""
    return {"equalize": Equalize}
