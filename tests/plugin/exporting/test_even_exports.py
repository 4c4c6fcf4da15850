"""Even grids as the integers of other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch
from torch import Tensor, nn


class Reader(nn.Module):
    """Rows of a table, a convolution, and products with a weight as it is and transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(30, 32)
        self.mixed = nn.Conv1d(6, 8, 3, padding=1)
        self.first = nn.Linear(32, 70)
        self.last = nn.Linear(70, 32, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Scores of the words."""
        found = self.first(self.mixed(self.words(tokens))).relu()
        return self.last(found) @ self.words.weight.T


TOKENS = torch.arange(18).view(3, 6)


def even(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    rule = {"layers": "all", "quantizer": "uniform", "scheme": "asymmetric", **options}
    words = {"layers": "words", "quantizer": "uniform", **options}
    return lloydmax.compress(Reader().eval(), {"quantize": [rule, words]}, progress=False).model


def products(path: Path) -> list[tuple[int, int]]:
    """Bits and block of every product of integers in a file."""
    import onnx

    found = []
    for node in onnx.load(path).graph.node:
        form = {entry.name: entry.i for entry in node.attribute}
        if node.op_type == "MatMulNBits":
            found.append((form["bits"], form["block_size"]))
    return found


@pytest.mark.parametrize(
    ("options", "blocks"),
    [
        ({"bits": 4, "granularity": "weights:32"}, {(4, 32)}),
        ({"bits": 4, "granularity": "weights:16"}, {(4, 16)}),
        ({"bits": 3, "granularity": "channel"}, {(4, 32), (4, 128)}),
        ({"bits": 4, "granularity": "weights:7"}, set()),
        ({"bits": 8, "granularity": "weights:32"}, set()),
    ],
)
def test_onnxruntime_multiplies_by_integers(options: dict[str, Any], blocks: set[Any], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = even(**options)
    made = lloydmax.export(model, tmp_path / "even.onnx", example_inputs=TOKENS)
    assert made.difference is not None and made.difference < 1e-4
    assert set(products(tmp_path / "even.onnx")) == blocks


def test_options_of_even_grids(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    import onnx

    model, path = even(bits=8, granularity="weights:32"), tmp_path / "even.onnx"
    assert "activations='int8' multiplies by integers" in "".join(
        lloydmax.export(model, path, example_inputs=TOKENS).notes
    )
    lloydmax.export(model, path, example_inputs=TOKENS, activations="int8")
    assert set(products(path)) == {(8, 32)}
    for chosen in ({"standard": True}, {"fold_at_load": True}, {"opset": 20}):
        lloydmax.export(model, path, example_inputs=TOKENS, **chosen)
        assert {entry.domain for entry in onnx.load(path).opset_import} == {""}
    with pytest.raises(lloydmax.ExportError, match="activations is 'float32' or 'int8', not 'int4'"):
        lloydmax.export(model, path, example_inputs=TOKENS, activations="int4")


@pytest.mark.parametrize("granularity", ["weights:16", "weights:7", "channel"])
def test_openvino_holds_integers(granularity: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    model = even(bits=4, granularity=granularity)
    made = lloydmax.export(model, tmp_path / "even.xml", example_inputs=TOKENS)
    assert made.difference is not None and made.difference < 1e-4
    text = (tmp_path / "even.xml").read_text(encoding="utf-8")
    assert 'element_type="u4"' in text and 'DYNAMIC_QUANTIZATION_GROUP_SIZE value="0"' in text


def test_a_file_that_is_larger_says_why(tmp_path: Path) -> None:
    model = even(bits=3, granularity="weights:16")
    made = lloydmax.export(model, tmp_path / "even.pt2", example_inputs=TOKENS)
    assert made.bytes == (tmp_path / "even.pt2").stat().st_size
    assert any("decoded at every run" in note for note in made.notes)
    assert any("times the lloydmax file" in note and "codes of 8 bits" in note for note in made.notes)
    assert str(made).count("\n- ") == len(made.notes)
