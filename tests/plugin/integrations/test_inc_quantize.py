"""quantize, prepare and convert of Intel Neural Compressor with CodebookConfig."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lloydmax
import numpy as np
import pytest
import torch
from lloydmax.hooks import registry
from lloydmax.integrations.inc import CodebookConfig
from lloydmax.integrations.inc import run as run_module
from neural_compressor.torch.quantization import convert, prepare, quantize, save
from pydantic import BaseModel
from torch import Tensor, nn

pytest.importorskip("neural_compressor")


RECIPE: dict[str, Any] = {
    "version": 1,
    "name": "test",
    "quantize": [{"layers": "all", "centroids": 4}, {"layers": "all", "parameter": "bias", "centroids": 2}],
    "trainable": ["all"],
    "recover": [
        {"step": "renormalize", "samples": 64},
        {"step": "distill", "epochs": 2, "batch_size": 32, "lr": 0.01},
    ],
    "seed": 3,
}
ALL = {"stem.weight", "depthwise.weight", "padded.weight", "head.0.weight", "head.2.weight"}


def batches(pictures: Tensor) -> list[Tensor]:
    return list(pictures.split(32))


def feed(model: nn.Module, data: list[Tensor], guard: Callable[[], Any] = torch.no_grad) -> None:
    with guard():
        for batch in data:
            model(batch)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: book.dequantize() for name, book in lloydmax.codebooks(model).items()}


def test_without_data_it_is_what_compress_does(small_net: nn.Module) -> None:
    wanted = lloydmax.compress(small_net, {"version": 1, "quantize": [{"layers": "all"}]}, progress=False)
    found = quantize(small_net, CodebookConfig())
    assert set(weights(found)) == ALL
    for name, weight in weights(found).items():
        assert torch.equal(weight, weights(wanted.model)[name])


class Scored(nn.Module):
    """Returns its scores inside of other things, time first."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(8, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Any:
        inner = self.inner(x).relu()
        return {"heads": [self.head(inner).transpose(0, 1), inner], "loss": inner.mean()}


def test_the_output_that_a_recipe_names_counts_here_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher, x = Scored().eval(), torch.randn(64, 3, 8)
    made = {}
    for output in ("heads.0", "heads.1"):
        step = {"step": "distill", "steps": 6, "batch_size": 16, "lr": 0.05}
        recipe = {"quantize": [{"layers": "all", "centroids": 4, "importance": "fisher"}], "trainable": ["all"]}
        recipe |= {"recover": [step], "output": output}
        lloydmax.compress(teacher, recipe, x, progress=False).save(tmp_path / "a.safetensors")
        found = quantize(copy.deepcopy(teacher), CodebookConfig.from_recipe(recipe), run_args=([x],))
        lloydmax.save(found, tmp_path / "b.safetensors")
        made[output] = (tmp_path / "a.safetensors").read_bytes()
        assert made[output] == (tmp_path / "b.safetensors").read_bytes()
    assert made["heads.0"] != made["heads.1"]


@pytest.mark.parametrize("way", ["run_fn", "inference_mode", "grad", "run_args", "two-step", "convert data", "dict"])
def test_a_recipe_gives_the_same_bytes_as_compress(
    way: str, small_net: nn.Module, pictures: Tensor, tmp_path: Path
) -> None:
    data = batches(pictures)
    lloydmax.compress(copy.deepcopy(small_net), RECIPE, data=data, progress=False).save(tmp_path / "a.safetensors")
    config = CodebookConfig.from_recipe(RECIPE)
    if way == "run_args":
        found = quantize(small_net, config, run_args=(data,))
    elif way == "two-step":
        prepared = prepare(small_net, config)
        feed(prepared, data)
        found = convert(prepared)
    elif way == "convert data":
        found = convert(prepare(small_net, config), data=data)
    elif way == "dict":
        found = quantize(small_net, {"codebook": config.to_dict()}, run_fn=lambda model: feed(model, data))
    else:
        guard = {"run_fn": torch.no_grad, "inference_mode": torch.inference_mode, "grad": torch.enable_grad}[way]
        found = quantize(small_net, config, run_fn=feed, run_args=(data, guard))
    save(found, str(tmp_path / "out"))
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (tmp_path / "a.safetensors").read_bytes()


def test_reference_data_is_the_second_of_run_args(small_net: nn.Module, pictures: Tensor, tmp_path: Path) -> None:
    recipe = {**RECIPE, "recover": [{"step": "renormalize", "source": "reference_data"}]}
    wanted = lloydmax.compress(
        copy.deepcopy(small_net), recipe, data=pictures[:64], reference_data=pictures[64:], progress=False
    )
    wanted.save(tmp_path / "a.safetensors")
    found = quantize(small_net, CodebookConfig.from_recipe(recipe), run_args=(pictures[:64], pictures[64:]))
    save(found, str(tmp_path))
    assert (tmp_path / "model.safetensors").read_bytes() == (tmp_path / "a.safetensors").read_bytes()


@pytest.mark.parametrize("inplace", [True, False])
def test_inplace(inplace: bool, small_net: nn.Module, pictures: Tensor) -> None:
    before = copy.deepcopy(small_net.state_dict())
    config = CodebookConfig(centroids=2, trainable="all", recover={"step": "distill", "epochs": 1})
    found = quantize(small_net, config, run_args=(pictures,), inplace=inplace)
    assert (found is small_net) == inplace
    assert set(lloydmax.codebooks(found)) == ALL
    assert not found.training
    if not inplace:
        assert all(torch.equal(small_net.state_dict()[name], value) for name, value in before.items())


@pytest.mark.parametrize("inplace", [True, False])
def test_the_teacher_is_pristine_and_no_part_of_the_student(
    inplace: bool, small_net: nn.Module, pictures: Tensor
) -> None:
    original = copy.deepcopy(small_net)
    prepared = prepare(small_net, CodebookConfig.from_recipe(RECIPE), inplace=inplace)
    run = run_module.run_of(prepared)
    assert run is not None and run.teacher is not None
    teacher = run.teacher
    feed(prepared, batches(pictures))
    with torch.no_grad():
        for parameter in prepared.parameters():
            parameter.add_(1)
    held = {id(module) for module in prepared.modules()}
    assert held.isdisjoint(id(module) for module in teacher.modules())
    assert {tensor.data_ptr() for tensor in prepared.state_dict().values()}.isdisjoint(
        tensor.data_ptr() for tensor in teacher.state_dict().values()
    )
    found = convert(prepared, inplace=inplace)
    assert all(torch.equal(teacher.state_dict()[name], value) for name, value in original.state_dict().items())
    assert run_module.run_of(found) is None
    assert not found._forward_pre_hooks and not found._forward_pre_hooks_with_kwargs


def test_the_users_own_training_as_run_fn(small_net: nn.Module, pictures: Tensor) -> None:
    before = copy.deepcopy(small_net)
    target = before(pictures).detach()
    losses = []

    def train(model: nn.Module) -> None:
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        for _ in range(10):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(pictures), target)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())

    with torch.no_grad():
        found = quantize(small_net, CodebookConfig(centroids=2, trainable="all"), run_fn=train)
    assert losses[-1] < 0.7 * losses[0]
    assert nn.functional.mse_loss(found(pictures), target).item() < losses[0]
    plain = lloydmax.codebooks(quantize(before, CodebookConfig(centroids=2)))
    for name, book in lloydmax.codebooks(found).items():
        assert torch.equal(book.codes, plain[name].codes)
        assert not torch.equal(book.centroids, plain[name].centroids)


@pytest.mark.parametrize("made", ["before", "after"])
def test_the_users_own_loop_between_prepare_and_convert(made: str, small_net: nn.Module, pictures: Tensor) -> None:
    target = small_net(pictures).detach()
    bias = small_net.get_parameter("head.2.bias").detach().clone()
    optimizer = torch.optim.SGD(small_net.parameters(), lr=0.5) if made == "before" else None
    prepared = prepare(small_net, CodebookConfig(centroids=2))
    optimizer = optimizer or torch.optim.SGD(prepared.parameters(), lr=0.5)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(prepared(pictures), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    found = convert(prepared)
    assert losses[-1] < losses[0]
    assert not torch.equal(found.get_parameter("head.2.bias"), bias)
    assert set(lloydmax.codebooks(found)) == ALL


@pytest.mark.parametrize(
    ("config", "compressed"),
    [
        (CodebookConfig(white_list=["head.0"]), {"head.0.weight"}),
        (CodebookConfig(white_list=[nn.Linear]), {"head.0.weight", "head.2.weight"}),
        (CodebookConfig().set_local("stem", CodebookConfig(quantizer="none")), ALL - {"stem.weight"}),
        (CodebookConfig(bias_centroids=1, white_list=["head.2"]), {"head.2.weight", "head.2.bias"}),
    ],
)
def test_prepare_and_convert_by_name_and_type(config: Any, compressed: set[str], small_net: nn.Module) -> None:
    prepared = prepare(small_net, config)
    assert set(lloydmax.codebooks(prepared)) == compressed
    found = convert(prepared)
    assert set(lloydmax.codebooks(found)) == compressed
    assert set(found.qconfig) == {
        (layer, type_of) for layer, type_of in found.qconfig if f"{layer}.weight" in compressed
    } and len(found.qconfig) == len({name.rpartition(".")[0] for name in compressed})


def test_convert_notices_a_layer_that_lost_its_codebook(small_net: nn.Module) -> None:
    prepared = prepare(small_net, CodebookConfig())
    nn.utils.parametrize.remove_parametrizations(prepared.get_submodule("stem"), "weight")
    with pytest.raises(lloydmax.PlanMismatchError, match=r"stem\.weight is not compressed"):
        convert(prepared)


def test_a_single_layer_model() -> None:
    found = quantize(nn.Linear(8, 8), CodebookConfig(centroids=4))
    assert lloydmax.codebooks(found)["weight"].k == 4


def test_ranges_of_a_recipe_count_in_forward_order(text_net: nn.Module) -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x))

    config = CodebookConfig.from_recipe({"version": 1, "quantize": [{"layers": 1, "centroids": 4}]})
    found = quantize(Backwards(), config, example_inputs=torch.randn(2, 4))
    assert set(lloydmax.codebooks(found)) == {"first.weight"}
    assert set(found.qconfig) == {("first", "Linear")}


def test_tied_and_recurrent_weights(text_net: nn.Module) -> None:
    recipe = {"version": 1, "quantize": [{"layers": ["embed", "lstm"], "parameter": "weight*", "centroids": 8}]}
    tokens = torch.randint(50, (4, 6))
    found = quantize(text_net, CodebookConfig.from_recipe(recipe))
    assert {"embed.weight", "out.weight", "lstm.weight_ih_l0"} <= set(lloydmax.codebooks(found))
    assert found(tokens).shape == (4, 6, 50)


def test_dict_inputs_are_captured_without_labels(small_net: nn.Module, pictures: Tensor) -> None:
    config = CodebookConfig(trainable="all", recover={"step": "distill", "epochs": 1})
    prepared = prepare(small_net, config)
    prepared(x=pictures)
    run = run_module.run_of(prepared)
    assert run is not None and run.captured is not None and len(run.captured) == len(pictures)
    convert(prepared)


def test_captured_inputs_are_bounded(small_net: nn.Module, pictures: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 2 * pictures[:32].nbytes
    monkeypatch.setattr(run_module, "Captured", functools.partial(run_module.Captured, limit_bytes=limit))
    prepared = prepare(small_net, CodebookConfig.from_recipe(RECIPE))
    with pytest.warns(UserWarning, match="only the first 64 samples"):
        feed(prepared, batches(pictures))
    run = run_module.run_of(prepared)
    assert run is not None and run.captured is not None and run.captured.bytes <= limit
    convert(prepared)


def test_nothing_is_captured_or_copied_where_nothing_needs_it(small_net: nn.Module, pictures: Tensor) -> None:
    prepared = prepare(small_net, CodebookConfig())
    run = run_module.run_of(prepared)
    assert run is not None and run.captured is None and run.teacher is None


class Squares:
    """An importance that needs data: the mean square of the first input, the same for all weights."""

    class Options(BaseModel):
        pass

    def __init__(self, options: Any) -> None:
        pass

    def measure(self, model: nn.Module, names: Any, data: Any) -> dict[str, Tensor]:
        _, batch = next(iter(data.batches(len(data))))
        scale = next(batch.tensors()).square().mean()
        return {name: model.get_parameter(name).detach().abs() * scale for name in names}


class SquaresPlugin:
    @lloydmax.hookimpl
    def lloydmax_importances(self) -> dict[str, type]:
        return {"squares": Squares}


def test_importances_get_the_calibration_inputs(small_net: nn.Module, pictures: Tensor) -> None:
    plugin = SquaresPlugin()
    registry.register(plugin)
    try:
        config = CodebookConfig(centroids=4, importance="squares")
        recipe = {"version": 1, "quantize": [{"layers": "all", "centroids": 4, "importance": "squares"}]}
        wanted = weights(lloydmax.compress(small_net, recipe, data=pictures, progress=False).model)
        plain = weights(quantize(copy.deepcopy(small_net), CodebookConfig(centroids=4)))

        def train(model: nn.Module) -> None:
            model(pictures).sum().backward()
            torch.optim.SGD(model.parameters(), lr=0.1).step()

        with pytest.raises(lloydmax.IntegrationError, match="run_fn trains the model"):
            quantize(copy.deepcopy(small_net), config, run_fn=train)
        with pytest.raises(lloydmax.IntegrationError, match="call quantize"):
            prepare(copy.deepcopy(small_net), config)
        with pytest.raises(lloydmax.RecoveryError, match="importance 'squares' needs unlabelled inputs"):
            quantize(copy.deepcopy(small_net), config)
        found = weights(quantize(small_net, config, run_fn=lambda model: feed(model, batches(pictures))))
    finally:
        registry.unregister(plugin)
    assert all(torch.equal(found[name], wanted[name]) for name in found)
    assert not all(torch.equal(found[name], plain[name]) for name in found)


def test_missing_data_says_how_to_give_it(small_net: nn.Module) -> None:
    with pytest.raises(lloydmax.RecoveryError, match=r"run_fn=calibrate.*run_args=\(loader,\)"):
        quantize(copy.deepcopy(small_net), CodebookConfig(recover="distill"))
    with pytest.raises(lloydmax.RecoveryError, match="called with none"):
        convert(prepare(copy.deepcopy(small_net), CodebookConfig(recover="distill")))
    with pytest.raises(lloydmax.RecoveryError, match="called with none"):
        quantize(small_net, CodebookConfig(recover="distill"), run_fn=lambda model: None)


def test_misuse_is_named(small_net: nn.Module, pictures: Tensor) -> None:
    with pytest.raises(lloydmax.IntegrationError, match="not prepared"):
        convert(copy.deepcopy(small_net), CodebookConfig())
    with pytest.raises(lloydmax.IntegrationError, match="not dta"):
        convert(prepare(copy.deepcopy(small_net), CodebookConfig()), dta=pictures)
    with pytest.raises(lloydmax.IntegrationError, match="3 items"):
        quantize(copy.deepcopy(small_net), CodebookConfig(), run_args=(1, 2, 3))
    found = quantize(small_net, CodebookConfig())
    with pytest.raises(lloydmax.RecipeError, match="already holds codebooks"):
        quantize(found, CodebookConfig())
    with pytest.raises(lloydmax.IntegrationError, match="needs a torch.nn.Module"):
        quantize(np.zeros(3), CodebookConfig())


@pytest.mark.parametrize("by", ["inc", "torch"])
def test_an_exported_graph_is_refused(by: str, small_net: nn.Module, pictures: Tensor) -> None:
    if by == "inc":
        from neural_compressor.torch.export import export

        graph = export(small_net, (pictures[:2],))
    else:
        graph = torch.export.export(small_net, (pictures[:2],)).module()
    with pytest.raises(lloydmax.IntegrationError, match="exported graph"):
        quantize(graph, CodebookConfig())


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_callers_may_have_gradients_off(guard: Any, small_net: nn.Module, pictures: Tensor) -> None:
    with guard():
        found = quantize(small_net, CodebookConfig.from_recipe(RECIPE), run_args=(pictures,))
    assert not any(tensor.is_inference() for tensor in (*found.parameters(), *found.buffers()))


def test_a_size_gives_the_same_bytes_as_compress(small_net: nn.Module, pictures: Tensor, tmp_path: Path) -> None:
    step = {"step": "distill", "codes": "learn", "steps": 3, "batch_size": 16}
    recipe = {
        "bits": 24, "quantize": [{"layers": "all", "centroids": 64, "importance": "fisher"}], "trainable": ["all"],
        "recover": [step], "storage": {"codes": "entropy"},
    }  # fmt: skip
    lloydmax.compress(copy.deepcopy(small_net), recipe, data=pictures, progress=False).save(tmp_path / "a.safetensors")
    found = quantize(small_net, CodebookConfig.from_recipe(recipe), run_args=(pictures,))
    save(found, str(tmp_path))
    assert (tmp_path / "model.safetensors").read_bytes() == (tmp_path / "a.safetensors").read_bytes()
