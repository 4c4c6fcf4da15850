"""Damaged files: every flipped bit and every truncation is found, and the model stays as it was."""

import json
import random
import struct

import pytest
import torch
from forging import CODES, model, refused
from hypothesis import given, settings
from hypothesis import strategies as st
from lloydmax.checkpoint import inspect, load, save, verify
from lloydmax.codebook.codebook import Codebook
from lloydmax.errors import CheckpointError
from lloydmax.format import reader
from lloydmax.student.attachment import attach
from torch import nn


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.safetensors"
    save(model(), path, {"name": "x", "lr": 1e-3})
    return path


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
