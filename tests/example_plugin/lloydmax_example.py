# lloydmax_example.py
"""A quantizer, a recovery step and an event listener, as a third party writes them."""

import json
import os
from pathlib import Path
from typing import Any

import lloydmax
import torch
from lloydmax.extend import Recovery, evaluating
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn


class PowersOfTwo:
    """Centroids 0 and plus or minus powers of two, so that a product is a shift (Zhou et al. 2017)."""

    class Options(BaseModel):
        """What a rule may say."""

        model_config = ConfigDict(extra="forbid")

        exponents: int = Field(
            default=7,
            ge=1,
            le=127,
            description="powers on each side of zero; the largest is the one next to the largest weight.",
        )

        granularity: str = Field(default="tensor", pattern="^tensor$", description="what shares a codebook.")

        @property
        def centroids(self) -> int:  # a quantizer's options say how many centroids it gives, as a field or like this
            return 2 * self.exponents + 1

    def __init__(self, options: Options) -> None:
        self.options = options

    def fit(self, weight: Tensor, *, importance: Tensor | None = None, axis: int = 0) -> lloydmax.Codebook:
        largest = weight.detach().abs().max().float().clamp_min(1e-30)
        powers = 2.0 ** (torch.floor(torch.log2(largest * 4 / 3)) - torch.arange(self.options.exponents))
        centroids = torch.cat([-powers, torch.zeros(1), powers.flip(0)])
        codes = torch.bucketize(weight.detach().float(), (centroids[1:] + centroids[:-1]) / 2)
        return lloydmax.Codebook(centroids.to(weight.dtype), codes.to(torch.uint8))


class MatchOutputs:
    """Moves the bias of the last linear layer so that the mean outputs are the teacher's."""

    class Options(BaseModel):
        """What a recipe may say."""

        model_config = ConfigDict(extra="forbid")

        samples: int = Field(default=256, ge=1, description="unlabelled inputs, drawn at random.")

    def __init__(self, options: Options) -> None:
        self.options = options

    def run(self, recovery: Recovery) -> dict[str, Any]:
        student, teacher, source = recovery.student, recovery.teacher, recovery.source()
        biases = [layer.bias for layer in student.modules() if isinstance(layer, nn.Linear)]
        if not biases or not isinstance(biases[-1], nn.Parameter):  # a compressed one is no parameter
            raise lloydmax.RecoveryError("match_outputs: the last linear layer has no bias in floats")
        order = source.draw(self.options.samples, recovery.seed)
        gap = torch.zeros_like(biases[-1])
        with evaluating(student, teacher):
            for _, batch in source.batches(64, order):
                inputs = batch.to(recovery.device)
                gap += (inputs.run(teacher) - inputs.run(student)).sum(0) / len(order)
            biases[-1] += gap
        return {"samples": len(order), "moved": gap.abs().max().item()}


@lloydmax.hookimpl
def lloydmax_quantizers() -> dict[str, type]:
    return {"powers_of_two": PowersOfTwo}


@lloydmax.hookimpl
def lloydmax_recovery_steps() -> dict[str, type]:
    return {"match_outputs": MatchOutputs}


@lloydmax.hookimpl
def lloydmax_stage_finished(stage: str, seconds: float, metrics: dict[str, Any]) -> None:
    if log := os.environ.get("LLOYDMAX_EXAMPLE_LOG"):
        with Path(log).open("a") as file:
            print(json.dumps({"stage": stage, "seconds": seconds} | metrics, default=str), file=file)
