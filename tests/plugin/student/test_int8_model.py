"""Recipes with ``activations:``: int8 kernels, mixed with codebooks, in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch
from conftest import SmallNet
from lloydmax.errors import CheckpointError, IntegrationError, RecoveryError
from lloydmax.student.int8.model import Int8Model
from torch import Tensor, nn

UNIFORM = {"layers": "all", "except": ["padded"], "quantizer": "uniform", "granularity": "channel"}
RECIPE: dict[str, Any] = {"name": "int8", "quantize": [UNIFORM], "activations": {"samples": 32}}


def compressed(net: nn.Module, data: Tensor | None, **changes: Any) -> lloydmax.Result:
    return lloydmax.compress(net, {**RECIPE, **changes}, data=data, progress=False)


@pytest.fixture
def net(small_net: SmallNet) -> SmallNet:
    """Weights whose integers are far from each other would hide nothing: random ones do not."""
    return small_net


def test_the_model_runs_on_int8_and_says_the_same(net: SmallNet, pictures: Tensor) -> None:
    result = compressed(net, pictures)
    assert isinstance(result.model, Int8Model)
    kinds = {name: type(module).__module__ for name, module in result.model.graph.named_modules()}
    assert all("quantized" in kinds[name] for name in ("stem", "depthwise", "head.0", "head.2"))
    assert "quantized" not in kinds["padded"]
    assert result.report.agreement.after > 0.9
    with torch.no_grad():
        wanted, found = net(pictures), result.model(pictures)
    assert float((wanted - found).norm() / wanted.norm()) < 0.05
    assert set(lloydmax.codebooks(result.model)) == {f"{n}.weight" for n in ("stem", "depthwise", "head.0", "head.2")}
    assert "bn1.weight" in dict(net.named_parameters()), "the teacher was folded"


def test_the_file_gives_the_same_outputs_bit_for_bit(net: SmallNet, pictures: Tensor, tmp_path: Path) -> None:
    result = compressed(net, pictures)
    size = result.save(tmp_path / "int8.safetensors")
    loaded = lloydmax.load(tmp_path / "int8.safetensors", SmallNet())
    with torch.no_grad():
        assert torch.equal(loaded(pictures), result.model(pictures))
    assert size == result.report.bytes.file and result.report.bytes.original == result.plan.original_bytes
    assert lloydmax.save(loaded, tmp_path / "again.safetensors") == size
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "int8.safetensors").read_bytes()
    lloydmax.verify(tmp_path / "int8.safetensors")
    about = lloydmax.inspect(tmp_path / "int8.safetensors")
    assert {p.name: p.bits for p in about.parameters} == dict.fromkeys(lloydmax.codebooks(loaded), 8)
    assert {p.name: p.bytes for p in about.parameters} == {p.name: p.bytes for p in result.report.layers}


def test_codebook_layers_and_int8_layers_in_one_model_and_file(net: SmallNet, pictures: Tensor, tmp_path: Path) -> None:
    rules = [UNIFORM, {"layers": "head.0", "centroids": 5}, {"layers": "depthwise", "quantizer": "uniform", "bits": 4}]
    result = compressed(net, pictures, quantize=rules)
    books = lloydmax.codebooks(result.model)
    assert books["head.0.weight"].k == 5 and books["depthwise.weight"].k == 15 and books["stem.weight"].k == 255
    lloydmax.verify_plan(result.plan, result.model)
    result.save(tmp_path / "mixed.safetensors")
    loaded = lloydmax.load(tmp_path / "mixed.safetensors", SmallNet())
    with torch.no_grad():
        assert torch.equal(loaded(pictures), result.model(pictures))
    for name, book in lloydmax.codebooks(loaded).items():
        assert torch.equal(book.codes, books[name].codes) and torch.equal(book.centroids, books[name].centroids)


@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_all_schemes_survive_the_file(
    net: SmallNet, pictures: Tensor, tmp_path: Path, scheme: str, granularity: str
) -> None:
    rule = {**UNIFORM, "scheme": scheme, "granularity": granularity}
    result = compressed(net, pictures, quantize=[rule], activations={"scheme": scheme, "samples": 16})
    result.save(tmp_path / "m.safetensors")
    loaded = lloydmax.load(tmp_path / "m.safetensors", SmallNet())
    with torch.no_grad():
        assert torch.equal(loaded(pictures), result.model(pictures))
    simulated, real = (stage.agreement for stage in result.report.stages[-2:])
    assert simulated is not None and real is not None
    assert real.mse < 1.3 * simulated.mse, "the kernels compute something else than what was trained"


@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("bits", [2, 3])
def test_a_few_levels_for_a_whole_tensor_survive_the_file(
    net: SmallNet, pictures: Tensor, tmp_path: Path, scheme: str, bits: int
) -> None:
    rule = {**UNIFORM, "bits": bits, "scheme": scheme, "granularity": "tensor"}
    storage = {"codebooks": "int8", "floats": "float16"}
    result = compressed(net, pictures, quantize=[rule], activations={"samples": 8}, storage=storage)
    result.save(tmp_path / "m.safetensors")
    with torch.no_grad():
        assert torch.equal(lloydmax.load(tmp_path / "m.safetensors", SmallNet())(pictures), result.model(pictures))


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_asymmetric_depthwise_weights_which_upstreams_kernels_get_wrong(granularity: str) -> None:
    torch.manual_seed(0)
    depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
    net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), depthwise, nn.Flatten(), nn.Linear(32 * 64, 5)).eval()
    with torch.no_grad():
        depthwise.weight += 0.3
    data = torch.randn(64, 3, 10, 10)
    result = compressed(
        net, data, quantize=[{**UNIFORM, "except": [], "scheme": "asymmetric", "granularity": granularity}]
    )
    simulated, real = (stage.agreement for stage in result.report.stages[-2:])
    assert simulated is not None and real is not None
    assert real.mse < 1.5 * simulated.mse
    assert lloydmax.codebooks(result.model)["2.weight"].k == 256
    kinds = [type(result.model.graph.get_submodule(name)).__module__ for name in "024"]
    assert ["quantized" in kind for kind in kinds] == [True, False, True]


def test_recovery_trains_thresholds_and_what_the_recipe_leaves_trainable(net: SmallNet, pictures: Tensor) -> None:
    steps = [
        {"step": "train_thresholds", "steps": 6, "batch_size": 16},
        {"step": "distill", "steps": 4, "batch_size": 16},
    ]
    rules = [{**UNIFORM, "bits": 3, "granularity": "tensor"}]
    result = compressed(net, pictures, quantize=rules, recover=steps, trainable=["biases"])
    assert [stage.name for stage in result.report.stages] == [
        *("original", "compressed", "train_thresholds", "distill", "int8")
    ]
    trained = result.model.graph.get_submodule("head.2").bias()
    assert not torch.equal(trained, net.head[2].bias)
    again = compressed(net, pictures, quantize=rules, recover=steps, trainable=["biases"])
    with torch.no_grad():
        assert torch.equal(result.model(pictures), again.model(pictures))


def test_predicted_and_real_size(net: SmallNet, pictures: Tensor) -> None:
    result = compressed(net, pictures)
    spread_out = 60 * len(result.model.activations)
    assert abs(result.plan.predicted_bytes - result.report.bytes.file) <= spread_out
    assert result.plan.original_bytes == lloydmax.plan(net, RECIPE).original_bytes


@pytest.mark.parametrize("kind", [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d])
def test_a_transposed_convolution_with_a_codebook_is_refused_before_any_work(kind: type[nn.Module]) -> None:
    axes = int(kind.__name__[-2])
    net, data = nn.Sequential(kind(3, 4, 3), nn.Flatten(), nn.LazyLinear(5)), torch.randn(8, 3, *[4] * axes)
    with torch.no_grad():
        net(data)
    rule = {"layers": "all", "centroids": 4}

    def failing(model: nn.Module) -> float:
        raise AssertionError("work was done")

    with pytest.raises(IntegrationError, match=f"0.weight: .*{kind.__name__} .*'except:'"):
        lloydmax.compress(net.eval(), {**RECIPE, "quantize": [rule]}, data=data, evaluate=failing, progress=False)
    assert compressed(net, data, quantize=[{**rule, "except": ["0"]}]).model(data).shape == (8, 5)


def test_bad_input_is_refused_with_the_reason(net: SmallNet, pictures: Tensor, tmp_path: Path) -> None:
    with pytest.raises(RecoveryError, match="activations.*data="):
        compressed(net, None)
    result = compressed(net, pictures)
    result.save(tmp_path / "m.safetensors")

    class Other(SmallNet):
        def __init__(self) -> None:
            super().__init__()
            self.bn1 = nn.Identity()

    other = Other()
    with pytest.raises(CheckpointError, match="bn1"):
        lloydmax.load(tmp_path / "m.safetensors", other)
    assert other.stem.bias is None, "a refused file changed the model"

    class Branching(SmallNet):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x if x.sum() > 0 else -x)

    branching = Branching()
    branching.load_state_dict(net.state_dict())
    with pytest.raises((IntegrationError, RecoveryError), match="cannot be traced"):
        compressed(branching.eval(), pictures)
