"""Damaged and hostile files: always a CheckpointError with path and reason, and an untouched model."""

import json
import os
import pickle
import random
import struct
import tracemalloc
import zlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lloydmax.checkpoint import inspect, load, save, verify
from lloydmax.codebook.codebook import Codebook
from lloydmax.errors import CheckpointError
from lloydmax.format import reader
from lloydmax.format.packing import entropy_encode
from lloydmax.student.codebooks import attach
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

CODES = torch.tensor([[0, 1, 2], [2, 1, 0], [1, 1, 2], [0, 0, 4]], dtype=torch.uint8)


def net():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def model(codes=CODES, k=5):
    done = net()
    attach(done, "0.weight", Codebook(torch.arange(float(k)), codes))
    attach(done, "0.bias", Codebook(torch.tensor([0.5]), torch.zeros(4, dtype=torch.uint8)))
    return done


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.safetensors"
    save(model(), path, {"name": "x", "lr": 1e-3})
    return path


def refused(path, *words, fresh=None):
    """Every entry point refuses the file; ``fresh`` is not changed."""
    fresh = fresh or net()
    before = pickle.dumps(fresh.state_dict())
    for use in (inspect, verify, lambda path: load(path, fresh)):
        with pytest.raises(CheckpointError) as caught:
            use(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert len(str(caught.value)) < 2000
        assert all(word in str(caught.value) for word in words), caught.value
    assert pickle.dumps(fresh.state_dict()) == before and type(fresh[0]) is nn.Linear


def refused_data(path, *words):
    """The header is sound, the data are not."""
    inspect(path)
    fresh = net()
    for use in (verify, lambda path: load(path, fresh)):
        with pytest.raises(CheckpointError) as caught:
            use(path)
        assert all(word in str(caught.value) for word in (str(path), *words)), caught.value
    assert type(fresh[0]) is nn.Linear


def refused_model(path, *words):
    """Only the model shows what is wrong."""
    verify(path)
    fresh = net()
    with pytest.raises(CheckpointError) as caught:
        load(path, fresh)
    assert all(word in str(caught.value) for word in (str(path), *words)), caught.value
    assert type(fresh[0]) is nn.Linear


def forge(path, change=None, tensors=None, checksums=True, header=True):
    """Rewrite a file with a changed document or changed tensors, and honest checksums."""
    with safe_open(path, "pt") as file:
        document = json.loads(file.metadata()["lloydmax"])
    held = {name: tensor.clone() for name, tensor in load_file(path).items()}
    for name, tensor in (tensors or {}).items():
        held.pop(name, None)
        if tensor is not None:
            held[name] = tensor
    names = sorted(held)
    if checksums:
        document["crc32"] = [f"{zlib.crc32(held[n].reshape(-1).view(torch.uint8).numpy().data):08x}" for n in names]
    if change is not None:
        document = change(document) or document
    if header and isinstance(document, dict):
        save_file(held, path)
        with safe_open(path, "pt") as file:
            table, end = [], 0
            for name in file.offset_keys():
                part = file.get_slice(name)
                table.append([name, part.get_dtype(), part.get_shape(), end])
                end += held[name].nbytes
        document.pop("header", None)
        signed = json.dumps([sorted(table), document], separators=(",", ":"), sort_keys=True)
        document["header"] = f"{zlib.crc32(signed.encode()):08x}"
    save_file(held, path, {"lloydmax": json.dumps(document, separators=(",", ":"), sort_keys=True)})


def raw(path, header, data=b""):
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


# Damage


def test_the_header_is_what_the_size_formula_says(small):
    data = small.read_bytes()
    assert reader.File(small).size == len(data)
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    assert list(header["__metadata__"]) == ["lloydmax"]
    document = json.loads(header["__metadata__"]["lloydmax"])
    assert document["parameters"] == {"0.weight": {"k": 5, "shape": [4, 3]}, "0.bias": {"k": 1, "shape": [4]}}
    assert header["0.weight.codes"]["shape"] == [5] and header["0.bias.codes"]["shape"] == [0]
    names = sorted(name for name in header if name != "__metadata__")
    assert len(document["crc32"]) == len(names) and "tied" not in document and "floats" not in document


def test_forging_changes_nothing_by_itself(small):
    before = small.read_bytes()
    forge(small)
    assert small.read_bytes() == before


def test_every_flipped_bit_is_found(tmp_path):
    small, done = tmp_path / "small", nn.Sequential(nn.Linear(3, 4))
    attach(done, "0.weight", Codebook(torch.arange(5.0), CODES))
    attach(done, "0.bias", Codebook(torch.tensor([0.5]), torch.zeros(4, dtype=torch.uint8)))
    save(done, small, {"lr": 1e-3})
    data = bytearray(small.read_bytes())
    missed = []
    for position in range(len(data)):
        for bit in range(8):
            data[position] ^= 1 << bit
            small.write_bytes(data)
            try:
                verify(small)
                missed.append((position, bit))
            except CheckpointError:
                pass
            data[position] ^= 1 << bit
    assert not missed


def test_every_truncation_and_extension_is_found(small):
    data = small.read_bytes()
    for length in range(len(data)):
        small.write_bytes(data[:length])
        with pytest.raises(CheckpointError):
            verify(small)
        if length % 50 == 0:
            refused(small)
    for more in (b"\0", b" ", data):
        small.write_bytes(data + more)
        refused(small)


@pytest.mark.parametrize("coding", ["packed", "entropy"])
def test_sampled_damage_to_a_larger_file(tmp_path, coding):
    def larger():
        return nn.Sequential(nn.Linear(200, 300), nn.Linear(300, 50))

    done = larger()
    codes = torch.randint(0, 7, (300, 200), generator=torch.Generator().manual_seed(0))
    codes = torch.where(codes == 6, codes, codes // 5).byte()
    attach(done, "0.weight", Codebook(torch.randn(7), codes))
    path = tmp_path / "a"
    save(done, path, storage={"codes": coding})
    assert inspect(path).parameters[0].coding == coding
    data, chance = path.read_bytes(), random.Random(0)
    for _ in range(300):
        broken = bytearray(data)
        broken[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(broken)
        with pytest.raises(CheckpointError):
            verify(path)
        with pytest.raises(CheckpointError):
            load(path, larger())


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_random_bytes_in_a_good_file(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    save(model(), path)
    content = bytearray(path.read_bytes())
    start = data.draw(st.integers(0, len(content) - 1))
    noise = data.draw(st.binary(min_size=1, max_size=40))
    if content[start : start + len(noise)] == noise:
        return
    content[start : start + len(noise)] = noise
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        verify(path)


# Not a file of this library


def test_missing_directories_and_devices(tmp_path):
    refused(tmp_path / "none", "No such file")
    refused(tmp_path, "is a directory")
    (tmp_path / "file").write_bytes(b"x")
    refused(tmp_path / "file" / "below", "Not a directory")
    refused(f"{tmp_path}/a\0b", "null")
    if os.name == "posix":
        os.mkfifo(tmp_path / "pipe")
        refused(tmp_path / "pipe", "no regular file")
        refused("/dev/zero", "no regular file")


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 7, b"\0" * 8, b"\xff" * 8, b"\xff" * 5000, pickle.dumps({"a": [1] * 99}), bytes(range(256)) * 9],
    ids=["empty", "short", "no-header", "huge-header", "ones", "pickle", "bytes"],
)
def test_files_of_another_kind(tmp_path, content):
    path = tmp_path / "a"
    path.write_bytes(content)
    refused(path)


def test_a_torch_checkpoint_and_a_foreign_safetensors(tmp_path):
    torch.save(net().state_dict(), tmp_path / "a.pt")
    refused(tmp_path / "a.pt", "safetensors")
    save_file(net().state_dict(), tmp_path / "b", {"format": "pt"})
    refused(tmp_path / "b", "no file of lloydmax's")
    save_file(net().state_dict(), tmp_path / "c")
    refused(tmp_path / "c", "no file of lloydmax's")


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":[' + b"[]," * 600_000 + b"1]}",
        b'{"a":[' + b"[]," * 5_000_000 + b"1]}",
        b'{"a":"' + b"x" * (1 << 24) + b'"}',
        b'{"a":"' + b"x" * (1 << 25) + b'"}',
        b'{"a":{"dtype":"F32","shape":[9223372036854775807,9223372036854775807],"data_offsets":[0,0]}}',
        b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,0]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}',
        b'{"a":{"dtype":"F99","shape":[0],"data_offsets":[0,0]}}',
    ],
    ids=["deep", "wide", "wider", "long", "longer", "overflow", "negative", "outside", "backwards", "dtype"],
)
def test_hostile_headers(tmp_path, header):
    raw(tmp_path / "a", header)
    refused(tmp_path / "a")


@pytest.mark.parametrize(
    "document",
    ["", "[" * 100_000, "1" * 100_000, "NaN", "null", "[]", '"x"', "{}", '{"format":1}', '{"format":true}', "\\u0000"],
)
def test_hostile_documents(tmp_path, document):
    raw(tmp_path / "a", json.dumps({"__metadata__": {"lloydmax": document}}).encode())
    refused(tmp_path / "a")


def test_a_document_of_many_escaped_brackets(tmp_path):
    raw(tmp_path / "a", b'{"__metadata__":{"lloydmax":"' + b"\\u005b\\u005d\\u002c" * 1_200_000 + b'"}}')
    refused(tmp_path / "a", "values")


def test_an_unknown_dtype_in_a_sound_file(tmp_path):
    header = {"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}, "__metadata__": {"lloydmax": "{}"}}
    raw(tmp_path / "a", json.dumps(header).encode(), b"x")
    refused(tmp_path / "a", "unknown dtype F4")


def test_a_newer_format(small):
    def newer(document):
        return {"format": 3, "anything": ["else"]}

    forge(small, newer)
    refused(small, "was written by a newer lloydmax; format 3, this version reads 1 to 2")


# Lies with honest checksums


def change(*path, to):
    def apply(document):
        at = document
        for key in path[:-1]:
            at = at.setdefault(key, {})
        if to is None:
            del at[path[-1]]
        else:
            at[path[-1]] = to

    return apply


WEIGHT = ("parameters", "0.weight")
HUGE = 10**18


@pytest.mark.parametrize(
    "lie",
    [
        change("format", to=0),
        change("format", to="1"),
        change("format", to=True),
        change("format", to=1.0),
        change("parameters", to=None),
        change("parameters", to=[]),
        change("surprise", to=1),
        change("torch", to=2),
        change("recipe", to=[]),
        change("crc32", to=None),
        change("crc32", to=[]),
        change("crc32", to="00000000" * 7),
        change("crc32", to=[0] * 9),
        change("crc32", to=["0000000G"] * 9),
        change("tied", to=["a"]),
        change("tied", to={"a": 1}),
        change("tied", to={"a": "a"}),
        change("tied", to={"a": "b", "b": "a"}),
        change("tied", to={"a": "nowhere"}),
        change("tied", to={"0.bias": "0.weight"}),
        change("tied", to={"a": "b", "b": "0.weight"}),
        change("tied", to={"a": "0.weight.codes"}),
        change("floats", to={"1.weight": "float32"}),
        change("floats", to={"1.weight": "float16"}),
        change("floats", to={"0.weight.codebook": "float32"}),
        change("floats", to={"nowhere": "float32"}),
        change(*WEIGHT, to=[]),
        change(*WEIGHT, "shape", to=None),
        change(*WEIGHT, "shape", to=[4, -3]),
        change(*WEIGHT, "shape", to=[4, 3, 0]),
        change(*WEIGHT, "shape", to=[4, 3.0]),
        change(*WEIGHT, "shape", to=[4, True]),
        change(*WEIGHT, "shape", to=[4, 4]),
        change(*WEIGHT, "shape", to=[HUGE]),
        change(*WEIGHT, "shape", to=[HUGE] * 64),
        change(*WEIGHT, "shape", to=[1] * 1000),
        change(*WEIGHT, "shape", to=[1 << 63]),
        change(*WEIGHT, "shape", to="43"),
        change(*WEIGHT, "k", to=0),
        change(*WEIGHT, "k", to=-5),
        change(*WEIGHT, "k", to=6),
        change(*WEIGHT, "k", to=5.0),
        change(*WEIGHT, "k", to=1 << 40),
        change(*WEIGHT, "k", to="5"),
        change(*WEIGHT, "dtype", to="float64"),
        change(*WEIGHT, "dtype", to=["float32"]),
        change(*WEIGHT, "granularity", to="channel"),
        change(*WEIGHT, "granularity", to="group:0"),
        change(*WEIGHT, "granularity", to="group:" + "9" * 50),
        change(*WEIGHT, "granularity", to=["tensor"]),
        change(*WEIGHT, "granularity", to=3),
        change(*WEIGHT, "axis", to=2),
        change(*WEIGHT, "axis", to=-1),
        change(*WEIGHT, "axis", to=0.0),
        change(*WEIGHT, "coding", to="zip"),
        change(*WEIGHT, "coding", to={}),
        change(*WEIGHT, "extra", to=1),
        change("parameters", "0", to={"shape": [1], "k": 1}),
        change("parameters", "1.weight", to={"shape": [4], "k": 1}),
    ],
)
def test_lies_in_the_document(small, lie):
    forge(small, lie)
    refused(small)


def test_a_codebook_that_the_document_forgets(small):
    forge(small, change(*WEIGHT, to=None))
    refused_model(small, "the file lacks 0.weight", "the model lacks 0.weight.codebook, 0.weight.codes")


def test_a_document_that_is_not_canonical(small):
    with safe_open(small, "pt") as file:
        text = file.metadata()["lloydmax"]
    for other in (text.replace(":", ": ", 1), text.replace('"k":5', '"k":5,"k":5'), text.replace("0.001", "0.0010")):
        assert other != text
        held = {name: tensor.clone() for name, tensor in load_file(small).items()}
        save_file(held, small, {"lloydmax": other})
        refused(small, "checksum")


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("0.weight.codebook", None),
        ("0.weight.codes", None),
        ("0.weight.codebook", torch.zeros(4)),
        ("0.weight.codebook", torch.zeros(1, 5)),
        ("0.weight.codebook", torch.zeros(5, dtype=torch.float64)),
        ("0.weight.codebook", torch.zeros(5, dtype=torch.bfloat16)),
        ("0.weight.codes", torch.zeros(4, dtype=torch.uint8)),
        ("0.weight.codes", torch.zeros(6, dtype=torch.uint8)),
        ("0.weight.codes", torch.zeros(5, dtype=torch.int8)),
        ("0.weight.codes", torch.zeros(1, 5, dtype=torch.uint8)),
        ("0.bias.codes", torch.zeros(1, dtype=torch.uint8)),
        ("0.weight", torch.zeros(4, 3)),
    ],
)
def test_tensors_that_contradict_the_document(small, name, tensor):
    forge(small, tensors={name: tensor})
    refused(small)


def test_wrong_checksum(small):
    forge(small, tensors={"1.weight": torch.full((4,), 2.0)}, checksums=False)
    refused_data(small, "'1.weight'", "checksum")
    forge(small, tensors={"0.weight.codes": torch.zeros(5, dtype=torch.uint8)}, checksums=False)
    refused_data(small, "checksum")


def test_codes_out_of_range(small):
    forge(small, tensors={"0.weight.codes": torch.full((5,), 255, dtype=torch.uint8)})
    refused_data(small, "'0.weight'", "code 7 in a codebook of 5")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_centroids_that_are_not_finite(small, value):
    forge(small, tensors={"0.weight.codebook": torch.tensor([0, 1, 2, 3, value])})
    refused_data(small, "'0.weight' has NaN or infinite")


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        b"\0",
        b"\x03\x00",
        b"\xff" * 20,
        entropy_encode(CODES, 3) + b"\0",
        entropy_encode(CODES, 3)[:-1],
        entropy_encode(CODES[:2], 3),
        entropy_encode(CODES.repeat(2, 1), 3),
        entropy_encode(torch.full((4, 3), 7, dtype=torch.uint8), 3),
        zlib.compress(b"\0" * 6, wbits=15),
        zlib.compress(b"\0" * (1 << 24), 9, wbits=-15),
    ],
)
def test_entropy_coded_lies(small, stream):
    forge(
        small,
        change(*WEIGHT, "coding", to="entropy"),
        {"0.weight.codes": torch.tensor(list(stream), dtype=torch.uint8)},
    )
    refused_data(small, "'0.weight'")


def test_an_honest_entropy_coded_forgery_is_accepted(small):
    stream = torch.tensor(list(entropy_encode(CODES, 3)), dtype=torch.uint8)
    forge(small, change(*WEIGHT, "coding", to="entropy"), {"0.weight.codes": stream})
    verify(small)
    assert torch.equal(load(small, net())[0].weight, CODES.float())


@pytest.mark.parametrize("shape", [[HUGE], [1 << 40, 1 << 40], [HUGE] * 64])
def test_nothing_of_a_claimed_size_is_allocated(small, shape):
    forge(small, change("parameters", "0.bias", "shape", to=shape))
    tracemalloc.start()
    try:
        for look in (inspect, verify):
            found = {item.name: item for item in look(small).parameters}
            assert list(found["0.bias"].shape) == shape
        with pytest.raises(CheckpointError, match="0.bias is"):
            load(small, net())
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
    finally:
        tracemalloc.stop()


def test_a_claimed_size_behind_an_entropy_bomb(small):
    bomb = torch.tensor(list(zlib.compress(b"\0" * (1 << 26), 9, wbits=-15)), dtype=torch.uint8)

    def lie(document):
        document["parameters"]["0.weight"] |= {"coding": "entropy", "shape": [1 << 27]}

    forge(small, lie, {"0.weight.codes": bomb})
    with pytest.raises(CheckpointError, match="cannot hold"):
        verify(small)
    with pytest.raises(CheckpointError, match="in the model"):
        load(small, net())


def test_long_names_do_not_flood_the_message(small):
    forge(small, change("tied", to={"a" * 100_000: "nowhere"}))
    refused(small)


def test_the_writer_refuses_what_the_reader_would(tmp_path):
    done = model(torch.zeros(4, 3, dtype=torch.uint8), 3)
    done[0].parametrizations.weight[0].granularity = "sometimes"
    with pytest.raises(CheckpointError, match=r"'0.weight' cannot be stored: granularity"):
        save(done, tmp_path / "a")
