"""Loading onto an architecture without memory: the same model, on the CPU, or a clear refusal."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch
from conftest import SmallNet, TextNet
from lloydmax.student.attachment import attach, finish
from torch import Tensor, nn

CODEBOOKS = {"layers": "all", "centroids": 4}
RECIPES: dict[str, dict[str, Any]] = {
    "codebooks": {"quantize": [CODEBOOKS, {"layers": "all", "parameter": "bias", "centroids": 1}]},
    "vectors": {"quantize": [CODEBOOKS, {"layers": "padded", "centroids": 4, "block": 9}]},
    "folded": {"quantize": [CODEBOOKS], "recover": [{"step": "fold_batch_norm"}]},
    "int8": {
        "quantize": [{"layers": "all", "except": ["padded"], "quantizer": "uniform", "granularity": "channel"}],
        "activations": {"samples": 32},
    },
}


@pytest.mark.parametrize("inside", [False, True], ids=["loaded outside", "loaded inside"])
@pytest.mark.parametrize("kind", RECIPES)
def test_the_model_is_the_one_that_was_saved(
    kind: str, inside: bool, small_net: SmallNet, pictures: Tensor, tmp_path: Path
) -> None:
    result = lloydmax.compress(small_net, {"name": kind, **RECIPES[kind]}, data=pictures, progress=False)
    result.save(tmp_path / "net.safetensors")
    with torch.device("meta"):
        model = SmallNet()
    with torch.device("meta") if inside else nullcontext():
        loaded = lloydmax.load(tmp_path / "net.safetensors", model)
    with torch.no_grad():
        assert torch.equal(loaded(pictures), result.model(pictures))
    lloydmax.save(loaded, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "net.safetensors").read_bytes()


def test_ties_attention_recurrence_and_flags(text_net: TextNet, tmp_path: Path) -> None:
    tokens, student = torch.arange(30).view(2, 15), copy.deepcopy(text_net)
    for name in ("attention.in_proj_weight", "lstm.weight_ih_l0"):
        attach(student, name, lloydmax.fit_codebook(student.get_parameter(name), 5))
    finish(student)
    lloydmax.save(student, tmp_path / "text.safetensors")
    with torch.device("meta"):
        model = TextNet()
    model.norm.weight.requires_grad_(False)
    loaded = lloydmax.load(tmp_path / "text.safetensors", model)
    assert loaded.out.weight is loaded.embed.weight, "an uncompressed tie"
    assert loaded.norm.bias.requires_grad and not loaded.norm.weight.requires_grad
    with torch.no_grad():
        assert torch.equal(loaded(tokens), student(tokens))


def test_values_that_no_file_keeps_are_asked_for(tmp_path: Path) -> None:
    class Rotary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.register_buffer("angles", torch.arange(4.0), persistent=False)

    model = Rotary()
    attach(model, "linear.weight", lloydmax.fit_codebook(model.linear.weight, 4))
    lloydmax.save(finish(model), tmp_path / "rotary.safetensors")
    with torch.device("meta"):
        empty = nn.Sequential(Rotary())[0]
    with pytest.raises(lloydmax.CheckpointError, match="angles is on the meta device.*build the model without"):
        lloydmax.load(tmp_path / "rotary.safetensors", empty)
    assert empty.linear.weight.is_meta, "a refused model stays as it was"
    empty.angles = torch.arange(4.0)
    assert not any(tensor.is_meta for tensor in lloydmax.load(tmp_path / "rotary.safetensors", empty).buffers())
