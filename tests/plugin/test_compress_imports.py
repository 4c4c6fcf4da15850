"""Networks that another tool wrote: compressed, stored, loaded into a fresh import, exported again."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import lloydmax
import pytest
import torch
from torch import Tensor, nn


class Bytes(nn.Module):
    """Integers to scores, by a table, a convolution, a bare matrix; its batch is in a reshape."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.conv, self.norm = nn.Embedding(256, 16), nn.Conv1d(16, 32, 3, padding=1), nn.BatchNorm1d(32)
        self.layer, self.head = nn.Linear(32, 48), nn.Parameter(torch.randn(48, 24) * 0.2)
        self.register_buffer("positions", torch.randn(8, 16) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv((self.table(x) + self.positions).transpose(1, 2))).relu().transpose(1, 2)
        return (self.layer(y).relu() @ self.head).reshape(x.shape[0], -1, 24).mean(1)


def original() -> nn.Module:
    torch.manual_seed(0)
    return Bytes().eval()


def from_program() -> nn.Module:
    shapes = ({0: torch.export.Dim("n", min=1)},)
    return torch.export.export(original(), (torch.zeros(2, 8, dtype=torch.long),), dynamic_shapes=shapes).module()


def from_onnx() -> nn.Module:
    onnx, onnx2torch = pytest.importorskip("onnx"), pytest.importorskip("onnx2torch")
    file, x = io.BytesIO(), torch.zeros(2, 8, dtype=torch.long)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            original(), (x,), file, dynamo=False, opset_version=13, input_names=["x"], dynamic_axes={"x": {0: "n"}}
        )
    found: nn.Module = onnx2torch.convert(onnx.load_model_from_string(file.getvalue())).eval()
    return found


@pytest.mark.parametrize("made", [from_program, from_onnx])
@pytest.mark.parametrize("given", [False, True])
def test_imports(made: Callable[[], nn.Module], given: bool, tmp_path: Path) -> None:
    x = torch.randint(0, 256, (48, 8), generator=torch.Generator().manual_seed(1))
    model, data = made(), x if given else None
    before = model(x)
    recipe = lloydmax.recipe_for(model, 7, data, **({"effort": 0.01} if given else {}))
    result = lloydmax.compress(model, recipe, data, progress=False)
    large = [p.weights for p in result.plan.parameters.values()]
    assert (
        sum(large) >= 0.97 * result.plan.total_weights >= 0.97 * 0.99 * sum(p.numel() for p in original().parameters())
    )
    result.save(tmp_path / "m.safetensors")
    again = lloydmax.load(tmp_path / "m.safetensors", made())
    with torch.no_grad():
        assert torch.equal(again(x), result.model(x)) and torch.equal(model(x), before)
        assert (result.model(x) - before).square().mean() < 0.05 * before.var()
    if not given:
        assert not {n for n, _ in result.model.named_parameters()} & {n for n, _ in model.named_buffers()}
        assert lloydmax.export(again, tmp_path / "m.pt2", example_inputs=x[:1]).difference < 1e-5
        assert torch.export.load(tmp_path / "m.pt2").module()(x[:5]).shape == (5, 24)


def test_layers_of_an_exported_program_are_numbered_and_corrected(tmp_path: Path) -> None:
    x = torch.randint(0, 256, (48, 8))
    rules = [{"layers": "1-2", "centroids": 8}, {"layers": "table", "centroids": 64}]
    recipe = {"quantize": rules, "recover": [{"step": "renormalize"}, {"step": "correct_bias"}]}
    result = lloydmax.compress(from_program(), recipe, x, progress=False)
    assert [(p.name, p.layer, p.number) for p in result.plan.parameters.values()] == [
        ("table.weight", "Embedding", None), ("conv.weight", "Conv1d", 1), ("layer.weight", "Linear", 2),
    ]  # fmt: skip
    assert result.report.recovery[1]["layers"] == 2
    result.save(tmp_path / "m.safetensors")
    for fresh in (from_program(), original()):
        assert torch.equal(lloydmax.load(tmp_path / "m.safetensors", fresh)(x), result.model(x))
