"""Storage by recipe: merged norms, codebooks of integers, the compact layout, constant tensors."""

import copy
import json
import random
import zlib

import lloydmax
import pytest
import torch
from conftest import SmallNet, TextNet
from hypothesis import given
from hypothesis import strategies as st
from lloydmax.checkpoint import accountings, inspect, load, predicted_size, round_floats, save, verify
from lloydmax.codebook import int8
from lloydmax.codebook.codebook import Codebook
from lloydmax.codebook.layout import codebook_count
from lloydmax.errors import CheckpointError
from lloydmax.format import compact
from lloydmax.format.entries import DTYPES, Entry, constant, filled
from lloydmax.network.merging import merge_norms, mergeable
from lloydmax.student.codebooks import attach, codebooks, finish
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

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


# Round trips


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


# Merged norms


def test_merged_norms_compute_the_same(small_net, pictures):
    with torch.no_grad():
        for norm in (small_net.bn1, small_net.bn2):
            norm.weight.uniform_(-2, 2), norm.bias.normal_()
    merged = copy.deepcopy(small_net)
    merge_norms(merged)
    assert torch.allclose(merged(pictures), small_net(pictures), atol=1e-6)
    assert not merged.bn1.running_mean.any() and (merged.bn1.running_var == 1).all()
    state = {name: tensor.clone() for name, tensor in merged.state_dict().items()}
    merge_norms(merged)
    assert all(torch.equal(tensor, state[name]) for name, tensor in merged.state_dict().items())


def test_norms_that_stay_as_they_are():
    class Own(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x) + self.running_mean[:, None, None]

    model = nn.ModuleDict(
        {
            "plain": nn.BatchNorm2d(4, affine=False),
            "batch": nn.BatchNorm2d(4, track_running_stats=False),
            "own": Own(4),
            "coded": nn.BatchNorm2d(4),
            "tied": nn.BatchNorm2d(4),
            "other": nn.BatchNorm2d(4),
            "tiny": nn.BatchNorm2d(4, eps=0.0),
            "good": nn.BatchNorm1d(4),
        }
    )
    model["tied"].weight = model["other"].weight
    for norm in model.values():
        if norm.running_mean is not None:
            norm.running_mean.normal_()
    model["tiny"].running_var.fill_(0), model["good"].running_var.fill_(2)
    attach(model, "coded.weight", Codebook(torch.tensor([1.0]), torch.zeros(4, dtype=torch.uint8)))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    merge_norms(model)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"good.running_mean", "good.running_var", "good.weight", "good.bias"}
    assert set(mergeable(model)) == {"tiny", "good"}


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


# Codebooks of integers


@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=20))
def test_rounding_twice_is_rounding_once(values):
    rows = torch.tensor([values, values[::-1]])
    once = int8.rounded(rows)
    stored = int8.to_bytes(once)
    if stored is None:  # so small that the scale is no bfloat16
        assert rows.abs().max() < 1e-30
        return
    assert stored.dtype == torch.int8 and torch.equal(int8.from_bytes(stored), once)
    assert torch.equal(int8.rounded(once), once)
    step = rows.abs().amax(1, keepdim=True) / 127
    assert ((once - rows).abs() <= 0.505 * step + 1e-38).all()


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
    assert not int8.pays(2, 1, 2) and int8.pays(3, 1, 2) and int8.pays(1, 1, 4)


def test_centroids_of_integers_are_where_the_weights_were(small_net):
    recipe = {"quantize": [{"layers": "all", "centroids": 16}]}
    books = [
        codebooks(lloydmax.compress(small_net, {**recipe, "storage": storage}, progress=False).model)
        for storage in ({}, {"codebooks": "int8"})
    ]
    for name, book in books[0].items():
        assert (book.centroids - books[1][name].centroids).abs().max() <= book.centroids.abs().max() / 250


# Constant tensors


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_constant_and_keeps_its_size(dtype, tmp_path):
    model = nn.Sequential(nn.Linear(2, 3))
    model.register_buffer("same", torch.ones(dtype.itemsize * 6, dtype=torch.uint8).view(dtype).view(3, 2))
    model.register_buffer("single", torch.ones(()).to(dtype))
    odd = torch.zeros(dtype.itemsize * 3, dtype=torch.uint8)
    odd[0] = 1
    model.register_buffer("odd", odd.view(dtype))
    attach(model, "0.weight", Codebook(torch.tensor([0.0, 1.0]), torch.ones(3, 2, dtype=torch.uint8)))
    done = finish(model)
    assert (
        save(done, tmp_path / "a", storage={"layout": "compact"})
        == accountings(done, storage={"layout": "compact"}).packed
    )
    verify(tmp_path / "a")
    fresh = nn.Sequential(nn.Linear(2, 3))
    for name in ("same", "single", "odd"):
        fresh.register_buffer(name, torch.zeros_like(getattr(model, name)))
    load(tmp_path / "a", fresh)
    for name in ("same", "single", "odd"):
        first, second = getattr(model, name), getattr(fresh, name)
        assert torch.equal(first.reshape(-1).view(torch.uint8), second.reshape(-1).view(torch.uint8))
    held = {item.name: item.bytes for item in inspect(tmp_path / "a").tensors}
    assert held["same"] == held["single"] == 0 and held["odd"] == 3 * dtype.itemsize


def test_constants():
    assert constant("a", torch.zeros(0)) is None and constant("a", torch.tensor([0.0, -0.0])) is None
    entry = constant("a", torch.full((2, 3), -1.5))
    assert entry == Entry("a", "F32", (2, 3), "0000c0bf") and entry.bytes == 0 and entry.size == 24
    assert torch.equal(filled(entry), torch.full((2, 3), -1.5))
    assert filled(Entry("a", "F32", (10**18,), "0000c0bf")).untyped_storage().nbytes() == 4


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


# Damaged and hostile files


@pytest.fixture
def small(tmp_path):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    codes = torch.tensor([[0, 1, 2], [2, 1, 0], [1, 1, 2], [0, 0, 4]], dtype=torch.uint8)
    attach(model, "0.weight", Codebook(int8.rounded(torch.arange(5.0)[None])[0], codes))
    path = tmp_path / "small"
    save(model, path, {"lr": 1e-3}, {"layout": "compact", "codebooks": "int8"})
    return path


def net():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def refused(path, *words):
    fresh = net()
    for use in (verify, lambda path: load(path, fresh)):
        with pytest.raises(CheckpointError) as caught:
            use(path)
        assert all(word in str(caught.value) for word in (str(path), *words)), caught.value
    assert type(fresh[0]) is nn.Linear


def test_flipped_bits_and_truncations_are_found(small):
    data, chance = small.read_bytes(), random.Random(0)
    assert len(data) < 1200
    for position in range(len(data)):
        broken = bytearray(data)
        broken[position] ^= 1 << chance.randrange(8)
        for content in (broken, data[:position]):
            small.write_bytes(content)
            with pytest.raises(CheckpointError):
                verify(small)


def forge(path, change=None, **tensors):
    """Rewrite a compact file with a changed document or changed tensors, and honest checksums."""
    held = {name: tensor.clone() for name, tensor in load_file(path).items()}
    document = json.loads(compact.inflate(held["document"], 1 << 20))
    if change is not None:
        change(document)
    text = json.dumps(document, separators=(",", ":"), sort_keys=True)
    held["document"] = torch.tensor(list(compact.deflate(text)), dtype=torch.uint8)
    held |= tensors
    save_file(held, path, {"lloydmax": compact.label(held["checksums"], held["document"])})


def test_forging_changes_nothing_by_itself(small):
    before = small.read_bytes()
    forge(small)
    assert small.read_bytes() == before
    with safe_open(small, "pt") as file:
        assert compact.is_label(file.metadata()["lloydmax"]) and set(file.keys()) == {"checksums", "data", "document"}


def row(index, at, to):
    def change(document):
        document["tensors"][index][at] = to

    return change


def entry(key, name, to):
    return lambda document: document[key].__setitem__(name, to)


@pytest.mark.parametrize(
    "lie",
    [
        lambda document: document.pop("tensors"),
        lambda document: document.pop("parameters"),
        lambda document: document["tensors"].pop(),
        lambda document: document["tensors"].reverse(),
        lambda document: document["tensors"].append(document["tensors"][-1]),
        lambda document: document.__setitem__("tensors", {}),
        lambda document: document.__setitem__("tensors", [1]),
        lambda document: document.__setitem__("format", 1 << 70),
        lambda document: document.__setitem__("crc32", ["00000000"]),
        lambda document: document.__setitem__("constants", []),
        row(0, 0, "0.weight.codes"),
        row(0, 0, 1),
        row(0, 1, "F99"),
        row(0, 1, ["F32"]),
        row(0, 2, [10**18]),
        row(0, 2, [10**18] * 40),
        row(0, 2, [-1]),
        row(0, 2, [True]),
        row(0, 2, [1] * 1000),
        entry("constants", "1.weight", ["F32", [4], "00"]),
        entry("constants", "1.weight", ["F32", [0], "0000803f"]),
        entry("constants", "1.weight", ["F32", [1 << 62], "0000803f"]),
        entry("constants", "1.weight", ["BOOL", [4], "02"]),
        entry("constants", "1.weight", ["F32", [4], 7]),
        entry("constants", "0.weight.codes", ["U8", [5], "00"]),
        entry("constants", "0.bias", ["F32", [4], "0000803f"]),
        lambda document: document["parameters"]["0.weight"].__setitem__("int8", False),
        lambda document: document["parameters"]["0.weight"].__setitem__("int8", 1),
        lambda document: document["parameters"]["0.weight"].__setitem__("even", True),
        lambda document: document["parameters"]["0.weight"].__setitem__("dtype", "float16"),
    ],
)
def test_lies_in_the_document(small, lie):
    forge(small, lie)
    refused(small)


def test_nothing_of_a_claimed_size_is_allocated(small):
    forge(small, entry("constants", "1.weight", ["F32", [10**17], "0000803f"]))
    verify(small)
    with pytest.raises(CheckpointError, match="1.weight is"):
        load(small, net())


@pytest.mark.parametrize(
    "document",
    [b"", b"\0", b"\xff" * 50, zlib.compress(b"{}", wbits=15), compact.deflate("{}") + b"\0", compact.deflate("{}")],
)
def test_broken_documents(small, document):
    forge(small, document=torch.tensor(list(document), dtype=torch.uint8))
    refused(small)


def test_a_document_that_is_a_bomb(small):
    forge(small, document=torch.tensor(list(compact.deflate(" " * (1 << 26))), dtype=torch.uint8))
    refused(small, "more than")


def test_a_document_of_many_values(small):
    forge(small, document=torch.tensor(list(compact.deflate("[" * 3_000_000)), dtype=torch.uint8))
    refused(small, "values")


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("checksums", torch.zeros(2, dtype=torch.uint32)),
        ("checksums", torch.zeros(5, dtype=torch.int32)),
        ("data", torch.zeros(3, dtype=torch.uint8)),
        ("data", torch.zeros(5, 5, dtype=torch.uint8)),
        ("more", torch.zeros(1)),
    ],
)
def test_arrays_that_contradict_the_document(small, name, tensor):
    forge(small, **{name: tensor})
    refused(small)


def test_damaged_data(small):
    data = load_file(small)["data"]
    data[0] ^= 1
    forge(small, data=data)
    refused(small, "wrong checksum")


def test_a_scale_that_is_not_finite(small):
    held = load_file(small)
    data = held["data"].clone()
    document = json.loads(compact.inflate(held["document"], 1 << 20))
    place = [item[0] for item in document["tensors"]].index("0.weight.codebook")
    assert place == 1, "after the bias"
    data[16 + 5 : 16 + 7] = torch.tensor([0x80, 0x7F], dtype=torch.uint8)
    checksums = held["checksums"].tolist()
    checksums[sorted(item[0] for item in document["tensors"]).index("0.weight.codebook")] = zlib.crc32(
        bytes(data[16 : 16 + 7].tolist())
    )
    forge(small, data=data, checksums=torch.tensor(checksums, dtype=torch.uint32))
    refused(small, "NaN or infinite")
