"""A student of GPT-2, whose linear layers are transposed, exported: the same outputs."""

from __future__ import annotations

from pathlib import Path

import lloydmax
import torch
from tiny_transformers import NETWORKS


def test_transposed_linear_layers_are_exported(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = NETWORKS["gpt2"]
    model = network.make()
    model.config.use_cache = False
    recipe = {"quantize": [{"layers": "all", "centroids": 4, "granularity": "group:64"}]}
    student = lloydmax.compress(model, recipe, progress=False).model
    exported = lloydmax.export(student, tmp_path / "model.onnx", example_inputs=dict(network.inputs))
    assert exported.difference is not None and exported.difference < 1e-5
