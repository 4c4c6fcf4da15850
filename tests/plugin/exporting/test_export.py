"""Exported files: they run alone in their runtimes, any number of samples at a time, and hold codes, not weights."""

from __future__ import annotations

import copy
import re
import sys
from pathlib import Path
from typing import Any

import lloydmax
import numpy as np
import pytest
import torch
from conftest import SmallNet, TextNet
from lloydmax.exporting import to_torch
from lloydmax.student.int8.model import Int8Model
from lookup_tables import check_lookup_tables
from torch import Tensor, nn

MIXED = [
    {"layers": "all", "centroids": 16},
    {"layers": "all", "parameter": "bias", "centroids": 3},
    {"layers": "stem", "centroids": 5, "granularity": "channel"},
    {"layers": "depthwise", "centroids": 4, "block": 3, "granularity": "group:3"},
    {"layers": "head.0", "centroids": 20, "block": 4},
]


def compressed(model: nn.Module, rules: list[dict[str, Any]]) -> nn.Module:
    return lloydmax.compress(model, {"quantize": rules}, progress=False).model


@pytest.fixture
def small(small_net: SmallNet) -> nn.Module:
    return compressed(small_net, MIXED)


def outputs(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        result: Tensor = model(inputs)
    return result


def run_torch(path: Path, inputs: Tensor) -> Tensor:
    program = torch.export.load(path)
    assert max(tensor.numel() for tensor in program.state_dict.values() if tensor.is_floating_point()) <= 20 * 4
    codes = [tensor for name, tensor in program.state_dict.items() if name.endswith("codes")]
    assert codes and all(tensor.dtype == torch.uint8 for tensor in codes)
    return outputs(program.module(), inputs)


def run_onnx(path: Path, inputs: Tensor) -> Tensor:
    import onnx
    import onnxruntime

    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert {entry.domain for entry in model.opset_import} == {""} and model.opset_import[0].version == 25
    floats = [entry for entry in model.graph.initializer if entry.data_type == onnx.TensorProto.FLOAT]
    assert max(int(np.prod(entry.dims)) for entry in floats) <= 20 * 4
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: inputs.numpy()})[0])


def run_openvino(path: Path, inputs: Tensor) -> Tensor:
    import openvino

    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return torch.from_numpy(compiled([inputs.numpy()])[0].copy())


def run_executorch(path: Path, inputs: Tensor) -> Tensor:
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(path)
    found: Tensor = program.load_method("forward").execute([inputs])[0]
    return found.clone()


@pytest.mark.parametrize(
    ("ending", "run"), [(".pt2", run_torch), (".onnx", run_onnx), (".xml", run_openvino)], ids=lambda v: str(v)[:9]
)
def test_runs_alone_on_other_batches(small: nn.Module, pictures: Tensor, tmp_path: Path, ending: str, run: Any) -> None:
    path = tmp_path / f"model{ending}"
    made = lloydmax.export(small, path, example_inputs=pictures[:3])
    assert made.difference is not None and made.difference < 1e-4
    assert made.bytes == sum(file.stat().st_size for file in tmp_path.iterdir())
    for samples in (pictures[:5], pictures[5:6]):
        assert torch.allclose(run(path, samples), outputs(small, samples), atol=1e-4)
    with pytest.raises(lloydmax.ExportError, match="ends in"):
        lloydmax.export(small, tmp_path / "model.bin", made.format, example_inputs=pictures)


def test_executorch_runs_alone(small: nn.Module, pictures: Tensor, tmp_path: Path) -> None:
    pytest.importorskip("executorch.exir")
    made = lloydmax.export(small, tmp_path / "model.pte", example_inputs=pictures[:1])
    assert made.difference is not None and made.difference < 1e-4
    found = run_executorch(tmp_path / "model.pte", pictures[:5])
    assert torch.allclose(found, outputs(small, pictures[:5]), atol=1e-4)


def test_core_ml_holds_lookup_tables(small: nn.Module, pictures: Tensor, tmp_path: Path) -> None:
    pytest.importorskip("coremltools")
    before, was = copy.deepcopy(small.state_dict()), outputs(small, pictures)
    path = tmp_path / "model.mlpackage"
    for precision, tolerance in (("float16", 1e-3), ("float32", 1e-6)):
        made = lloydmax.export(small, path, example_inputs=pictures[:2], precision=precision)
        assert made.difference is None and made.bytes == sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
        check_lookup_tables(path, small, tolerance)
    assert torch.equal(outputs(small, pictures), was)
    assert all(torch.equal(value, before[name]) for name, value in small.state_dict().items())


def test_text_with_tied_embedding(text_net: TextNet, tmp_path: Path) -> None:
    rules = [
        {"layers": "embed", "centroids": 16, "block": 2},
        {"layers": "attention", "parameter": "in_proj_weight", "centroids": 6, "granularity": "group:5"},
        {"layers": "lstm", "parameter": "weight_*", "centroids": 16},
    ]
    text = compressed(text_net, rules)
    tokens = torch.randint(0, 50, (4, 7), generator=torch.Generator().manual_seed(0))
    for name in ("text.pt2", "text.onnx"):
        made = lloydmax.export(text, tmp_path / name, example_inputs=(tokens,))
        assert made.difference is not None and made.difference < 1e-4


@pytest.mark.parametrize("centroids", [1, 37, 300])
def test_onnx_packs_any_number_of_centroids(centroids: int, tmp_path: Path) -> None:
    import onnx

    torch.manual_seed(0)
    layer = compressed(nn.Sequential(nn.Linear(64, 48, bias=False)), [{"layers": "all", "centroids": centroids}])
    inputs = torch.randn(3, 64)
    made = lloydmax.export(layer, tmp_path / "linear.onnx", example_inputs=inputs)
    assert made.difference is not None and made.difference < 1e-5
    weights = sum(len(entry.raw_data) for entry in onnx.load(made.path).graph.initializer)
    assert weights <= 64 * 48 * (centroids - 1).bit_length() / 8 + 4 * centroids + 200


def test_onnx_options(tmp_path: Path) -> None:
    import onnxruntime

    rule = {"layers": "all", "centroids": 5, "granularity": "channel"}
    small, inputs, saved = compressed(nn.Sequential(nn.Linear(12, 7)), [rule]), torch.randn(3, 12), {}
    for fold in (False, True):
        path, dense = tmp_path / f"{fold}.onnx", tmp_path / f"{fold}.dense.onnx"
        lloydmax.export(small, path, example_inputs=inputs, fold_at_load=fold, opset=20)
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(dense)
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        saved[fold] = dense.read_bytes().count(b"GatherElements")
    assert saved[False] and not saved[True]
    with pytest.raises(lloydmax.ExportError, match="opset is 18 to 25, not 17"):
        lloydmax.export(small, tmp_path / "x.onnx", example_inputs=inputs, opset=17)


def test_fixed_batch(small: nn.Module, pictures: Tensor, tmp_path: Path) -> None:
    lloydmax.export(small, tmp_path / "m.pt2", example_inputs={"x": pictures[:3]}, dynamic_batch=False)
    loaded = torch.export.load(tmp_path / "m.pt2").module()
    assert torch.allclose(loaded(x=pictures[:3]), outputs(small, pictures[:3]), atol=1e-5)
    with pytest.raises(RuntimeError, match="to be equal to 3, but got 4"):
        loaded(x=pictures[:4])


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("m.tflite", {}, "does not name a format; known: .pt2 (torch)"),
        ("m.onnx", {"format": "onx"}, "did you mean 'onnx'"),
        ("m.onnx", {"foldatload": True}, "no option 'foldatload'; did you mean 'fold_at_load'"),
        ("no/m.onnx", {}, "does not exist"),
        ("m.pt2", {"example_inputs": ()}, "example_inputs is a tensor"),
        ("m.mlpackage", {"precision": "int8"}, "'float16' or 'float32'"),
    ],
)
def test_refuses_requests(
    small: nn.Module, pictures: Tensor, tmp_path: Path, name: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(lloydmax.ExportError, match=re.escape(message)):
        lloydmax.export(small, tmp_path / name, **{"example_inputs": pictures, **arguments})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "rule", "dtype", "message"),
    [
        ("m.mlpackage", {"centroids": 300}, torch.float32, "padded.weight has 300 centroids"),
        ("m.mlpackage", {"layers": "stem", "block": 9}, torch.float32, "stem.weight, shape (8, 3, 3, 3), has"),
        ("m.onnx", {}, torch.bfloat16, "onnxruntime cannot run"),
        ("m.xml", {}, torch.bfloat16, "openvino cannot run"),
    ],
)  # fmt: skip
def test_refuses_what_a_format_cannot_hold(
    small_net: SmallNet, pictures: Tensor, tmp_path: Path, name: str, rule: dict[str, Any], dtype: Any, message: str
) -> None:
    model = compressed(small_net.to(dtype), [{"layers": "all", "centroids": 8} | rule])
    with pytest.raises(lloydmax.ExportError, match=re.escape(message)):
        lloydmax.export(model, tmp_path / name, example_inputs=pictures.to(dtype))


def test_refuses_models_without_codebooks_and_absent_packages(
    small_net: SmallNet, small: nn.Module, pictures: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(lloydmax.ExportError, match="holds no codebooks"):
        lloydmax.export(small_net, tmp_path / "m.pt2", example_inputs=pictures)
    integer = Int8Model(small, [], {}, [], [])
    with pytest.raises(lloydmax.ExportError, match=r"int8 kernels, which .*: \{host: own\}, then torch.export"):
        lloydmax.export(integer, tmp_path / "m.pt2", example_inputs=pictures)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setitem(sys.modules, "executorch.exir", None)
    with pytest.raises(lloydmax.ExportError, match=r'pip install "lloydmax\[export\]"'):
        lloydmax.export(small, tmp_path / "m.onnx", example_inputs=pictures)
    with pytest.raises(lloydmax.ExportError, match="pip install executorch"):
        lloydmax.export(small, tmp_path / "m.pte", example_inputs=pictures)


def test_a_wrong_file_does_not_appear(
    small: nn.Module, pictures: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.pt2"
    path.write_bytes(b"old")
    run = to_torch.To.run
    monkeypatch.setattr(to_torch.To, "run", lambda *args: [tensor + 1 for tensor in run(*args)])
    with pytest.raises(lloydmax.ExportError, match="gives outputs that differ by 1"):
        lloydmax.export(small, path, example_inputs=pictures)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_names_a_model_that_cannot_be_traced(pictures: Tensor, tmp_path: Path) -> None:
    class Branching(SmallNet):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.sum() > 0 else super().forward(-x)

    model = compressed(Branching().eval(), [{"layers": "all", "centroids": 4}])
    with pytest.raises(lloydmax.ExportError, match="torch.export cannot trace Branching"):
        lloydmax.export(model, tmp_path / "m.onnx", example_inputs=pictures)
