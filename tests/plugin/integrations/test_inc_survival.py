"""Codebooks survive INC's other algorithms and writers, or are refused with one sentence; none are lost in silence."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch
from lloydmax.integrations.inc import CodebookConfig, load, save
from neural_compressor.torch.algorithms.weight_only.save_load import save as woq_save
from neural_compressor.torch.quantization import (
    AutoRoundConfig,
    DynamicQuantConfig,
    FP8Config,
    HQQConfig,
    MixedPrecisionConfig,
    MXQuantConfig,
    RTNConfig,
    SmoothQuantConfig,
    StaticQuantConfig,
    TEQConfig,
    quantize,
)
from neural_compressor.torch.quantization import save as inc_save
from neural_compressor.torch.utils.utility import get_quantizer
from torch import Tensor, nn


class Doubled(nn.Linear):
    """A linear layer with a forward of its own, which INC's algorithms take for an ordinary one."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = Doubled(32, 32), nn.Linear(32, 32), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.second(self.first(x).relu()).relu())


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


X = torch.randn(4, 32)


def rtn(**options: Any) -> RTNConfig:
    return RTNConfig(use_layer_wise=False, **options)


def ours(name: str = "second") -> CodebookConfig:
    return CodebookConfig(white_list=[name])


AFTER: dict[str, Callable[[], Any]] = {
    "rtn": rtn,
    "rtn with zero points": lambda: rtn(use_sym=False, group_size=-1),
    "teq": lambda: TEQConfig(white_list=["third"]),
    "mixed precision": lambda: MixedPrecisionConfig(dtype="bf16"),
}


@pytest.mark.parametrize(
    ("name", "way"),
    [
        *((name, "in place") for name in AFTER),
        ("rtn", "copied"),
        ("rtn", "pickled"),
        ("mixed precision", "in one call"),
    ],
)
def test_what_runs_afterwards_is_saved_with_the_codebooks(name: str, way: str, net: nn.Module, tmp_path: Path) -> None:
    given = {"example_inputs": X, "run_fn": lambda model: model(X)}
    if way == "in one call":
        found = quantize(net, AFTER[name]() + ours(), **given)
    else:
        found = quantize(quantize(net, ours()), AFTER[name](), inplace=way != "copied", **given)
    if way == "pickled":
        found = pickle.loads(pickle.dumps(found))
    wanted = found(X)
    inc_save(found, str(tmp_path / "inc"))
    found.save(str(tmp_path / "own"))
    for folder in ("inc", "own"):
        loaded = load(str(tmp_path / folder), original_model=Net())
        assert torch.equal(loaded(X), wanted)
        assert set(lloydmax.codebooks(loaded)) == {"second.weight"}
        assert next(iter(loaded.qconfig)) == next(iter(found.qconfig)) == ("second", "Linear")


def test_a_layer_that_lost_its_codebooks_is_refused(net: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(lloydmax.IntegrationError, match="first had codebooks, and is a INCWeightOnlyLinear"):
        quantize(copy.deepcopy(net), CodebookConfig(white_list=["first"], others=rtn()))
    found = quantize(quantize(net, ours("first")), rtn())
    with pytest.raises(lloydmax.IntegrationError, match="first had codebooks"):
        inc_save(found, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_inc_s_own_writer_is_refused(net: nn.Module, tmp_path: Path) -> None:
    part = copy.deepcopy(net)
    part.second = quantize(part.get_submodule("second"), CodebookConfig())
    with pytest.raises(lloydmax.IntegrationError, match="loses codebooks"):
        inc_save(quantize(part, rtn()), str(tmp_path))
    with pytest.raises(lloydmax.IntegrationError, match="loses codebooks"):
        woq_save(quantize(quantize(net, ours()), rtn()), str(tmp_path))


def test_what_inc_s_writer_made_of_codebooks_is_not_read(net: nn.Module, tmp_path: Path) -> None:
    traced = quantize(quantize(torch.fx.symbolic_trace(net), ours()), rtn(), inplace=False)
    inc_save(traced, str(tmp_path))
    with pytest.raises(lloydmax.CheckpointError, match=r"holds codebooks .*inc\.save\(model, folder\)"):
        load(str(tmp_path), original_model=Net())


def test_the_caller_s_own_writer_stays(net: nn.Module) -> None:
    found = quantize(net, ours())
    found.save = lambda folder: "mine"  # type: ignore[assignment]
    assert found.save("x") == "mine"


def test_other_formats(net: nn.Module, tmp_path: Path) -> None:
    found = quantize(net, ours())
    for writer in (found.save, lambda *given, **more: save(found, *given, **more)):
        with pytest.raises(lloydmax.IntegrationError, match="is for models of transformers, not for a Net"):
            writer(str(tmp_path / "out"), format="huggingface")
        with pytest.raises(lloydmax.IntegrationError, match="format='vllm' is not for models with codebooks"):
            writer(str(tmp_path / "out"), format="vllm")
    assert not (tmp_path / "out").exists()


def test_layers_of_inc_get_no_codebooks(net: nn.Module) -> None:
    found = quantize(copy.deepcopy(net), MXQuantConfig(white_list=["third"]))
    assert set(lloydmax.codebooks(quantize(found, CodebookConfig()))) == {"first.weight", "second.weight"}
    for config in (MXQuantConfig(white_list=["third"]), rtn(white_list=["third"])):
        with pytest.raises(lloydmax.IntegrationError, match="third is an .*Linear of INC's own algorithms"):
            quantize(quantize(copy.deepcopy(net), config), ours("third"))


@pytest.mark.parametrize(
    ("make", "order"),
    [(HQQConfig, "after"), (MXQuantConfig, "after"), (MXQuantConfig, "before"), (MXQuantConfig, "others")],
)
def test_algorithms_that_read_every_configuration(make: Any, order: str, net: nn.Module) -> None:
    other = make(white_list=["third"])
    config: Any = {"after": lambda: ours() + other, "before": lambda: other + ours(),
                   "others": lambda: CodebookConfig(white_list=["second"], others=other)}[order]()  # fmt: skip
    found = quantize(net, config)
    kinds = {name: type(found.get_submodule(name)).__name__ for name in ("second", "third")}
    assert kinds == {"second": "CodebookLinear", "third": make.__name__.removesuffix("Config").removesuffix("Quant")
                     + "Linear"}  # fmt: skip
    with pytest.raises(lloydmax.IntegrationError, match="third is a .*Linear .*save_portable"):
        found.save("nowhere")


@pytest.mark.parametrize("first", [True, False], ids=["ours first", "theirs first"])
@pytest.mark.parametrize(
    ("other", "says"),
    [
        (StaticQuantConfig, "export the result"),
        (DynamicQuantConfig, "export the result"),
        (SmoothQuantConfig, "Intel's extension of PyTorch"),
        (FP8Config, "Gaudi only"),
        (AutoRoundConfig, "writes the whole model to disk"),
    ],
)
def test_what_cannot_be_combined_is_one_sentence(other: Any, says: str, first: bool, net: nn.Module) -> None:
    with pytest.raises(lloydmax.IntegrationError, match=says) as caught:
        quantize(net, ours() + other() if first else other() + ours())
    assert "\n" not in str(caught.value)


def test_autoround_would_lose_codebooks_and_is_refused(net: nn.Module) -> None:
    class AutoRoundQuantizer:
        def __init__(self, quant_config: Any = None) -> None:
            pass

    assert get_quantizer(net, quantizer_cls=AutoRoundQuantizer)
    with pytest.raises(lloydmax.IntegrationError, match="AutoRound writes the whole model to disk"):
        get_quantizer(quantize(net, ours()), quantizer_cls=AutoRoundQuantizer)


@pytest.mark.parametrize("config", [CodebookConfig(), CodebookConfig(bits=3, effort=0)])
def test_models_on_meta_are_one_sentence(config: CodebookConfig) -> None:
    with torch.device("meta"):
        model = Net()
    with pytest.raises(lloydmax.ModelError, match="on the meta device, it has no values: load the weights first"):
        quantize(model, config)


class Registered(nn.Module):
    """Keeps account of its subclasses, as registries do."""

    kinds: list[str] = []  # noqa: RUF012

    def __init_subclass__(cls) -> None:
        cls.kinds.append(cls.__name__)


class Member(Registered):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def test_classes_keep_their_names_and_registries() -> None:
    found = quantize(Member(), CodebookConfig())
    assert type(found).__name__ == "Member" and isinstance(found, Member)
    assert Registered.kinds == ["Member"]
    assert type(copy.deepcopy(found)) is type(found)
