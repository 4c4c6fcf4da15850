"""Save and load: same outputs, same bytes, exact sizes, and clear refusals."""

import copy
import dataclasses
import gzip
import os
import pickle
import subprocess
import sys

import pytest
import torch
from conftest import SmallNet, TextNet
from lloydmax import checkpoint
from lloydmax.checkpoint import Parameter, accountings, contents, fits, load, predicted_size, round_floats, save
from lloydmax.codebook.codebook import Codebook
from lloydmax.codebook.layout import code_dtype, codebook_count
from lloydmax.errors import CheckpointError
from lloydmax.format.entries import DTYPES
from lloydmax.student.codebooks import attach, codebooks, finish
from safetensors.torch import load_file
from torch import nn

SMALL = {
    "stem.weight": (5, "tensor"),
    "depthwise.weight": (4, "channel"),
    "depthwise.bias": (1, "tensor"),
    "padded.weight": (300, "group:3"),
    "head.0.weight": (16, "tensor"),
}
TEXT = {
    "embed.weight": (16, "tensor"),
    "attention.in_proj_weight": (7, "group:16"),
    "attention.out_proj.weight": (8, "tensor"),
    "lstm.weight_ih_l0": (4, "tensor"),
}
STORAGES = [
    {"floats": floats, "codes": codes}
    for floats in ("float32", "float16", "bfloat16")
    for codes in ("packed", "entropy")
]
TOKENS = torch.arange(30).view(2, 15)


def book(weight, k, granularity="tensor", axis=0, skew=1.0):
    generator = torch.Generator().manual_seed(weight.numel())
    count = codebook_count(weight.shape, granularity, axis)
    shape = (k,) if granularity == "tensor" else (count, k)
    centroids = torch.randn(shape, generator=generator).sort(-1).values.to(weight.dtype) / 4
    codes = (torch.rand(weight.shape, generator=generator) ** skew * k).to(code_dtype(k))
    return Codebook(centroids, codes, granularity, axis)


def compressed(model, books, storage=None, finished=True, skew=1.0):
    model = copy.deepcopy(model)
    for name, (k, granularity) in books.items():
        attach(model, name, book(model.get_parameter(name), k, granularity, skew=skew))
    model = finish(model) if finished else model
    round_floats(model, storage)
    return model.eval()


@pytest.fixture
def saved(small_net, tmp_path):
    path = tmp_path / "small.safetensors"
    save(compressed(small_net, SMALL), path)
    return path


# Round trips


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


def test_ties_attention_and_recurrence(text_net, tmp_path):
    model = compressed(text_net, TEXT)
    path = tmp_path / "text.safetensors"
    save(model, path)
    assert checkpoint.inspect(path).tied == {"out.weight": "embed.weight"}
    loaded = load(path, TextNet().eval())
    assert torch.equal(loaded(TOKENS), model(TOKENS))
    assert contents(loaded)[1] == {"out.weight": "embed.weight"}
    save(loaded, tmp_path / "again.safetensors")
    assert path.read_bytes() == (tmp_path / "again.safetensors").read_bytes()


def test_ties_of_uncompressed_parameters_and_of_whole_modules(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
            self.b.bias = self.a.bias
            self.again = self.c

        def forward(self, x):
            return self.again(self.b(self.c(self.a(x))))

    model = compressed(Net(), {"a.weight": (4, "tensor"), "c.weight": (3, "tensor")})
    path = tmp_path / "net.safetensors"
    save(model, path)
    found = checkpoint.inspect(path)
    ties = {"b.bias": "a.bias", "again.weight": "c.weight", "again.bias": "c.bias"}
    assert found.tied == ties and [item.name for item in found.tensors] == ["a.bias", "b.weight", "c.bias"]
    loaded = load(path, Net())
    x = torch.randn(5, 6)
    assert torch.equal(loaded(x), model(x)) and contents(loaded)[1] == ties


def test_a_tie_between_a_module_that_is_replaced_and_one_that_is_not(tmp_path):
    class Own(nn.Linear):
        def forward(self, x):
            return super().forward(x) + 1

    def net():
        model = nn.Sequential(nn.Linear(4, 4), Own(4, 4))
        model[1].weight = model[0].weight
        return model

    model = compressed(net(), {"0.weight": (3, "tensor")})
    save(model, tmp_path / "a.safetensors")
    assert checkpoint.inspect(tmp_path / "a.safetensors").tied == {"1.weight": "0.weight"}
    apart = copy.deepcopy(model)
    apart[1].parametrizations.weight[0].codes = apart[1].parametrizations.weight[0].codes.clone()
    save(apart, tmp_path / "b.safetensors")
    assert checkpoint.inspect(tmp_path / "b.safetensors").tied == {}
    x = torch.randn(5, 4)
    for name in ("a", "b"):
        assert torch.equal(load(tmp_path / f"{name}.safetensors", net())(x), model(x))


def test_a_file_with_ties_loads_into_a_model_without(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight, model[1].bias = model[0].weight, model[0].bias
    model = compressed(model, {"0.weight": (3, "tensor")})
    save(model, tmp_path / "a.safetensors")
    x = torch.randn(5, 4)
    fresh = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    assert torch.equal(load(tmp_path / "a.safetensors", fresh)(x), model(x))


def test_a_model_with_ties_that_the_file_contradicts(tmp_path):
    for names in ({"0.weight": (3, "tensor")}, {"0.bias": (3, "tensor"), "1.bias": (2, "tensor")}):
        model = compressed(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), names)
        save(model, tmp_path / "a.safetensors")
        fresh = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        fresh[1].weight, fresh[1].bias = fresh[0].weight, fresh[0].bias
        with pytest.raises(CheckpointError, match=r"1.weight and 0.weight are one in the model"):
            load(tmp_path / "a.safetensors", fresh)


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


# Narrower floating-point numbers


def test_fits():
    half, brain = torch.float16, torch.bfloat16
    assert fits(torch.randn(100), half) and fits(torch.randn(100), brain)
    assert fits(torch.zeros(3), half) and fits(torch.zeros(0), half)
    assert not fits(torch.tensor([7e4, 1.0]), half) and fits(torch.tensor([7e4, 1.0]), brain)
    assert not fits(torch.tensor([1e-7, 1.0]), half), "a small variance would change by more than a thousandth"
    assert fits(torch.tensor([1e-7, -1.0]), half), "against the largest magnitude the error is nothing"
    assert not fits(torch.tensor([1e-7, -2e-7]), half)
    assert not fits(torch.tensor([1.0, float("nan")]), half) and not fits(torch.tensor([float("inf")]), half)


def test_rounding_keeps_what_does_not_fit(small_net, tmp_path):
    with torch.no_grad():
        small_net.bn1.running_var.fill_(1e-7)
        small_net.bn2.bias[0] = 1e6
    model = compressed(small_net, SMALL, {"floats": "float16"})
    save(model, tmp_path / "a.safetensors", storage={"floats": "float16"})
    stored = load_file(tmp_path / "a.safetensors")
    assert stored["bn1.running_var"].dtype == stored["bn2.bias"].dtype == torch.float32
    assert stored["bn1.weight"].dtype == stored["stem.weight.codebook"].dtype == torch.float16


def test_saving_never_rounds(small_net, tmp_path, pictures):
    model = compressed(small_net, SMALL)
    with torch.no_grad():
        model.bn1.weight[0] = 1.0 + 2**-20
    save(model, tmp_path / "a.safetensors", storage={"floats": "float16"})
    assert torch.equal(load(tmp_path / "a.safetensors", SmallNet().eval())(pictures), model(pictures))


def test_rounding_refreshes_what_was_decoded(small_net, pictures):
    model = compressed(small_net, SMALL)
    before = model(pictures)
    round_floats(model, {"floats": "float16"})
    after = model(pictures)
    assert not torch.equal(before, after)
    assert torch.equal(after, copy.deepcopy(model)(pictures))


# Sizes


def parameters(model, books):
    found = codebooks(model)
    return {
        name: Parameter(
            tuple(found[name].codes.shape), k, str(found[name].centroids.dtype).removeprefix("torch."), granularity
        )
        for name, (k, granularity) in books.items()
    }


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


def test_predicted_size_with_ties(text_net, tmp_path):
    model = compressed(text_net, TEXT)
    wanted = parameters(model, TEXT)
    wanted["out.weight"] = wanted.pop("embed.weight")
    assert predicted_size(text_net, wanted) == save(model, tmp_path / "a")
    with pytest.raises(CheckpointError, match="no parameter 'nowhere'"):
        predicted_size(text_net, {"nowhere": Parameter((1,), 2)})


def test_gzip_counts_the_dense_float32_tensors(tmp_path, monkeypatch):
    import lloydmax.sizes

    model = compressed(nn.Sequential(nn.Linear(300, 50)).half(), {"0.weight": (4, "tensor")})
    dense = (codebooks(model)["0.weight"].dequantize(), model[0].bias.detach())
    raw = b"".join(tensor.float().numpy().tobytes() for tensor in dense)
    whole = accountings(model).gzip_float32
    assert abs(whole - len(gzip.compress(raw, 6))) < 20
    monkeypatch.setattr(lloydmax.format.sizes, "_GZIP_BLOCK", 10_007)
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


# Refusals


def refuse(path, model, *words):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kinds = [type(module) for module in model.modules()]
    with pytest.raises(CheckpointError) as caught:
        load(path, model)
    assert all(word in str(caught.value) for word in (str(path), *words)), caught.value
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)
    assert kinds == [type(module) for module in model.modules()]


def test_another_model(saved):
    wider = SmallNet()
    wider.head[2] = nn.Linear(32, 7)
    refuse(saved, wider, "head.2.bias is (5,) in the file, (7,) in the model", "head.2.weight")
    extra = SmallNet()
    extra.more = nn.Linear(2, 2)
    refuse(saved, extra, "the file lacks more.bias, more.weight")
    fewer = SmallNet()
    fewer.head = fewer.head[:2]
    refuse(saved, fewer, "the model lacks head.2.bias, head.2.weight")
    refuse(saved, nn.Linear(2, 2), "the model lacks bn1.bias", "and 14 more")
    swapped = SmallNet()
    weight = swapped.stem.weight.detach()
    del swapped.stem.weight
    swapped.stem.register_buffer("weight", weight)
    refuse(saved, swapped, "stem.weight is compressed in the file, but a buffer")


def test_models_that_cannot_be_filled(saved, small_net):
    refuse(saved, compressed(small_net, SMALL), "already holds codebooks")
    refuse(saved, SmallNet().double(), "float32 in the file, torch.float64 in the model", "model.to(torch.float32)")
    lazy = SmallNet()
    lazy.stem = nn.LazyConv2d(8, 3, bias=False)
    with pytest.raises(CheckpointError, match="lazy"):
        load(saved, lazy)


def test_models_that_no_file_can_hold(small_net, tmp_path):
    path = tmp_path / "a"
    with pytest.raises(CheckpointError, match="no codebooks"):
        save(small_net, path)
    with pytest.raises(CheckpointError, match="no codebooks"):
        accountings(small_net)
    model = compressed(small_net, SMALL)
    odd = {
        "no ordinary tensor": torch.zeros(2, 2).to_sparse(),
        "complex128": torch.zeros(2, dtype=torch.complex128),
        "meta device": torch.zeros(2, device="meta"),
    }
    for reason, tensor in odd.items():
        model.register_buffer("odd", tensor)
        with pytest.raises(CheckpointError, match=reason):
            save(model, path)
        del model.odd

    class Stateful(nn.Module):
        def get_extra_state(self):
            return {"count": 3}

    model.extra = Stateful()
    with pytest.raises(CheckpointError, match="Stateful.*extra_state"):
        save(model, path)
    del model.extra
    tensors = model.stem.codebooks["weight"]
    tensors.centroids[0] = float("nan")
    with pytest.raises(CheckpointError, match=r"'stem.weight' has NaN"):
        save(model, path)
    tensors.centroids[0] = 0
    tensors.codes.view(-1)[3] = 200
    with pytest.raises(CheckpointError, match=r"'stem.weight' has codes 0 .. 200 for 5"):
        save(model, path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("recipe", [{"x": float("nan")}, {"x": {1, 2}}, {"x": object()}])
def test_a_recipe_that_is_no_json(small_net, tmp_path, recipe):
    with pytest.raises(CheckpointError, match="not plain JSON"):
        save(compressed(small_net, SMALL), tmp_path / "a", recipe)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("storage", [{"floats": "int8"}, {"codes": "zip"}, {"flots": "float16"}])
def test_unknown_storage(small_net, tmp_path, storage):
    with pytest.raises(CheckpointError, match="storage"):
        save(compressed(small_net, SMALL), tmp_path / "a", None, storage)


def test_places_where_nothing_can_be_written(small_net, tmp_path):
    model = compressed(small_net, SMALL)
    (tmp_path / "file").write_bytes(b"")
    for path, reason in (
        (tmp_path, "is a directory"),
        (tmp_path / "no" / "a", "folder .* does not exist"),
        (tmp_path / "file" / "a", "does not exist"),
        (tmp_path / ("a" * 300), "too long"),
    ):
        with pytest.raises(CheckpointError, match=reason) as caught:
            save(model, path)
        assert str(caught.value).startswith(str(path))
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_a_failed_save_leaves_the_old_file(small_net, saved, monkeypatch):
    before = saved.read_bytes()

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(CheckpointError, match="No space left"):
        save(compressed(small_net, {"stem.weight": (2, "tensor")}), saved)
    monkeypatch.setattr(checkpoint, "save_file", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        save(compressed(small_net, {"stem.weight": (2, "tensor")}), saved)
    assert saved.read_bytes() == before and list(saved.parent.iterdir()) == [saved]


def test_a_full_disk(tmp_path):
    script = """
import resource, sys, torch
from torch import nn
from lloydmax import checkpoint
from lloydmax.codebook import Codebook
from lloydmax.student import attach
model = nn.Sequential(nn.Linear(9, 9), nn.Linear(500, 500))
attach(model, "0.weight", Codebook(torch.zeros(2), torch.zeros(9, 9, dtype=torch.uint8)))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    checkpoint.save(model, sys.argv[1])
except checkpoint.CheckpointError as error:
    print(error)
"""
    path = tmp_path / "a.safetensors"
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(str(path)) and "too large" in done.stdout.lower()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
def test_the_file_has_ordinary_permissions(small_net, tmp_path):
    umask = os.umask(0o027)
    try:
        save(compressed(small_net, SMALL), tmp_path / "a")
    finally:
        os.umask(umask)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_inspection_reads_and_prints(saved):
    found = checkpoint.inspect(saved)
    assert dataclasses.asdict(found).items() <= found.to_dict().items()
    by_name = {item.name: item for item in found.parameters}
    item = by_name["padded.weight"]
    assert (item.k, item.bits, item.granularity, item.shape) == (300, 9, "group:3", (16, 8, 3, 3))
    assert item.bytes == 6 * 300 * 4 + -(-16 * 8 * 9 * 9 // 8)
    text = str(found)
    assert "padded.weight" in text and "16x8x3x3" in text and "group:3" in text
