"""Save and load: same outputs, same bytes."""

import copy
import os
import pickle

import lloydmax
import pytest
import torch
from coded import SMALL, STORAGES, book, compressed, parameters
from conftest import SmallNet
from lloydmax import checkpoint
from lloydmax.checkpoint import accountings, load, predicted_size, save
from lloydmax.errors import CheckpointError
from lloydmax.student.attachment import attach, codebooks, finish
from safetensors.torch import load_file
from torch import nn


@pytest.fixture
def saved(small_net, tmp_path):
    path = tmp_path / "small.safetensors"
    save(compressed(small_net, SMALL), path)
    return path


@pytest.mark.parametrize("storage", STORAGES, ids=lambda s: f"{s['floats']}-{s['codes']}")
def test_round_trip_gives_the_same_outputs_and_the_same_bytes(small_net, pictures, tmp_path, storage):
    model = compressed(small_net, SMALL, storage, skew=6)
    recipe = {"version": 1, "name": "tést", "seed": 2**60, "rates": [1e-3, 0.1 + 0.2]}
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    size = save(model, first, recipe, storage)
    assert size == first.stat().st_size == accountings(model, recipe, storage).file
    fresh = SmallNet().eval()
    loaded = load(first, fresh)
    assert loaded is fresh
    assert torch.equal(loaded(pictures), model(pictures))
    assert loaded._lloydmax == {"recipe": recipe, "storage": storage}
    save(loaded, second)
    assert first.read_bytes() == second.read_bytes()
    for name, found in codebooks(loaded).items():
        wanted = codebooks(model)[name]
        assert torch.equal(found.codes, wanted.codes) and found.codes.dtype == wanted.codes.dtype
        assert torch.equal(found.centroids, wanted.centroids) and found.centroids.dtype == wanted.centroids.dtype
        assert (found.granularity, found.axis) == (wanted.granularity, wanted.axis)
    assert checkpoint.verify(first).recipe == recipe


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("floats", ["float32", "float16"])
def test_half_models(dtype, floats, tmp_path):
    model = compressed(SmallNet().to(dtype), SMALL)
    path = tmp_path / "half.safetensors"
    size = save(model, path, storage={"floats": floats})
    loaded = load(path, SmallNet().to(dtype).eval())
    x = torch.randn(2, 3, 12, 12).to(dtype)
    assert torch.equal(loaded(x), model(x))
    stored = load_file(path)["stem.weight.codebook"].dtype
    assert stored == (torch.float32 if dtype == torch.bfloat16 else torch.float16)
    assert predicted_size(SmallNet().to(dtype), parameters(model, SMALL), None, {"floats": floats}) == size
    with pytest.raises(CheckpointError, match=r"call model.to\(torch.\w*float16\)"):
        load(path, SmallNet())


def test_a_single_module_is_replaced(tmp_path):
    linear = compressed(nn.Linear(5, 3), {"weight": (4, "tensor"), "bias": (2, "tensor")})
    save(linear, tmp_path / "a.safetensors")
    loaded = load(tmp_path / "a.safetensors", nn.Linear(5, 3))
    x = torch.randn(2, 5)
    assert torch.equal(loaded(x), linear(x)) and loaded._lloydmax["recipe"] is None


def test_training_and_finished_models_give_the_same_file(small_net, tmp_path):
    save(compressed(small_net, SMALL, finished=False), tmp_path / "a")
    save(compressed(small_net, SMALL), tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_transposed_convolutions_keep_their_axis(tmp_path):
    model = nn.Sequential(nn.ConvTranspose2d(3, 4, 2))
    attach(model, "0.weight", book(model[0].weight, 3, "channel", axis=1))
    model = finish(model)
    save(model, tmp_path / "a.safetensors")
    loaded = load(tmp_path / "a.safetensors", nn.Sequential(nn.ConvTranspose2d(3, 4, 2)))
    x = torch.randn(1, 3, 4, 4)
    assert torch.equal(loaded(x), model(x)) and codebooks(loaded)["0.weight"].axis == 1


def test_parametrized_architectures_keep_their_names(tmp_path):
    def net():
        return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 4)), nn.Linear(4, 2))

    name = "0.parametrizations.weight.original1"
    model = compressed(net(), {"1.weight": (2, "tensor"), name: (3, "tensor")})
    save(model, tmp_path / "a.safetensors")
    loaded = load(tmp_path / "a.safetensors", net())
    x = torch.randn(3, 6)
    assert torch.equal(loaded(x), model(x)) and name in codebooks(loaded)


def test_buffers_flags_and_modes(small_net, tmp_path):
    class Net(SmallNet):
        def __init__(self):
            super().__init__()
            self.register_buffer("steps", torch.tensor([1, 2, 3], dtype=torch.int16))
            self.register_buffer("mask", torch.tensor([True, False]))
            self.register_buffer("fleeting", torch.ones(2), persistent=False)
            self.register_buffer("wave", torch.ones(2, dtype=torch.complex64))
            self.register_buffer("empty", torch.ones(0, 3))

    model = Net()
    with torch.no_grad():
        model.steps.mul_(7), model.fleeting.mul_(7), model.wave.mul_(1j), model.mask.logical_not_()
    path = tmp_path / "a.safetensors"
    save(compressed(model, SMALL), path)
    assert not any("fleeting" in name for name in load_file(path))
    fresh = Net()
    fresh.bn1.weight.requires_grad_(False)
    loaded = load(path, fresh)
    assert loaded.steps.tolist() == [7, 14, 21] and loaded.fleeting.tolist() == [1, 1]
    assert loaded.wave.tolist() == [1j, 1j] and loaded.mask.tolist() == [False, True]
    assert not loaded.training and not loaded.bn1.weight.requires_grad and loaded.bn1.bias.requires_grad


def test_memory_format_of_the_original_stays(tmp_path, small_net, pictures):
    save(compressed(small_net, {"stem.weight": (4, "tensor")}), tmp_path / "a.safetensors")
    loaded = load(tmp_path / "a.safetensors", SmallNet().to(memory_format=torch.channels_last).eval())
    assert loaded.padded.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(loaded(pictures), compressed(small_net, {"stem.weight": (4, "tensor")})(pictures), atol=1e-5)


def test_what_a_model_remembers_survives_copies(small_net, tmp_path):
    model = compressed(small_net, {"stem.weight": (4, "tensor")})
    model._lloydmax = {"recipe": {"name": "kept"}, "storage": {"codes": "entropy"}}
    for number, copied in enumerate((copy.deepcopy(model), pickle.loads(pickle.dumps(model)))):
        save(copied, tmp_path / str(number))
        assert checkpoint.inspect(tmp_path / str(number)).recipe == {"name": "kept"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_devices(small_net, saved, tmp_path, pictures):
    loaded = load(saved, SmallNet().cuda().eval())
    assert {tensor.device.type for tensor in loaded.state_dict().values()} == {"cuda"}
    assert torch.allclose(loaded(pictures.cuda()).cpu(), load(saved, SmallNet().eval())(pictures), atol=1e-3)
    save(loaded, tmp_path / "again")
    assert saved.read_bytes() == (tmp_path / "again").read_bytes()


def test_a_symlink_is_followed(small_net, saved, tmp_path):
    link = tmp_path / "link.safetensors"
    link.symlink_to(saved)
    load(link, SmallNet())
    save(compressed(small_net, {"stem.weight": (2, "tensor")}), link)
    assert link.is_symlink() and len(checkpoint.inspect(saved).parameters) == 1


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
def test_the_file_has_ordinary_permissions(small_net, tmp_path):
    umask = os.umask(0o027)
    try:
        save(compressed(small_net, SMALL), tmp_path / "a")
    finally:
        os.umask(umask)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


class Strict(nn.Module):
    """Takes no new attribute once it is made."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 4)
        self.fixed = True

    def __setattr__(self, name, value):
        if "fixed" in vars(self) and not hasattr(self, name):
            raise AttributeError(f"attributes are fixed, {name} is not one")
        super().__setattr__(name, value)

    def forward(self, x):
        return self.linear(x)


def test_a_model_that_refuses_new_attributes(tmp_path):
    recipe = {"quantize": [{"layers": "all", "centroids": 4}]}
    result = lloydmax.compress(Strict().eval(), recipe, progress=False)
    result.save(tmp_path / "strict.safetensors")
    loaded, x = load(tmp_path / "strict.safetensors", Strict()), torch.randn(3, 8)
    assert torch.equal(loaded(x), result.model(x)) and torch.equal(copy.deepcopy(loaded)(x), loaded(x))
    assert copy.deepcopy(loaded)._lloydmax["recipe"]["quantize"] == recipe["quantize"]
