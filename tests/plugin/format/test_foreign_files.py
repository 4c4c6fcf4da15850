"""Files of another kind, hostile headers and documents: a CheckpointError with path and reason."""

import json
import os
import pickle
import struct

import pytest
import torch
from forging import forge, model, net, refused
from lloydmax.checkpoint import save
from safetensors.torch import save_file


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.safetensors"
    save(model(), path, {"name": "x", "lr": 1e-3})
    return path


def raw(path, header, data=b""):
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def test_missing_directories_and_devices(tmp_path):
    refused(tmp_path / "none", "No such file")
    refused(tmp_path, "is a directory without lloydmax.safetensors: name a compressed file")
    (tmp_path / "file").write_bytes(b"x")
    refused(tmp_path / "file" / "below", "Not a directory")
    refused(f"{tmp_path}/a\0b", "null")
    if os.name == "posix":
        os.mkfifo(tmp_path / "pipe")
        refused(tmp_path / "pipe", "not a regular file")
        refused("/dev/zero", "not a regular file")


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
    refused(tmp_path / "b", "not a file of lloydmax's")
    save_file(net().state_dict(), tmp_path / "c")
    refused(tmp_path / "c", "not a file of lloydmax's")


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
    raw(tmp_path / "a", b'{"__metadata__":{"lloydmax":"' + b"\\u005b\\u005d\\u002c" * 100_000 + b'"}}')
    refused(tmp_path / "a", "values")


def test_an_unknown_dtype_in_a_sound_file(tmp_path):
    header = {"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}, "__metadata__": {"lloydmax": "{}"}}
    raw(tmp_path / "a", json.dumps(header).encode(), b"x")
    refused(tmp_path / "a", "unknown dtype F4")


def test_a_newer_format(small):
    def newer(document):
        return {"format": 4, "anything": ["else"]}

    forge(small, newer)
    refused(small, "was written by a newer lloydmax; format 4, this version reads 1 to 3")
