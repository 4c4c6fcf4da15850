"""Lies with honest checksums: always a CheckpointError with path and reason, and an untouched model."""

import tracemalloc
import zlib

import pytest
import torch
from forging import CODES, change, forge, model, net, refused, refused_data, refused_model
from lloydmax.checkpoint import inspect, load, save, verify
from lloydmax.errors import CheckpointError
from lloydmax.format.packing import entropy_encode
from safetensors import safe_open
from safetensors.torch import load_file, save_file


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.safetensors"
    save(model(), path, {"name": "x", "lr": 1e-3})
    return path


def test_forging_changes_nothing_by_itself(small):
    before = small.read_bytes()
    forge(small)
    assert small.read_bytes() == before


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
        *(
            change("activations", to=point)
            for point in ({}, "x", [[1.0]], [[1, 0]], [[0.0, 0]], [[-1.0, 0]], [[1e999, 0]])
        ),
        change("lloydmax", to=1),
        change("torch", to=None),
        change("torch", to=2.0),
        change(*WEIGHT, "unheard_of", to=1),
        *(change("activations", to=[[1.0, zero]]) for zero in (-1, 256, 0.0, True, "0")),
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
        change("parameters", "0.bias", "shape", to=[1 << 40, 1 << 40]),
        change("parameters", "0.bias", "shape", to=[HUGE] * 64),
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


@pytest.mark.parametrize("shape", [[HUGE], [1 << 30, 1 << 29], [1 << 20, *[1] * 62, 3]])
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
    with pytest.raises(CheckpointError, match=r"'0.weight' cannot be stored: unknown dtype"):
        save(done.double(), tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("lie", [{"even": True}, {"dtype": "float16"}, {"dtype": "bfloat16"}])
def test_integers_are_for_free_float32_centroids(small, lie):
    forge(small, lambda document: document["parameters"]["0.weight"].update({"int8": True, **lie}))
    refused(small, "int8 is for free float32 centroids")
