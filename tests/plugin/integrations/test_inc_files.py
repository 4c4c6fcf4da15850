"""save and load of Intel Neural Compressor with codebooks."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import lloydmax
import pytest
import torch
from lloydmax.integrations.inc import CodebookConfig, load, save_portable
from neural_compressor.torch.quantization import MixedPrecisionConfig, RTNConfig, quantize, save
from neural_compressor.torch.quantization import load as inc_load
from torch import Tensor, nn

pytest.importorskip("neural_compressor")


def scrambled(model: nn.Module) -> nn.Module:
    """The same architecture with other values."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for tensor in (*other.parameters(), *other.buffers()):
            tensor.copy_(torch.rand_like(tensor.float()))
    return other


def configs() -> dict[str, Callable[[], CodebookConfig]]:
    rtn = RTNConfig(bits=4, group_size=8, use_layer_wise=False)
    half = MixedPrecisionConfig(dtype="bf16", white_list=["head.0"])
    return {
        "codebooks": lambda: CodebookConfig(centroids=5, bias_centroids=2),
        "float16": lambda: CodebookConfig(storage={"floats": "float16", "codes": "entropy"}),
        "with rtn": lambda: CodebookConfig(white_list=["stem", "padded"]) + rtn,
        "rtn in others": lambda: CodebookConfig(white_list=["stem", "padded"], others=rtn),
        "with bf16": lambda: CodebookConfig(white_list=["stem", "padded"]) + half,
    }


@pytest.mark.parametrize("name", configs())
def test_save_and_load(name: str, small_net: nn.Module, pictures: Tensor, tmp_path: Path) -> None:
    original = scrambled(small_net)
    found = quantize(small_net, configs()[name]())
    wanted = found(pictures)  # INC's RTN layers change in their first forward
    save(found, str(tmp_path / "out"))
    loaded = load(str(tmp_path / "out"), original_model=original)
    assert torch.equal(loaded(pictures), wanted)
    assert not loaded.training
    assert {key: c.name for key, c in loaded.qconfig.items()} == {key: c.name for key, c in found.qconfig.items()}
    save(loaded, str(tmp_path / "again"))
    first, second = ((tmp_path / folder / "model.safetensors").read_bytes() for folder in ("out", "again"))
    assert first == second


def test_the_file_is_lloydmax_s_own(small_net: nn.Module, pictures: Tensor, tmp_path: Path) -> None:
    original = scrambled(small_net)
    found = quantize(small_net, CodebookConfig())
    save(found, str(tmp_path))
    assert lloydmax.verify(tmp_path / "model.safetensors")
    assert torch.equal(lloydmax.load(tmp_path / "model.safetensors", original).eval()(pictures), found(pictures))


def test_copies_and_pickles_save_themselves(small_net: nn.Module, pictures: Tensor, tmp_path: Path) -> None:
    found = quantize(small_net.head, CodebookConfig())  # type: ignore[arg-type]
    for number, twin in enumerate((copy.deepcopy(found), pickle.loads(pickle.dumps(found)))):
        with torch.no_grad():
            twin[0].bias.add_(1)
        save(twin, str(tmp_path / str(number)))
        loaded = load(str(tmp_path / str(number)), nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 5)))
        assert torch.equal(loaded[0].bias, found[0].bias + 1)


def test_inc_reads_the_portable_folder_without_lloydmax(small_net: nn.Module, pictures: Tensor, tmp_path: Path) -> None:
    size = sum(tensor.nbytes for tensor in small_net.parameters())
    found = quantize(small_net, CodebookConfig(centroids=4))
    wanted = found(pictures)
    save_portable(found, str(tmp_path), (pictures[:2],), {"x": {0: torch.export.Dim.AUTO}})
    torch.save(pictures, tmp_path / "x")
    code = (
        "import sys; sys.modules['lloydmax'] = None\n"
        "import torch; from neural_compressor.torch.quantization import load\n"
        "folder = sys.argv[1]; model = load(folder)\n"
        "torch.save(model(torch.load(folder + '/x')).detach(), folder + '/y')"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True)
    assert torch.equal(torch.load(tmp_path / "y"), wanted)
    stored = torch.export.load(tmp_path / "quantized_weight.pt").state_dict
    assert sum(tensor.nbytes for tensor in stored.values()) < 0.6 * size


def test_folders_without_codebooks_go_to_inc(small_net: nn.Module, pictures: Tensor, tmp_path: Path) -> None:
    original = copy.deepcopy(small_net)
    found = quantize(small_net, RTNConfig(bits=8, use_layer_wise=False))
    save(found, str(tmp_path))
    torch.testing.assert_close(load(str(tmp_path), original)(pictures), found(pictures))


def test_mistakes_are_named(small_net: nn.Module, tmp_path: Path) -> None:
    original = copy.deepcopy(small_net)
    with pytest.raises(lloydmax.CheckpointError, match="not a folder that save wrote"):
        load(str(tmp_path / "nowhere"), original)
    save(quantize(small_net, CodebookConfig()), str(tmp_path))
    with pytest.raises(ValueError, match=r"lloydmax\.integrations\.inc\.load"):
        inc_load(str(tmp_path), original_model=original)
    with pytest.raises(lloydmax.CheckpointError, match="original_model=MyNet"):
        load(str(tmp_path))
    with pytest.raises(lloydmax.CheckpointError, match="another model"):
        load(str(tmp_path), nn.Linear(3, 3))
    document = json.loads((tmp_path / "qconfig.json").read_text())
    (key,) = document
    (tmp_path / "qconfig.json").write_text(json.dumps({key: {**document[key], "version": 3}}))
    with pytest.raises(lloydmax.CheckpointError, match="version 3"):
        load(str(tmp_path), original)
    (tmp_path / "qconfig.json").write_text(json.dumps({key: {"version": 1, "others": {"gptq": {"fc": {}}}}}))
    with pytest.raises(lloydmax.CheckpointError, match="'gptq'"):
        load(str(tmp_path), original)
    with pytest.raises(AssertionError, match="default format"):
        save(quantize(original, CodebookConfig()), str(tmp_path), format="huggingface")
