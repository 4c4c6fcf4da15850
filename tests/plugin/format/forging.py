"""A small file, rewritten with lies and honest checksums, and what must refuse it."""

import json
import pickle
import zlib

import pytest
import torch
from lloydmax.checkpoint import inspect, load, verify
from lloydmax.codebook.codebook import Codebook
from lloydmax.errors import CheckpointError
from lloydmax.student.attachment import attach
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


def refused(path, *words, fresh=None):
    """Every entry point refuses the file; ``fresh`` is not changed."""
    fresh = fresh or net()
    before = pickle.dumps(fresh.state_dict())
    for use in (inspect, verify, lambda path: load(path, fresh)):
        with pytest.raises(CheckpointError) as caught:
            use(path)
        assert str(caught.value).startswith(f"{path}: ".replace("\0", r"\x00"))
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
