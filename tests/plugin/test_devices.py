"""The same recipes on every device: what comes out is there, and its file gives the same model on the CPU."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch
from conftest import SmallNet, TextNet
from torch import Tensor, nn

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
]
FEW: dict[str, Any] = {"steps": 6, "batch_size": 16, "held_out": 0.2}
WIDE = {"layers": "all", "centroids": 16}
CASES: dict[str, dict[str, Any]] = {
    "one codebook a tensor": {"quantize": [WIDE]},
    "a codebook a channel": {"quantize": [WIDE | {"granularity": "channel"}]},
    "vectors": {"quantize": [{"layers": ["padded", "head.0"], "centroids": 16, "block": 4}]},
    "fisher, trained codes and mixtures": {
        "quantize": [WIDE | {"importance": "fisher"}],
        "trainable": ["all"],
        "recover": [
            {"step": "distill", "codes": "learn", "features": 1.0, "augment": ["resized_crop", "flip"]}
            | FEW
            | {"mixup": 0.2, "cutmix": 1.0, "relative_lr": True, "loss": "kl", "batch_norm": "train"}
        ],
    },
    "inputs, trained centroids": {
        "quantize": [WIDE | {"importance": "inputs"}],
        "trainable": ["codebooks"],
        "recover": [{"step": "distill"} | FEW],
    },
    "statistics": {
        "quantize": [WIDE],
        "recover": [
            {"step": "renormalize"},
            {"step": "renormalize", "relative": True},
            {"step": "renormalize", "mode": "fast"},
        ],
    },
    "biases": {"quantize": [WIDE], "recover": [{"step": "correct_bias"}]},
    "reconstruction": {"quantize": [WIDE], "recover": [{"step": "reconstruct", "samples": 64}]},
    "alignment": {"quantize": [WIDE], "trainable": ["all"], "recover": [{"step": "align"} | FEW]},
    "folded": {"quantize": [WIDE], "recover": [{"step": "fold_batch_norm"}]},
    "equalized": {"quantize": [WIDE], "recover": [{"step": "equalize"}]},
    "uniform": {"quantize": [{"layers": "all", "quantizer": "uniform", "bits": 4}]},
    "trained thresholds": {
        "quantize": [{"layers": ["stem", "depthwise", "head.*"], "quantizer": "uniform", "bits": 8}],
        "activations": {"bits": 8},
        "recover": [{"step": "train_thresholds"} | FEW, {"step": "train_multipliers"} | FEW],
    },
    "a size in bits": {
        "quantize": [WIDE | {"centroids": 64}],
        "bits": 14,
        "storage": {"floats": "float16", "codes": "entropy"},
    },
}


@pytest.mark.filterwarnings("ignore:recovery step")
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", list(CASES))
def test_every_strategy_runs_where_the_model_is(
    case: str, device: str, small_net: SmallNet, pictures: Tensor, tmp_path: Path
) -> None:
    recipe = {"version": 1, "name": "everywhere"} | CASES[case]
    where = copy.deepcopy(small_net).to(device)
    result = lloydmax.compress(where, recipe, pictures, reference_data=pictures + 0.5, progress=False)
    tensors = [*result.model.parameters(), *result.model.buffers()]
    ends = "cpu" if "activations" in recipe else device  # where int8 kernels run
    assert {tensor.device.type for tensor in tensors} <= {ends}

    result.save(tmp_path / "model.safetensors")
    there = lloydmax.load(tmp_path / "model.safetensors", copy.deepcopy(where))
    here = lloydmax.load(tmp_path / "model.safetensors", copy.deepcopy(small_net))
    with torch.no_grad():
        wanted = here(pictures)
        assert torch.allclose(there(pictures.to(ends)).cpu(), wanted, atol=5e-3 * float(wanted.abs().max()))
    assert {tensor.device.type for tensor in here.state_dict().values() if isinstance(tensor, Tensor)} <= {"cpu"}


@pytest.mark.parametrize("device", DEVICES)
def test_codebooks_without_data_do_not_depend_on_the_device(device: str, small_net: SmallNet) -> None:
    recipe = {"version": 1, "name": "alike", "quantize": [WIDE]}
    books = [
        lloydmax.codebooks(lloydmax.compress(copy.deepcopy(small_net).to(place), recipe, progress=False).model)
        for place in ("cpu", device)
    ]
    for name, held in books[0].items():
        assert torch.equal(held.codes, books[1][name].codes.cpu())
        assert torch.allclose(held.centroids, books[1][name].centroids.cpu(), atol=1e-6)


@pytest.mark.filterwarnings("ignore:recipe. bits")
@pytest.mark.parametrize("device", DEVICES)
def test_the_default_recipe(device: str, text_net: TextNet, small_net: SmallNet, pictures: Tensor) -> None:
    tokens = torch.randint(0, 50, (64, 7), generator=torch.Generator().manual_seed(0))
    for model, data in ((text_net, tokens), (small_net, pictures)):
        given: nn.Module = model.to(device)
        recipe = lloydmax.recipe_for(given, 10, data, effort=0.02)
        result = lloydmax.compress(given, recipe, data, progress=False)
        assert {p.device.type for p in result.model.parameters()} == {device}
