"""The compact layout: damaged and hostile files are refused, and the model stays as it was."""

import json
import random
import zlib

import pytest
import torch
from lloydmax.checkpoint import load, save, verify
from lloydmax.codebook import integers
from lloydmax.codebook.codebook import Codebook
from lloydmax.errors import CheckpointError
from lloydmax.format import compact
from lloydmax.student.codebooks import attach
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn


@pytest.fixture
def small(tmp_path):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    codes = torch.tensor([[0, 1, 2], [2, 1, 0], [1, 1, 2], [0, 0, 4]], dtype=torch.uint8)
    attach(model, "0.weight", Codebook(integers.rounded(torch.arange(5.0)[None])[0], codes))
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
