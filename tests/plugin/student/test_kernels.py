"""Compressed weights that run decoded in parts or in int8: the same outputs, less memory, nothing else changed."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch
from conftest import SmallNet
from lloydmax.codebook.codebook import Codebook
from lloydmax.codebook.layout import Layout
from lloydmax.student import kernels
from lloydmax.student.attachment import attach, finish
from torch import Tensor, nn


def layered(*layers: nn.Module, k: int = 16, **options: Any) -> nn.Module:
    """A finished model with a codebook in every matrix."""
    model = nn.Sequential(*layers)
    for name, parameter in list(model.named_parameters()):
        if parameter.dim() > 1:
            attach(model, name, lloydmax.fit_codebook(parameter, k, **options))
    return finish(model).eval()


@pytest.fixture(scope="module")
def wide() -> nn.Module:
    torch.manual_seed(0)
    return layered(nn.Linear(1024, 640), nn.ReLU(), nn.Linear(640, 10))


@pytest.fixture
def net(wide: nn.Module) -> nn.Module:
    return copy.deepcopy(wide)


def off(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


# Decoding in parts


@pytest.mark.parametrize("granularity", ["tensor", "channel", "group:7", "group:900"])
@pytest.mark.parametrize(("axis", "block"), [(0, 1), (1, 1), (0, 4), (1, 4)])
def test_parts_are_the_codebook(granularity: str, axis: int, block: int) -> None:
    shape, k = (1000, 600), 5
    layout = Layout(shape, k, granularity, axis, block)
    codes = torch.randint(0, k, layout.code_shape, dtype=torch.uint8)
    book = Codebook.of(layout, torch.randn(layout.centroids_shape), codes)
    parts, dense = list(book.parts()), book.dequantize()
    assert torch.equal(kernels.dense(book), dense)
    assert all(torch.equal(part.dequantize(), dense[rows]) for rows, part in parts)
    assert (len(parts) > 1) == (axis == 0 or block == 1)
    assert book.member_counts().shape == layout.centroids_shape[: len(layout.centroids_shape) - (block > 1)]
    assert int(book.member_counts().sum()) == codes.numel()
    if granularity == "tensor":
        assert book.member_counts().tolist() == codes.flatten().bincount().tolist()


@pytest.mark.parametrize("options", [{}, {"granularity": "group:100"}, {"block": 4}], ids=str)
def test_without_a_cache_linear_layers_and_embeddings_say_the_same(options: dict[str, Any]) -> None:
    model = layered(nn.Embedding(700, 640, padding_idx=0), nn.Linear(640, 900), k=4, **options)
    tokens = torch.tensor([[3, 699, 3], [0, 1, 350]])
    wanted = model(tokens)
    lloydmax.set_cache(model, False)
    assert torch.allclose(model(tokens), wanted, atol=1e-5)
    assert torch.equal(model[0](tokens), model[0].weight[tokens])
    assert model(tokens[:0]).shape == (0, 3, 900) and model[0](torch.tensor(5)).shape == (640,)
    x = torch.randn(2, 640, requires_grad=True)
    model[1](x).sum().backward()
    assert torch.allclose(x.grad, model[1].weight.sum(0).expand(2, -1), atol=1e-3)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)
        assert torch.allclose(torch.jit.trace(model, tokens)(tokens), wanted, atol=1e-5)


# int8


@pytest.mark.parametrize("granularity", ["tensor", "channel", "group:100"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_int8_agrees_with_the_decoded_weight(granularity: str, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    model = layered(nn.Linear(1024, 640).to(dtype), granularity=granularity)
    assert lloydmax.set_kernel(model, "int8") is model
    with torch.no_grad():
        for shape in [(1024,), (1, 1024), (2, 3, 1024), (16, 1024), (0, 1024)]:
            x = torch.randn(shape, dtype=dtype)
            wanted = nn.functional.linear(x.double(), model[0].weight.double(), model[0].bias.double())
            found = model(x)
            assert found.dtype == dtype and found.shape == (*shape[:-1], 640)
            assert not x.numel() or off(found.double(), wanted) < 8e-3
    assert model[0].codebooks["weight"]._int8 is not None


def test_the_int8_codebook_has_the_best_scale() -> None:
    torch.manual_seed(0)
    book = lloydmax.fit_codebook(torch.randn(64, 256), 8)
    values, scale, rest = kernels.int8_weight(book)
    assert values.dtype == torch.int8 and scale.dtype == torch.bfloat16 and scale.shape == (64,)
    dense, largest = book.dequantize(), float(book.centroids.abs().max()) / 127
    held = values * scale.float()[:, None]
    best = min(off((dense / step).round() * step, dense) for step in torch.linspace(largest, 2 * largest, 500))
    assert off(held, dense) < 1.2 * best < off((dense / largest).round() * largest, dense)
    assert torch.allclose(rest, (dense - held).sum(1), atol=1e-4)
    zero = Codebook(torch.zeros(2), torch.zeros(4, 16, dtype=torch.uint8))
    assert not kernels.int8_weight(zero)[0].any(), "an empty scale divides nothing"


def test_positive_inputs_do_not_add_up_what_rounding_lost() -> None:
    torch.manual_seed(2)
    model, x = layered(nn.Linear(4096, 256, bias=False), k=16), torch.rand(4, 4096) + 1
    with torch.no_grad():
        wanted = model(x)
        assert off(lloydmax.set_kernel(model, "int8")(x), wanted) < 1e-2


def test_a_weight_that_int8_spoils_stays_as_it_is() -> None:
    torch.manual_seed(3)
    layer, x = nn.Linear(1024, 640), torch.randn(2, 1024)
    with torch.no_grad():
        layer.weight[0] *= 300
    tensor, channel = (layered(copy.deepcopy(layer), granularity=how) for how in ("tensor", "channel"))
    with pytest.raises(lloydmax.KernelError, match="far outliers spoil that; a finer granularity helps"):
        lloydmax.set_kernel(tensor, "int8")
    with torch.no_grad():
        wanted = channel(x)
        assert off(lloydmax.set_kernel(channel, "int8")(x), wanted) < 8e-3


def test_int8_is_used_for_few_inputs_without_gradients_only(net: nn.Module) -> None:
    plain, fast = copy.deepcopy(net), lloydmax.set_kernel(net, "int8")
    x = torch.randn(4, 1024)
    with torch.inference_mode():
        assert not torch.equal(fast(x), plain(x)) and off(fast(x), plain(x)) < 8e-3
        assert torch.equal(fast(torch.cat([x] * 5)), plain(torch.cat([x] * 5))), "many inputs"
        assert torch.equal(fast[2](x[:, :640]), plain[2](x[:, :640])), "a small layer"
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(fast(x), plain(x))
    x.requires_grad_()
    (found,) = torch.autograd.grad(fast(x).sum(), x)
    (wanted,) = torch.autograd.grad(plain(x).sum(), x)
    assert torch.equal(found, wanted)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        fast(torch.randn(1, 512))


def test_exported_traced_and_compiled_programs_hold_the_plain_way(net: nn.Module) -> None:
    plain, fast, x = copy.deepcopy(net), lloydmax.set_kernel(net, "int8"), torch.randn(2, 1024)
    with torch.no_grad():
        wanted = plain(x)
        assert torch.equal(torch.export.export(fast, (x,)).module()(x), wanted)
        assert torch.equal(torch.jit.trace(fast, x, check_trace=False)(x), wanted)
        assert torch.equal(torch.compile(fast, backend="eager", fullgraph=True)(x), wanted)
        assert torch.equal(torch.fx.symbolic_trace(fast)(x), wanted)


def test_states_files_copies_and_changes(net: nn.Module, tmp_path: Path) -> None:
    x, before = torch.randn(2, 1024), {name: tensor.clone() for name, tensor in net.state_dict().items()}
    size = len(pickle.dumps(net))
    lloydmax.save(net, tmp_path / "plain.safetensors")
    with torch.no_grad():
        plain = net(x)
        found = lloydmax.set_kernel(net, "int8")(x)
        assert net.state_dict().keys() == before.keys()
        assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
        lloydmax.save(net, tmp_path / "fast.safetensors")
        assert (tmp_path / "fast.safetensors").read_bytes() == (tmp_path / "plain.safetensors").read_bytes()
        assert len(pickle.dumps(net)) < size + 200, "the int8 weight is not pickled"
        assert torch.equal(copy.deepcopy(net)(x), found)
        assert torch.equal(pickle.loads(pickle.dumps(net))(x), found)
        net[0].codebooks["weight"].centroids.mul_(2)
        assert off(net[0](x) - net[0].bias, 2 * (x @ before_weight(before).T)) < 8e-3, "changed centroids are seen"
        net.load_state_dict(before)
        assert torch.equal(net(x), found)
        assert off(net.to(torch.bfloat16)(x.bfloat16()).float(), plain) < 2e-2
        net.float().load_state_dict(before)
        assert torch.equal(lloydmax.set_kernel(net, None)(x), plain)


def before_weight(state: dict[str, Tensor]) -> Tensor:
    return Codebook(state["0.codebooks.weight.centroids"], state["0.codebooks.weight.codes"]).dequantize()


def test_threads_share_the_first_use(net: nn.Module) -> None:
    x = torch.randn(1, 1024)
    with torch.no_grad():
        wanted = lloydmax.set_kernel(copy.deepcopy(net), "int8")(x)
        lloydmax.set_kernel(net, "int8")
        found: list[Tensor] = []

        def run() -> None:
            with torch.no_grad():
                found.append(net(x))

        threads = [threading.Thread(target=run) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 8 and all(torch.equal(y, wanted) for y in found)


def test_what_int8_does_not_serve(net: nn.Module, small_net: SmallNet) -> None:
    with pytest.raises(lloydmax.KernelError, match="no kernel 'int4'; choose one of 'int8', 'codes', "):
        lloydmax.set_kernel(net, "int4")  # type: ignore[arg-type]
    with pytest.raises(lloydmax.KernelError, match="none of the 0 finished linear layers"):
        lloydmax.set_kernel(small_net, "int8")
    vectors = layered(nn.Linear(1024, 640), k=2, block=4)
    odd = layered(nn.Linear(1031, 640))
    for model in (vectors, odd, layered(nn.Linear(64, 64))):
        with pytest.raises(lloydmax.KernelError, match="none of the 1 .* a multiple of 16 inputs, a code for each"):
            lloydmax.set_kernel(model, "int8")
    both, x = nn.ModuleList([vectors[0], net[0]]), torch.randn(1, 1024)
    lloydmax.set_kernel(both, "int8")
    assert [layer.codebooks["weight"].kernel for layer in both] == [None, "int8"]
    with torch.no_grad():
        assert torch.equal(both[0](x), nn.functional.linear(x, both[0].weight, both[0].bias))
    assert lloydmax.set_kernel(small_net, None) is small_net


# Memory

PROBE = """
import sys
import lloydmax, torch
from pathlib import Path
from torch import nn

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))

before = status("VmHWM")
with torch.inference_mode():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4096, 4096, bias=False), nn.Linear(4096, 4096, bias=False))
    lloydmax.set_cache(lloydmax.load(sys.argv[1], model), False)(torch.ones(1, 4096))
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_a_model_without_a_cache_is_loaded_and_run_in_less_than_45_percent_of_float32(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4096, 4096, bias=False), nn.Linear(4096, 4096, bias=False)).to_empty(
            device="cpu"
        )
    codes = torch.randint(0, 4, (4096, 4096), dtype=torch.uint8)
    for name in ("0.weight", "1.weight"):
        attach(model, name, Codebook(torch.randn(4), codes))
    lloydmax.save(finish(model), tmp_path / "net.safetensors")
    command = [sys.executable, "-c", PROBE, str(tmp_path / "net.safetensors")]
    peak = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert 2 * codes.numel() < 1024 * peak < 0.45 * 4 * 2 * codes.numel()
