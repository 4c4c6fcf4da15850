"""Vector codebooks through the whole pipeline: from the plan to the file."""

from __future__ import annotations

from pathlib import Path

import lloydmax
import pytest
import torch
from conftest import SmallNet
from torch import Tensor

RECIPE = {
    "quantize": [
        {"layers": "all", "centroids": 8, "block": 4},
        {"layers": ["stem", "depthwise", "padded"], "centroids": 4, "block": 9},
        {"layers": "head.2", "centroids": 3, "block": 2, "granularity": "channel"},
    ],
    "trainable": ["all"],
}


def test_from_plan_to_file(small_net: SmallNet, pictures: Tensor, tmp_path: Path) -> None:
    recipe = {**RECIPE, "recover": [{"step": "distill", "steps": 3, "batch_size": 16}]}
    plan = lloydmax.plan(small_net, recipe)
    row = {row["parameter"]: row for row in plan.rows()}["padded.weight"]
    assert (row["bits"], row["block"], row["bytes"]) == (2 / 9, 9, 32 + 4 * 9 * 4) and "0.222" in str(plan)
    result = lloydmax.compress(small_net, recipe, pictures, progress=False)
    fitted = lloydmax.fit_codebook(small_net.padded.weight, 4, block=9)
    held = lloydmax.codebooks(result.model)["padded.weight"]
    assert torch.equal(held.codes, fitted.codes) and not torch.equal(held.centroids, fitted.centroids)
    layer = {layer.name: layer for layer in result.report.layers}["padded.weight"]
    assert (layer.bits, layer.bytes) == (2 / 9, row["bytes"])
    path = tmp_path / "a.safetensors"
    assert result.save(path) == path.stat().st_size == result.report.bytes.file == plan.predicted_bytes
    lloydmax.verify(path)
    stored = {item.name: item for item in lloydmax.inspect(path).parameters}
    assert stored["head.2.weight"].block == 2 and "0.222 bits" in str(lloydmax.inspect(path))
    loaded = lloydmax.load(path, SmallNet())
    assert torch.equal(loaded(pictures), result.model(pictures))
    lloydmax.verify_plan(plan, loaded)
    again = tmp_path / "b.safetensors"
    lloydmax.save(loaded, again)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("storage", [{"floats": "float16"}, {"floats": "bfloat16", "codes": "entropy"}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_storage_and_dtypes(small_net: SmallNet, tmp_path: Path, storage: dict[str, str], dtype: torch.dtype) -> None:
    model = small_net.to(dtype)
    result = lloydmax.compress(model, {**RECIPE, "storage": storage}, progress=False)
    result.save(tmp_path / "a")
    loaded = lloydmax.load(tmp_path / "a", SmallNet().to(dtype))
    for name, codebook in lloydmax.codebooks(result.model).items():
        assert torch.equal(lloydmax.codebooks(loaded)[name].dequantize(), codebook.dequantize())
    assert (tmp_path / "a").stat().st_size == result.report.bytes.file
