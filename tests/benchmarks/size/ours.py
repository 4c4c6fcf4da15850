"""lloydmax's cells: the recipe of each level, and the file that it gives."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lloydmax
from torch import nn

from size.networks import Network, Prepared

LEVELS = {
    "lloydmax": ("none", "lloydmax, without data"),
    "lloydmax-channel": ("channel", "lloydmax, without data, a codebook a channel"),
    "lloydmax-renormalize": ("renormalize", "lloydmax, re-normalized"),
    "lloydmax-full": ("full", "lloydmax, full label-free recovery"),
}
"""Method -> level of :func:`recipe`, title."""
SAMPLES = 1000
"""Inputs of the re-normalization; few, so that it stays a matter of seconds."""


def recipe(network: str, bits: int, level: str) -> dict[str, Any]:
    """What lloydmax is asked to do.

    Args:
        network: name of the network.
        bits: of a code.
        level: ``none``, ``channel``: without data; ``renormalize``: batch-norm statistics, or the biases of a network
            without batch norm; ``full``: distillation on top.
    """
    granularity = "channel" if level == "channel" else "tensor"
    rules: list[dict[str, Any]] = [{"layers": "all", "centroids": 2**bits, "granularity": granularity}]
    if network == "minilm":
        rules.append({"layers": ["words", "positions"], "centroids": 2**bits, "granularity": granularity})
    has_norms = network not in ("minilm", "digit-cnn")
    steps: list[dict[str, Any]] = []
    if level in ("renormalize", "full"):
        renormalize = {"step": "renormalize", "mode": "fast", "samples": SAMPLES, "relative": has_norms}
        steps.append(renormalize if has_norms else {"step": "correct_bias", "samples": SAMPLES})
    if level == "full":
        loss = {"minilm": "mse"}.get(network, "kl")
        steps.append({"step": "distill", "loss": loss, "epochs": 4, "lr": 2e-4, "batch_size": 50})
    return {
        "version": 1,
        "name": f"{network}-{bits}-{level}",
        "quantize": rules,
        "trainable": ["all"] if level == "full" else ["none"],
        "recover": steps,
        "storage": {"floats": "float16", "codes": "entropy"},
    }


def compress(name: str, network: Network, model: nn.Module, bits: int, level: str) -> tuple[nn.Module, int, str]:
    """The compressed model as loaded from its file, the bytes of the file, and what they are of."""
    data = Batches(network.unlabelled()) if level in ("renormalize", "full") else None
    result = lloydmax.compress(model, recipe(name, bits, level), data=data, progress=False)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        result.save(file)
        return lloydmax.load(file, network.model()), file.stat().st_size, "the file"


class Batches(Sequence[Any]):
    """Inputs in batches of 50, made when they are asked for."""

    def __init__(self, inputs: Prepared, size: int = 50) -> None:
        self.inputs, self.size = inputs, size

    def __len__(self) -> int:
        return -(-len(self.inputs) // self.size)

    def __getitem__(self, index: Any) -> Any:
        if index >= len(self):
            raise IndexError(index)
        return self.inputs.batch(index * self.size, (index + 1) * self.size)
