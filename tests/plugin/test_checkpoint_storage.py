"""Storage by recipe: the same outputs, the same bytes, and the size that was predicted."""

import copy

import lloydmax
import pytest
import torch
from conftest import SmallNet, TextNet
from lloydmax.checkpoint import accountings, inspect, load, predicted_size, round_floats, save, verify
from lloydmax.codebook import integers
from lloydmax.codebook.codebook import Codebook
from lloydmax.codebook.layout import codebook_count
from lloydmax.student.codebooks import attach, codebooks, finish
from safetensors.torch import load_file

SMALLEST = {"floats": "float16", "codes": "entropy", "norms": "merged", "codebooks": "int8", "layout": "compact"}
STORAGES = [
    SMALLEST,
    {"floats": "float32", "codes": "packed", "layout": "compact"},
    {"floats": "float16", "codes": "packed", "norms": "merged"},
    {"floats": "bfloat16", "codes": "packed", "codebooks": "int8"},
    {"floats": "float16", "codes": "entropy", "codebooks": "int8", "layout": "compact"},
]
RECIPE = {
    "quantize": [
        {"layers": "all", "centroids": 16},
        {"layers": "depthwise", "centroids": 4, "granularity": "channel"},
        {"layers": "head.2", "centroids": 8, "block": 2},
    ],
    "storage": SMALLEST,
}


def compressed(model, storage, skew=6.0):
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    for name, k, granularity in (
        ("stem.weight", 5, "tensor"),
        ("depthwise.weight", 4, "channel"),
        ("head.0.weight", 16, "group:8"),
        ("head.2.bias", 1, "tensor"),
    ):
        weight = model.get_parameter(name)
        shape = (k,) if granularity == "tensor" else (codebook_count(weight.shape, granularity), k)
        codes = (torch.rand(weight.shape, generator=generator) ** skew * k).byte()
        attach(model, name, Codebook(torch.randn(shape, generator=generator).sort(-1).values, codes, granularity))
    model = finish(model).eval()
    round_floats(model, storage)
    return model


@pytest.mark.parametrize("storage", STORAGES, ids=lambda s: "-".join(s.values()))
def test_round_trip_gives_the_same_outputs_and_the_same_bytes(small_net, pictures, tmp_path, storage):
    model = compressed(small_net, storage)
    recipe = {"name": "tést", "rates": [1e-3, 0.1 + 0.2]}
    size = save(model, tmp_path / "a", recipe, storage)
    assert size == (tmp_path / "a").stat().st_size == accountings(model, recipe, storage).file
    loaded = load(tmp_path / "a", SmallNet().eval())
    assert torch.equal(loaded(pictures), model(pictures))
    save(loaded, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    found = verify(tmp_path / "a")
    assert found.format == 2 and found.recipe == recipe
    assert found.original == sum(tensor.nbytes for tensor in small_net.state_dict().values())
    load_file(tmp_path / "a")
    again = copy.deepcopy(model)
    round_floats(again, storage)
    values = zip(again.state_dict().items(), model.state_dict().items(), strict=True)
    assert all(torch.equal(first, second) for (_, first), (_, second) in values)


def test_the_pipeline_reports_predicts_and_writes_the_same(small_net, pictures, tmp_path):
    result = lloydmax.compress(small_net, RECIPE, progress=False)
    size = result.save(tmp_path / "a")
    assert size == result.report.bytes.file
    packed = lloydmax.compress(small_net, {**RECIPE, "storage": {**SMALLEST, "codes": "packed"}}, progress=False)
    assert abs(packed.plan.predicted_bytes - packed.report.bytes.file) < 8
    assert torch.equal(load(tmp_path / "a", SmallNet())(pictures), result.model(pictures))
    default = lloydmax.compress(small_net, {**RECIPE, "storage": {}}, progress=False)
    assert size < 0.5 * default.report.bytes.file
    held = {p.name: p.bytes for p in inspect(tmp_path / "a").parameters}
    assert all(held[layer.name] <= layer.bytes for layer in result.report.layers)
    assert sum(layer.bytes for layer in packed.report.layers) == sum(row["bytes"] for row in packed.plan.rows())


def test_defaults_still_write_format_1(small_net, tmp_path):
    save(compressed(small_net, {}), tmp_path / "a")
    assert inspect(tmp_path / "a").format == 1
    assert set(inspect(tmp_path / "a").storage) == {"floats", "codes"}


def test_ties_in_the_compact_layout(text_net, tmp_path):
    attach(text_net, "embed.weight", lloydmax.fit_codebook(text_net.embed.weight, 16))
    model = finish(text_net)
    save(model, tmp_path / "a", storage={"layout": "compact"})
    loaded = load(tmp_path / "a", TextNet().eval())
    tokens = torch.arange(30).view(2, 15)
    assert torch.equal(loaded(tokens), model(tokens)) and inspect(tmp_path / "a").tied == {"out.weight": "embed.weight"}


def test_merged_norms_take_half_the_bytes(small_net, tmp_path):
    model = compressed(small_net, SMALLEST)
    save(model, tmp_path / "a", storage=SMALLEST)
    norm = {item.name: item.bytes for item in inspect(tmp_path / "a").tensors if item.name.startswith("bn1.")}
    assert norm == {
        "bn1.weight": 16,
        "bn1.bias": 16,
        "bn1.running_mean": 0,
        "bn1.running_var": 0,
        "bn1.num_batches_tracked": 0,
    }


def test_integers_only_where_they_are_smaller_and_exact(small_net, tmp_path):
    storage = {"codebooks": "int8"}
    model = compressed(small_net, storage)
    save(model, tmp_path / "a", storage=storage)
    stored = {item.name: item.stored for item in inspect(tmp_path / "a").parameters}
    assert stored == {
        "stem.weight": "int8",
        "depthwise.weight": "int8",
        "head.0.weight": "int8",
        "head.2.bias": "int8",
    }
    assert load_file(tmp_path / "a")["depthwise.weight.codebook"].shape == (8, 4 + 2)
    unrounded = compressed(small_net, {})
    save(unrounded, tmp_path / "b", storage=storage)
    assert {item.stored for item in inspect(tmp_path / "b").parameters} == {"float32"}
    assert not integers.pays(2, 1, 2) and integers.pays(3, 1, 2) and integers.pays(1, 1, 4)


def test_centroids_of_integers_are_where_the_weights_were(small_net):
    recipe = {"quantize": [{"layers": "all", "centroids": 16}]}
    books = [
        codebooks(lloydmax.compress(small_net, {**recipe, "storage": storage}, progress=False).model)
        for storage in ({}, {"codebooks": "int8"})
    ]
    for name, book in books[0].items():
        assert (book.centroids - books[1][name].centroids).abs().max() <= book.centroids.abs().max() / 250


def test_predicted_sizes_know_constants_and_merged_norms(small_net, tmp_path):
    for storage in (
        {"layout": "compact"},
        {"norms": "merged"},
        {"norms": "merged", "layout": "compact"},
        {"codebooks": "int8", "floats": "float16"},
    ):
        model = compressed(small_net, storage)
        parameters = {
            name: lloydmax.checkpoint.Parameter(tuple(book.codes.shape), book.k, granularity=book.granularity)
            for name, book in codebooks(model).items()
        }
        size = save(model, tmp_path / "a", storage=storage)
        assert abs(predicted_size(small_net, parameters, storage=storage) - size) <= 8
