"""Sizes: predicted, accounted for, and those of the files."""

import gzip
import pickle

import pytest
import torch
from coded import SMALL, STORAGES, TEXT, compressed, parameters
from lloydmax import checkpoint
from lloydmax.checkpoint import accountings, load, predicted_size, save
from lloydmax.codebook.layout import Layout
from lloydmax.errors import CheckpointError
from lloydmax.format import sizes as sizes_module
from lloydmax.format.record import ParameterRecord
from lloydmax.format.tensor_table import DTYPES
from lloydmax.student.attachment import codebooks
from torch import nn


@pytest.mark.parametrize("storage", STORAGES, ids=lambda s: f"{s['floats']}-{s['codes']}")
def test_sizes_are_those_of_the_files(small_net, tmp_path, storage):
    recipe = {"name": 'qu"ote\\é☃'}
    model = compressed(small_net, SMALL, storage, skew=8)
    sizes = accountings(model, recipe, storage)
    packed = save(model, tmp_path / "a", recipe, {**storage, "codes": "packed"})
    entropy = save(model, tmp_path / "b", recipe, {**storage, "codes": "entropy"})
    assert (sizes.packed, sizes.entropy_coded) == (packed, entropy)
    assert entropy < packed
    assert sizes.file == (entropy if storage["codes"] == "entropy" else packed)
    assert sizes.original == sum(t.nbytes for t in small_net.state_dict().values())
    assert predicted_size(small_net, parameters(model, SMALL), recipe, storage) == packed
    found = checkpoint.inspect(tmp_path / "b")
    assert found.original == sizes.original and found.bytes == entropy
    assert {item.coding for item in found.parameters} == {"packed", "entropy"}
    assert 0 < found.overhead < found.bytes


@pytest.mark.parametrize("storage", STORAGES, ids=lambda s: f"{s['floats']}-{s['codes']}")
def test_what_is_known_of_floats_is_asked_once(small_net, storage, monkeypatch):
    known = {}
    for centroids in (2, 8, 16):
        rules = {name: (centroids, granularity) for name, (_, granularity) in SMALL.items()}
        wanted = parameters(compressed(small_net, rules, storage), rules)
        asked = predicted_size(small_net, wanted, None, storage)
        assert predicted_size(small_net, wanted, None, storage, known=known) == asked
        monkeypatch.setattr(sizes_module, "_uncompressed", None)  # is not asked again
        assert predicted_size(small_net, wanted, None, storage, known=known) == asked
        monkeypatch.undo()
    assert known.keys() == small_net.state_dict().keys() - SMALL.keys()


def test_predicted_size_with_ties(text_net, tmp_path):
    model = compressed(text_net, TEXT)
    wanted = parameters(model, TEXT)
    wanted["out.weight"] = wanted.pop("embed.weight")
    assert predicted_size(text_net, wanted) == save(model, tmp_path / "a")
    with pytest.raises(CheckpointError, match="no parameter 'nowhere'"):
        predicted_size(text_net, {"nowhere": ParameterRecord(Layout((1,), 2))})


def test_gzip_counts_the_dense_float32_tensors(monkeypatch):
    model = compressed(nn.Sequential(nn.Linear(300, 50)).half(), {"0.weight": (4, "tensor")})
    dense = (codebooks(model)["0.weight"].dequantize(), model[0].bias.detach())
    raw = b"".join(tensor.float().numpy().tobytes() for tensor in dense)
    whole = accountings(model).gzip_float32
    assert abs(whole - len(gzip.compress(raw, 6))) < 20
    monkeypatch.setattr("lloydmax.format.sizes._GZIP_BLOCK", 10_007)
    assert whole < accountings(model).gzip_float32 < 1.2 * whole


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_keeps_its_place_and_size(dtype, tmp_path):
    model = nn.Sequential(nn.Linear(2, 3))
    for other in (torch.int64, torch.bool, torch.bfloat16):
        model.register_buffer(f"a_{str(other)[6:]}", torch.zeros(3, dtype=torch.uint8).to(other))
    model.register_buffer("odd", torch.zeros(dtype.itemsize * 3, dtype=torch.uint8).view(dtype))
    done = compressed(model, {"0.weight": (2, "tensor")})
    assert save(done, tmp_path / "a") == accountings(done).packed
    checkpoint.verify(tmp_path / "a")
    load(tmp_path / "a", model)


@pytest.mark.parametrize("block", [64, 100, 1 << 20])
def test_what_gzip_compresses_is_all_of_it_in_blocks(block, monkeypatch):
    monkeypatch.setattr(sizes_module, "_GZIP_BLOCK", block)
    values = [torch.arange(float(n)) for n in (3, 100, 16, 1)]
    parts = [bytes(part) for part in sizes_module._dense_blocks(values)]
    assert b"".join(parts) == b"".join(value.numpy().tobytes() for value in values)
    assert {len(part) for part in parts[:-1]} <= {block} and 0 < len(parts[-1]) <= block
    assert sizes_module._gzip_size(values) == sum(len(gzip.compress(part, 6)) for part in parts)


def test_sizes_are_pickled_without_the_weights(small_net):
    sizes = accountings(compressed(small_net, SMALL), {})
    again = pickle.loads(pickle.dumps(sizes))
    assert again == sizes and again.to_dict() == sizes.to_dict() and again.dense is None
    assert len(pickle.dumps(sizes)) < 1000
