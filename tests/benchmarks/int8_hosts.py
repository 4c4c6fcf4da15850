"""Who makes an int8 model: agreement with the float network, and time against it; about 5 minutes on one core.

    python tests/benchmarks/int8_hosts.py [agreement | speed | compiled [network ...] | saturation | where]

The demo's network and those of the zoo are trained: their agreement is measured on test pictures; the demo's thresholds
are initialized from silhouettes of another domain. ResNet-18 and MobileNet-v2 have random weights: only their time
means something. PT2E is torchao's ``prepare_pt2e`` and ``convert_pt2e`` with our quantizer, then ``torch.compile``; it
needs a compiler for C++.
"""

from __future__ import annotations

import copy
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lloydmax.demo
import torch
import torchvision
from lloydmax.data import unlabelled
from lloydmax.integrations.torchao import CodebookQuantizer
from lloydmax.report import environment
from lloydmax.student.int8 import calibrate
from torch import Tensor, nn
from torchao.quantization.pt2e import allow_exported_model_train_eval
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

sys.path.insert(0, str(Path(__file__).parent))

from zoo.registry import NETWORKS

warnings.simplefilter("ignore")
SAMPLES, PAIRS, SIDE = 100, 9, 224
TRAINED = ("demo", "digits", "efficientnet", "resnet8")
MODES = [("channel", 8), ("tensor", 8), ("channel", 4)]


def recipe(host: str, granularity: str = "channel", bits: int | None = 8) -> dict[str, Any]:
    rule = {"layers": "all", "quantizer": "uniform", "granularity": granularity} | ({"bits": bits} if bits else {})
    return {"quantize": [rule], "activations": {"samples": SAMPLES, "host": host}, "trainable": ["none"]}


def by_host(model: nn.Module, data: Tensor, **settings: Any) -> dict[str, nn.Module]:
    """The same recipe with every host; PT2E as a program of integers that runs as it is."""
    made = {host: _own_or_fx(model, data, host, **settings) for host in ("fx", "own")}
    return made | {"pt2e": pt2e(model, data, **settings)}


def _own_or_fx(model: nn.Module, data: Tensor, host: str, **settings: Any) -> nn.Module:
    return lloydmax.compress(model, recipe(host, **settings), data, seed=0, progress=False).model


def pt2e(model: nn.Module, data: Tensor, **settings: Any) -> nn.Module:
    shapes = ({0: torch.export.Dim("batch", min=2)},)
    program = torch.export.export(copy.deepcopy(model), (data[:2],), dynamic_shapes=shapes).module()
    prepared = prepare_pt2e(program, CodebookQuantizer(recipe("own", **settings), model))
    allow_exported_model_train_eval(prepared)
    calibrate(prepared, unlabelled(data, model), SAMPLES, 0, lambda *_: None)
    converted: nn.Module = convert_pt2e(prepared)
    return converted


@torch.no_grad()
def agreement(model: nn.Module, teacher: nn.Module, pictures: Tensor) -> float:
    same = [model(part).argmax(1) == teacher(part).argmax(1) for part in pictures.split(250)]
    return 100 * float(torch.cat(same).float().mean())


def agreements() -> None:
    """Trained networks, without training."""
    print(f"\nagreement with the float network, %; thresholds from {SAMPLES} inputs, no training")
    print(f"{'network':<14} {'pictures':>8}  {'weights':<18} {'fx':>8} {'own':>8} {'PT2E':>8}")
    for name in sys.argv[2:] or TRAINED:
        teacher, data, pictures = _trained(name)
        for granularity, bits in MODES:
            made = by_host(teacher, data[:SAMPLES], granularity=granularity, bits=bits)
            found = " ".join(f"{agreement(model, teacher, pictures):>8.2f}" for model in made.values())
            print(f"{name:<14} {len(pictures):>8}  {bits} bits a {granularity:<9} {found}", flush=True)


def _trained(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A network, inputs for its thresholds, and pictures to compare on."""
    if name == "demo":
        return lloydmax.demo.network(), lloydmax.demo.silhouettes(), lloydmax.demo.test_set()[0]
    loaded = NETWORKS[name].load()
    return loaded.model, loaded.inputs, loaded.test


def seconds(run: Callable[[Tensor], Any], x: Tensor) -> float:
    started = time.process_time()
    run(x)
    return time.process_time() - started


@torch.no_grad()
def speed() -> None:
    """Medians of ratios of processor time of runs in turn, channels-last, one thread."""
    _compare(("fx", "own"), lambda model, data: [_own_or_fx(model, data, host) for host in ("fx", "own")])


@torch.no_grad()
def compiled() -> None:
    """The same of what inductor makes of the float network, of the exported int8 model, and of PT2E's program."""
    torch._inductor.config.freezing = True  # type: ignore[attr-defined]

    def programs(model: nn.Module, data: Tensor) -> list[Any]:
        prepared = pt2e(model, data)
        exported = torch.export.export(_own_or_fx(model, data, "own"), (data,)).module()
        return [torch.compile(each) for each in (copy.deepcopy(model), exported, prepared)]

    _compare(("float compiled", "own compiled", "PT2E compiled"), programs)


def _compare(names: tuple[str, ...], made: Callable[[nn.Module, Tensor], list[Any]]) -> None:
    print(f"\ntimes as fast as float32, batches of 8, {SIDE} x {SIDE}")
    print(f"{'network':<16} " + " ".join(f"{name:>14}" for name in names))
    for name in sys.argv[2:] or ("resnet18", "mobilenet_v2"):
        torch.manual_seed(0)
        model = getattr(torchvision.models, name)().eval()
        x = torch.randn(8, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
        runs = made(model, x)
        runs.insert(0, model.to(memory_format=torch.channels_last))
        for run in runs:
            run(x), run(x)
        columns = list(zip(*([seconds(run, x) for run in runs] for _ in range(PAIRS)), strict=True))
        ratios = [statistics.median(a / b for a, b in zip(columns[0], column, strict=True)) for column in columns[1:]]
        print(f"{name:<16} " + " ".join(f"{ratio:>13.2f}x" for ratio in ratios), flush=True)


@torch.no_grad()
def where() -> None:
    """The operators that ResNet-18 spends its time in, of both hosts, in ms a run."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18().eval()
    x = torch.randn(8, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    for host in ("fx", "own"):
        run = _own_or_fx(model, x, host)
        run(x), run(x)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiled:
            for _ in range(PAIRS):
                run(x)
        spent = sorted(profiled.key_averages(), key=lambda one: -one.self_cpu_time_total)[:8]
        told = ", ".join(f"{one.key} {one.self_cpu_time_total / PAIRS / 1000:.1f}" for one in spent)
        print(f"{host}: {told}", flush=True)


def saturation() -> None:
    """The kernels of oneDNN as a machine without VNNI has them, in processes that forbid that instruction."""
    print("\nagreement without VNNI (ONEDNN_MAX_CPU_ISA=AVX512_CORE), the demo's network, one scale a channel")
    for kind in ("fx 8", "fx none", "own 8", "own none"):
        environ = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}
        subprocess.run([sys.executable, __file__, "without", *kind.split()], env=environ, check=True)


def without(host: str, bits: str) -> None:
    """In such a process; torch asks the processor, which still has the instruction, so it is told."""
    torch.cpu._is_vnni_supported = lambda: False
    torch.backends.quantized.engine = "onednn"
    teacher, data, (pictures, _) = lloydmax.demo.network(), lloydmax.demo.silhouettes(), lloydmax.demo.test_set()
    given = recipe(host, bits=None if bits == "none" else int(bits))
    result = lloydmax.compress(teacher, given, data[:SAMPLES], seed=0, progress=False)
    level = next(iter(result.plan.parameters.values())).options.bits
    found = agreement(result.model, teacher, pictures)
    print(f"host {host}, bits {bits if bits != 'none' else 'left open'}: {level} bits, {found:.2f} %", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["without"]:
        without(*sys.argv[2:])
    else:
        print(", ".join(f"{name} {value}" for name, value in environment().items()))
        parts = {"agreement": agreements, "speed": speed, "compiled": compiled, "saturation": saturation}
        parts["where"] = where
        for part in sys.argv[1:2] or parts:
            parts[part]()
