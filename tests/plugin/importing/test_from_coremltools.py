"""Models that coremltools' own palettizers made come back with their tables, codes and outputs."""

from __future__ import annotations

import copy
import logging
import warnings
from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch
from torch import Tensor, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    palettization = pytest.importorskip("coremltools.optimize.torch.palettization")
    metadata = pytest.importorskip("coremltools.optimize.torch._utils.metadata_utils")
    logging.disable(before)

TENSOR = {"granularity": "per_tensor"}
GROUPS = {"granularity": "per_grouped_channel", "group_size": 8}
X = torch.linspace(-1, 1, 4 * 3 * 8 * 8).reshape(4, 3, 8, 8)


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Any:
    """coremltools writes every weight to the log, and bars to the terminal."""
    monkeypatch.setattr("coremltools.optimize.torch._utils.k_means._tqdm", _Silent, raising=False)
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield
    logging.disable(logging.NOTSET)


class _Silent:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *args: object) -> None:
        pass

    def update(self, *args: Any) -> None:
        pass


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 16)
    ).eval()


def clustered(options: dict[str, Any], model: nn.Module | None = None) -> nn.Module:
    config = palettization.PostTrainingPalettizerConfig.from_dict({"global_config": options})
    made: nn.Module = palettization.PostTrainingPalettizer(model or network(), config).compress()
    return made


def trained(options: dict[str, Any], model: nn.Module | None = None) -> nn.Module:
    config = palettization.DKMPalettizerConfig.from_dict({"global_config": {"weight_threshold": 0, **options}})
    palettizer = palettization.DKMPalettizer(model or network(), config)
    prepared = palettizer.prepare().train()
    prepared(X)
    palettizer.step()
    made: nn.Module = palettizer.finalize(prepared)
    return made.eval()


def tables(model: nn.Module) -> dict[str, Tensor]:
    """What coremltools says, by parameter."""
    return {
        name.replace("._COREML_/", ".").removesuffix("/lut"): buffer
        for name, buffer in model.named_buffers()
        if name.endswith("/lut")
    }


def check(model: nn.Module) -> nn.Module:
    state = {name: value.clone() for name, value in model.state_dict().items()}
    made = lloydmax.from_coremltools(model)
    original = copy.deepcopy(model)
    for parameter in original.parameters():
        parameter.data = torch.empty(parameter.shape).copy_(
            parameter
        )  # groups of inputs leave others, with sums in another order
    with torch.no_grad():
        assert torch.equal(made(X), original(X))
    assert set(lloydmax.codebooks(made)) == set(tables(model))
    after = model.state_dict()
    assert state.keys() == after.keys() and all(torch.equal(state[name], after[name]) for name in state)
    assert not any("_COREML_" in name for name, _ in made.named_buffers()) and not made.training
    return made


@pytest.mark.parametrize("make", [clustered, trained])
@pytest.mark.parametrize("options", [{"n_bits": 4, **TENSOR}, {"n_bits": 2, **GROUPS}])
def test_tables_are_the_tools(make: Any, options: dict[str, Any]) -> None:
    model = make(options)
    for name, codebook in lloydmax.codebooks(check(model)).items():
        table = tables(model)[name]
        assert torch.equal(codebook.centroids.flatten(), table.flatten())
        assert codebook.granularity == ("tensor" if table.shape[0] == 1 else "group:8")
        assert torch.equal(codebook.dequantize(), model.get_parameter(name))


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (clustered, {"n_bits": 2, **GROUPS, "channel_axis": 1}),  # groups of inputs; the first layer has too few
        (clustered, {"n_bits": 4, "lut_dtype": "int8", **TENSOR}),
        (trained, {"n_bits": 3, "lut_dtype": "f16"}),  # the table is kept in float32, the weights are rounded
        (clustered, {"n_bits": 1, **TENSOR}),
    ],
)
def test_other_tables(make: Any, options: dict[str, Any]) -> None:
    check(make(options))


@pytest.mark.parametrize("make", [clustered, trained])
def test_scaled_channels_have_codebooks_of_their_own(make: Any) -> None:
    model = make({"n_bits": 3, **GROUPS, "enable_per_channel_scale": True})
    for name, codebook in lloydmax.codebooks(check(model)).items():
        scale = model.get_buffer(name.replace(".weight", "._COREML_/weight/palettization_scale"))
        table = tables(model)[name].reshape(-1, 8).repeat_interleave(8, 0)
        assert codebook.granularity == "channel"
        torch.testing.assert_close(codebook.centroids, table * scale.reshape(-1, 1))


@pytest.mark.parametrize("axis", [0, 1])
def test_vectors_along_one_axis_are_blocks(axis: int) -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(192, 16))
    model = clustered({"n_bits": 4, "cluster_dim": 2, "channel_axis": axis, **TENSOR}, linear)
    (codebook,) = lloydmax.codebooks(check(model)).values()
    assert (codebook.block, codebook.axis, codebook.k) == (2, 1 - axis, 16)
    assert torch.equal(codebook.centroids.flatten(), tables(model)["1.weight"].flatten())


def test_vectors_through_kernels_become_single_values_and_say_so() -> None:
    model = clustered({"n_bits": 4, "cluster_dim": 2, **TENSOR})
    with pytest.warns(UserWarning, match=r"0\.weight: its table has entries of 2 weights along axis 0"):
        held = lloydmax.codebooks(check(model))
    assert (held["0.weight"].k, held["0.weight"].block) == (32, 1)
    assert (held["2.weight"].k, held["2.weight"].block) == (16, 2)  # a kernel of one place


def test_pruned_weights_stay_zeros() -> None:
    model = network()
    for index in (0, 2, 5):
        weight = model[index].weight
        weight.data[weight.abs() < weight.abs().median()] = 0
        said = metadata.CompressionMetadata("weight")
        said.compression_type = ["pruning"]
        said.register(model[index])
    made = check(clustered({"n_bits": 3, **TENSOR}, model))
    for name, codebook in lloydmax.codebooks(made).items():
        assert codebook.zeros and (codebook.dequantize() == 0).float().mean() > 0.4, name


def test_saved_loaded_and_trained_like_any_other(tmp_path: Path) -> None:
    made = lloydmax.from_coremltools(trained({"n_bits": 4}))
    lloydmax.save(made, tmp_path / "model.safetensors")
    loaded = lloydmax.load(tmp_path / "model.safetensors", network())
    with torch.no_grad():
        assert torch.equal(loaded(X), made(X))
    assert type(loaded[0]) is type(made[0]) and "Codebook" in type(made[0]).__name__


def test_what_has_no_tables_stays_and_is_named() -> None:
    model = clustered({"n_bits": 4, **TENSOR})
    head = model[5]
    del head._buffers["_COREML_/weight/lut"]
    with pytest.warns(UserWarning, match=r"5\.weight: pruned or quantized"):
        made = lloydmax.from_coremltools(model)
    assert set(lloydmax.codebooks(made)) == {"0.weight", "2.weight"}


def _moved(model: nn.Module) -> None:
    with torch.no_grad():
        model[5].weight.add_(torch.rand_like(model[5].weight))  # type: ignore[index, union-attr, operator, arg-type]


def _bare(model: nn.Module) -> None:
    for module in model.modules():
        module._buffers.clear()


def _crossed(model: nn.Module) -> None:
    table = model[5].get_buffer("_COREML_/weight/lut")  # type: ignore[index, union-attr, operator]
    model[5]._buffers["_COREML_/weight/lut"] = table.expand(2, 2, -1, -1)  # type: ignore[index, union-attr, operator]


def _flat(model: nn.Module) -> None:
    table = model[5].get_buffer("_COREML_/weight/lut")  # type: ignore[index, union-attr, operator]
    model[5]._buffers["_COREML_/weight/lut"] = table.flatten()  # type: ignore[index, union-attr, operator]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_moved, r"5\.weight: its weights are not the entries of its table"),
        (_bare, "holds no weight that coremltools has palettized"),
        (_crossed, r"5\.weight: tables of shape \(2, 2, 16, 1\)"),
        (_flat, r"5\.weight: its table has shape \(16,\)"),
    ],
)
def test_refusals_are_one_line(change: Any, said: str) -> None:
    model = copy.deepcopy(clustered({"n_bits": 4, **TENSOR}))
    change(model)
    with pytest.raises(lloydmax.IntegrationError, match=said) as caught:
        lloydmax.from_coremltools(model)
    assert "\n" not in str(caught.value)


def test_not_a_network() -> None:
    with pytest.raises(lloydmax.ModelError, match="a state dict, not a network"):
        lloydmax.from_coremltools(network().state_dict())  # type: ignore[arg-type]
