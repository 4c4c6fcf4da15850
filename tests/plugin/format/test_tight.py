"""The tight layout: what it holds comes back, and damaged and hostile files are refused."""

from __future__ import annotations

import json
import random
import zlib
from pathlib import Path

import pytest
import torch
from forging import refused
from lloydmax.checkpoint import inspect, load, round_floats, save, verify
from lloydmax.codebook.codebook import Codebook
from lloydmax.format import tight
from lloydmax.student.attachment import attach
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

STORAGE = {"floats": "fixed", "codes": "arithmetic", "layout": "tight"}
CODES = torch.tensor([0, 1, 1, 1, 2, 1, 1, 4] * 12, dtype=torch.uint8).view(12, 8)


def net():
    return nn.Sequential(nn.Linear(8, 12), nn.BatchNorm1d(12))


@pytest.fixture
def small(tmp_path):
    torch.manual_seed(0)
    model = net()
    nn.init.normal_(model[1].weight)
    attach(model, "0.weight", Codebook(torch.arange(5.0), CODES))
    round_floats(model, STORAGE)
    path = tmp_path / "small"
    save(model, path, {"lr": 1e-3}, STORAGE)
    return path


def test_what_is_stored_comes_back(small):
    found = inspect(small)
    assert found.format == 3 and found.storage == STORAGE
    assert [(item.coding, item.bytes) for item in found.parameters] == [("arithmetic", 10 + 10)]
    assert {item.name: item.stored for item in found.tensors if item.bytes > 4} == {
        "0.bias": "steps",
        "1.weight": "steps",
    }
    assert sum(item.bytes for item in (*found.parameters, *found.tensors)) + found.overhead == small.stat().st_size
    loaded = load(small, net())
    save(loaded, small.with_name("again"))
    assert small.with_name("again").read_bytes() == small.read_bytes()
    held = {"0.bias": loaded[0].bias, "1.weight": loaded[1].weight}
    assert all(float((value * 2**9).frac().abs().max()) == 0 for value in held.values())


def test_flipped_bits_and_truncations_are_found(small):
    data, chance = small.read_bytes(), random.Random(0)
    start = 8 + int.from_bytes(data[:8], "little")
    assert len(data) < 600
    for position in (*range(0, start, 9), *range(start, len(data), 2)):
        broken = bytearray(data)
        broken[position] ^= 1 << chance.randrange(8)
        for content in (broken, data[:position]):
            small.write_bytes(content)
            with pytest.raises(Exception, match=str(small)):
                verify(small)


def forge(path, change=None, document=None, data=None):
    """Rewrite a tight file with a changed document or other bytes of tensors, and honest checksums."""
    raw = load_file(path)["data"].numpy()
    text, held = tight.opened(raw, 1 << 20)
    value = json.loads(text)
    if change is not None:
        value = change(value) or value
    packed = tight.deflate(json.dumps(value, separators=(",", ":"), sort_keys=True)) if document is None else document
    held = bytes(held[:-4]) if data is None else data(bytes(held[:-4]))
    head = len(packed).to_bytes(4, "little") + zlib.crc32(packed).to_bytes(4, "little") + packed
    made = head + held + zlib.crc32(held).to_bytes(4, "little")
    save_file({"data": torch.tensor(list(made), dtype=torch.uint8)}, path, {"lloydmax": tight.LABEL})


def test_forging_changes_nothing_by_itself(small):
    before = small.read_bytes()
    forge(small)
    assert small.read_bytes() == before
    with safe_open(small, "pt") as file:
        assert file.metadata() == {"lloydmax": '{"format":3}'}


def of(*path, to):
    def change(document):
        at = document
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = to

    return change


WEIGHT = ("parameters", "0.weight")


@pytest.mark.parametrize(
    "lie",
    [
        lambda document: document.pop("tensors"),
        lambda document: document.pop("parameters"),
        lambda document: document["tensors"].pop(),
        lambda document: document["tensors"].reverse(),
        lambda document: document["tensors"].append(["z", "F32", [1 << 17], "steps"]),
        lambda document: document["tensors"].append(["0.weight.codes", "U8", [3]]),
        lambda document: [1],
        of("format", to=2),
        of("crc32", to=[]),
        of("parameters", to=[]),
        of(*WEIGHT, to=[]),
        of(*WEIGHT, "codes", to=-1),
        of(*WEIGHT, "codes", to=None),
        of(*WEIGHT, "codes", to=1 << 62),
        of(*WEIGHT, "codes", to=18),
        of(*WEIGHT, "coding", to="packed"),
        of(*WEIGHT, "codebook", to="F32"),
        of(*WEIGHT, "codebook", to="steps"),
        of(*WEIGHT, "codebook", to=["F16"]),
        of(*WEIGHT, "codebook", to="I8"),
        of(*WEIGHT, "shape", to=[1 << 40, 8]),
        of("tensors", 0, 3, to="stairs"),
        of("tensors", 0, 1, to="I32"),
        of("tensors", 0, 2, to=[7]),
        of("tensors", 0, to=["0.bias", "F32", [12], "steps", "steps"]),
    ],
)
def test_lies_in_the_document(small, lie):
    forge(small, lie)
    with pytest.raises(Exception, match=str(small)) as caught:
        verify(small)
    assert "\n" not in str(caught.value) and type(caught.value).__name__ == "CheckpointError"


@pytest.mark.parametrize(
    "document",
    [b"", b"\0", b"\xff" * 50, zlib.compress(b"{}", wbits=15), tight.deflate("{}") + b"\0", tight.deflate("{}")],
)
def test_broken_documents(small, document):
    forge(small, document=document)
    refused(small, fresh=net())


@pytest.mark.parametrize(("text", "words"), [(" " * (1 << 25), "more than"), ("[" * 3_000_000, "values")])
def test_documents_that_are_bombs(small, text, words):
    forge(small, document=tight.deflate(text))
    refused(small, words, fresh=net())


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (lambda held: held + b"\1" * 8, "bytes follow"),
        (lambda held: held[:37] + b"\xff" * (len(held) - 37), "numbers"),
        (lambda held: held[:9], "take"),
    ],
)
def test_data_that_are_not_what_was_written(small, data, words):
    forge(small, data=data)
    with pytest.raises(Exception, match=words):
        verify(small)


def test_another_array_is_refused(small):
    for tensors in ({"data": torch.zeros(3, dtype=torch.uint8)}, {"data": torch.zeros(30)}, {"other": torch.zeros(3)}):
        save_file(tensors, small, {"lloydmax": tight.LABEL})
        refused(small, fresh=net())


def test_ties_of_tight_files_are_compared(small):
    class Shared(nn.Module):
        def __init__(self, same):
            super().__init__()
            self.first, self.second = nn.Linear(8, 12), nn.Linear(8, 12)
            if same:
                self.second.weight = self.first.weight

    torch.manual_seed(0)
    for equal in (True, False):
        model = Shared(False)
        for name, codes in (("first.weight", CODES), ("second.weight", CODES if equal else CODES.roll(1, 1))):
            attach(model, name, Codebook(torch.arange(5.0), codes.clone()))
        save(model, small, None, STORAGE)
        if equal:
            load(small, Shared(True))
        else:
            with pytest.raises(Exception, match="differ in the file"):
                load(small, Shared(True))


def test_the_specification_has_the_preset_dictionary():
    page = (Path(__file__).parents[3] / "plugin/lloydmax/format/README.md").read_text(encoding="utf-8")
    block = page.partition("test_tight.py -->\n```\n")[2].partition("\n```")[0]
    assert block.replace("\n", "") == tight.SHARED
