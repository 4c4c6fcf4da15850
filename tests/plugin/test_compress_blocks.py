"""Vector codebooks through the whole pipeline: plan, training, file, report, search, hosts."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import lloydmax
import pytest
import torch
from conftest import SmallNet
from lloydmax.codebook.codebook import Codebook, decode
from lloydmax.student.codebooks import attach, attached, finish
from lloydmax.student.layers import CodebookConvTranspose2d
from test_lies import change, forge
from torch import Tensor, nn

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


def test_a_layer_that_blocks_do_not_divide_is_named(small_net: SmallNet, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("quantize:\n  - layers: all\n    centroids: 4\n    block: 4\n")
    with pytest.raises(lloydmax.RecipeError) as caught:
        lloydmax.plan(small_net, tmp_path / "r.yaml")
    assert "r.yaml:4: quantize[1].block: stem.weight: its shape (8, 3, 3, 3) has 27 weights" in str(caught.value)
    assert "lengths that do: 1, 3, 9, 27" in str(caught.value) and "'stem' without 'block'" in str(caught.value)
    rules = [{"layers": "all", "centroids": 4, "block": 4}, {"layers": ["stem", "depthwise"], "centroids": 4}]
    assert lloydmax.plan(small_net, {"quantize": rules}).parameters["padded.weight"].block == 4


def test_the_plan_is_verified(small_net: SmallNet) -> None:
    plan, model = lloydmax.plan(small_net, {"quantize": [{"layers": "head.0", "centroids": 4, "block": 4}]}), small_net
    attach(model, "head.0.weight", lloydmax.fit_codebook(model.head[0].weight, 4, block=2))
    with pytest.raises(lloydmax.PlanMismatchError, match=r"4 centroids per tensor in blocks of 2, planned .* of 4"):
        lloydmax.verify_plan(plan, model)


def test_the_plan_counts_distinct_blocks() -> None:
    model = nn.Sequential(nn.Linear(4, 6, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 2, 1, 2]]).expand(6, 4))
        model[0].weight[0, 2:] = torch.tensor([2.0, 1.0])
    for granularity in ("tensor", "channel", "group:4"):
        rule = {"layers": "all", "centroids": 16, "block": 2, "granularity": granularity}
        plan = lloydmax.plan(model, {"quantize": [rule]})
        assert plan.parameters["0.weight"].centroids == 2
        result = lloydmax.compress(model, {"quantize": [rule]}, progress=False)
        assert torch.equal(result.model[0].weight, model[0].weight)


def test_the_gradient_of_a_centroid_is_the_mean_over_its_blocks() -> None:
    model, x = nn.Sequential(nn.Linear(8, 6, bias=False)), torch.randn(5, 8)
    attach(model, "0.weight", lloydmax.fit_codebook(model[0].weight, 3, block=4))
    ((_, _, _, held, centroids),) = attached(model)
    centroids.requires_grad_(True)
    model(x).square().sum().backward()
    weight = decode(centroids.detach(), held.codes, block=4, shape=(6, 8)).requires_grad_(True)
    (x @ weight.T).square().sum().backward()
    blocks, codes = weight.grad.reshape(-1, 4), held.codes.reshape(-1).long()
    for code in range(3):
        assert torch.allclose(centroids.grad[code], blocks[codes == code].mean(0), rtol=1e-4, atol=1e-5)
    assert torch.autograd.gradcheck(
        lambda c: decode(c, held.codes, block=4, shape=(6, 8)), centroids.detach().double().requires_grad_(True)
    )


def test_transposed_convolutions(tmp_path: Path) -> None:
    model, x = nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=2, stride=2)), torch.randn(1, 4, 5, 5)
    rule = {"layers": "all", "centroids": 3, "block": 9, "granularity": "channel"}
    result = lloydmax.compress(model, {"quantize": [rule]}, progress=False)
    held = lloydmax.codebooks(result.model)["0.weight"]
    assert isinstance(result.model[0], CodebookConvTranspose2d) and held.codes.shape == (3, 4)
    with torch.no_grad():
        model[0].weight.copy_(held.dequantize())
    assert torch.equal(result.model(x), model(x))
    result.save(tmp_path / "a")
    assert torch.equal(lloydmax.load(tmp_path / "a", copy.deepcopy(model))(x), model(x))


def test_sweep_and_search(small_net: SmallNet, pictures: Tensor) -> None:
    recipe = {"quantize": [{"layers": ["padded", "head.*"], "centroids": [2, 4, 16], "block": 4}]}
    sweep = lloydmax.sweep(small_net, recipe, pictures, samples=32)
    rows = {(row.unit, row.centroids): row for row in sweep.rows}
    assert rows["padded.weight", 16].bits == 1 and rows["padded.weight", 4].bytes == 72 + 4 * 4 * 4
    found = lloydmax.search(small_net, recipe, pictures, {"bits": 0.9}, samples=32)
    assert all(rule.options["block"] == 4 for rule in found.recipe.quantize)
    result = lloydmax.compress(small_net, found.recipe, progress=False)
    assert result.report.bytes.file == lloydmax.plan(small_net, found.recipe).predicted_bytes


# Files


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    model = nn.Sequential(nn.Linear(6, 4, bias=False))
    codes = torch.tensor([[0, 1], [2, 2], [1, 0], [0, 0]], dtype=torch.uint8)
    attach(model, "0.weight", Codebook(torch.randn(3, 3), codes, block=3, shape=(4, 6)))
    lloydmax.save(finish(model), tmp_path / "a")
    return tmp_path / "a"


AT = ("parameters", "0.weight")


@pytest.mark.parametrize(
    "lie",
    [
        change(*AT, "block", to=0),
        change(*AT, "block", to=-3),
        change(*AT, "block", to=2),
        change(*AT, "block", to=4),
        change(*AT, "block", to=6),
        change(*AT, "block", to=1),
        change(*AT, "block", to=None),
        change(*AT, "block", to=3.0),
        change(*AT, "block", to=True),
        change(*AT, "block", to="3"),
        change(*AT, "block", to=[3]),
        change(*AT, "block", to=10**30),
        change(*AT, "even", to=True),
        change(*AT, "granularity", to="channel"),
        change(*AT, "shape", to=[4, 9]),
        change(*AT, "shape", to=[8, 6]),
        change(*AT, "shape", to=[]),
        change(*AT, "shape", to=[10**18] * 64),
        change(*AT, "k", to=9),
    ],
)
def test_lies_about_blocks(stored: Path, lie: object) -> None:
    forge(stored, lie)
    fresh = nn.Sequential(nn.Linear(6, 4, bias=False))
    for use in (lloydmax.inspect, lloydmax.verify, lambda path: lloydmax.load(path, fresh)):
        with pytest.raises(lloydmax.CheckpointError):
            use(stored)
    assert type(fresh[0]) is nn.Linear


@pytest.mark.parametrize("codebook", [torch.zeros(9), torch.zeros(3, 2), torch.zeros(1, 3, 3), torch.zeros(2, 3)])
def test_codebooks_of_another_shape(stored: Path, codebook: Tensor) -> None:
    forge(stored, tensors={"0.weight.codebook": codebook})
    with pytest.raises(lloydmax.CheckpointError, match="shape"):
        lloydmax.verify(stored)


def test_codes_of_blocks_are_checked(stored: Path) -> None:
    forge(stored, tensors={"0.weight.codes": torch.full((2,), 255, dtype=torch.uint8)})
    with pytest.raises(lloydmax.CheckpointError, match="code 3 in a codebook of 3"):
        lloydmax.verify(stored)
    forge(stored, tensors={"0.weight.codes": torch.zeros(3, dtype=torch.uint8)})
    with pytest.raises(lloydmax.CheckpointError, match="3 bytes, not 2"):
        lloydmax.verify(stored)
    with pytest.raises(lloydmax.CheckpointError, match=r"0.weight is \(4, 6\) in the file, \(8, 3\)"):
        forge(stored, tensors={"0.weight.codes": torch.zeros(2, dtype=torch.uint8)})
        lloydmax.load(stored, nn.Sequential(nn.Linear(3, 8, bias=False)))


def test_a_broken_codebook_is_not_written(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 4, bias=False))
    held = lloydmax.fit_codebook(model[0].weight, 3, block=3)
    attach(model, "0.weight", held)
    model[0].parametrizations.weight[0].codes = torch.full_like(held.codes, 7)
    with pytest.raises(lloydmax.CheckpointError, match=r"codes 7 \.\. 7 for 3"):
        lloydmax.save(model, tmp_path / "a")
    assert not list(tmp_path.iterdir())


# Hosts


def test_torch_ao_in_blocks() -> None:
    tq = pytest.importorskip("torch.ao.quantization.quantize_fx")
    from lloydmax.integrations import torch_ao

    model, x = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4)).eval(), torch.randn(5, 8)
    recipe = {"quantize": [{"layers": "0", "centroids": 3, "block": 4, "granularity": "channel"}]}
    mapping = tq.QConfigMapping()
    torch_ao.apply_recipe(mapping, recipe, model)
    prepared = tq.prepare_qat_fx(copy.deepcopy(model).train(), mapping, (x,), backend_config=torch_ao.backend_config())
    for _ in range(2):
        prepared(x).sum().backward()
    fresh = tq.prepare_qat_fx(copy.deepcopy(model).train(), mapping, (x,), backend_config=torch_ao.backend_config())
    fresh.load_state_dict(prepared.state_dict())
    converted = [tq.convert_fx(p.eval(), backend_config=torch_ao.backend_config()) for p in (prepared, fresh)]
    torch_ao.verify(converted[0], recipe, model)
    (held,) = lloydmax.codebooks(converted[0]).values()
    assert held.block == 4 and held.shape == (6, 8) and torch.equal(converted[0](x), converted[1](x))


def test_torchao_in_blocks() -> None:
    torchao = pytest.importorskip("torchao.quantization")
    from lloydmax.integrations.torchao import CodebookWeightConfig

    model = nn.Sequential(nn.Linear(8, 6))
    torchao.quantize_(model, CodebookWeightConfig(3, options={"block": 4}))
    assert lloydmax.codebooks(model)["0.weight"].block == 4


def test_pt2e_in_blocks() -> None:
    pt2e = pytest.importorskip("torchao.quantization.pt2e.quantize_pt2e")
    from lloydmax.integrations.torchao import CodebookQuantizer
    from lloydmax.integrations.torchao.pt2e import verify

    model, x = nn.Sequential(nn.Conv2d(3, 6, 3)).eval(), torch.randn(2, 3, 7, 7)
    recipe = {"quantize": [{"layers": "all", "centroids": 4, "block": 9}]}
    prepared = pt2e.prepare_pt2e(torch.export.export(model, (x,)).module(), CodebookQuantizer(recipe, model))
    prepared(x)
    converted = pt2e.convert_pt2e(prepared)
    verify(converted, recipe, model)
    with torch.no_grad():
        model[0].weight.copy_(lloydmax.fit_codebook(model[0].weight, 4, block=9).dequantize())
    assert torch.allclose(converted(x), model(x), atol=1e-6)


def test_inc_in_blocks() -> None:
    pytest.importorskip("neural_compressor.torch.quantization")
    from lloydmax.integrations.inc import CodebookConfig
    from neural_compressor.torch.quantization import quantize

    done = quantize(nn.Sequential(nn.Linear(8, 6)), CodebookConfig(centroids=3, block=4))
    assert lloydmax.codebooks(done)["0.weight"].block == 4


def test_compiled_exported_copied(small_net: SmallNet, pictures: Tensor, tmp_path: Path) -> None:
    result = lloydmax.compress(small_net, RECIPE, progress=False)
    expected = result.model(pictures)
    program = torch.export.export(result.model, (pictures,))
    assert torch.allclose(program.module()(pictures), expected, atol=1e-5)
    assert torch.equal(copy.deepcopy(result.model)(pictures), expected)
    assert torch.equal(lloydmax.set_cache(result.model, False)(pictures), expected)
    assert json.loads(json.dumps(result.report.to_dict()))["layers"][0]["bits"] == 2 / 9
    assert dataclasses.replace(lloydmax.codebooks(result.model)["stem.weight"]).shape == (8, 3, 3, 3)
