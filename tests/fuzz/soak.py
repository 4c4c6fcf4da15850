"""A soak test: many trials of each kind of recipe and host in one process, and what they leave behind.

    python tests/fuzz/soak.py                          # 1,000 trials of every kind; prints a Markdown table
    python tests/fuzz/soak.py int8 inc --trials 100    # of some kinds
    python tests/fuzz/soak.py --list                   # the kinds

Every kind runs in a process of its own. Every trial has a network and data of its own, and of four trials one fails and
one is interrupted, each time elsewhere: in a forward pass, or where progress is told. What a trial leaves is counted
after a warm-up: resident memory, live Python objects, descriptors, threads, files in its folders and in the temporary
one, and networks that something still holds.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lloydmax
import torch
from torch import Tensor, nn

WARM_UP = 12
"""Trials before anything is counted: imports, caches of torch and arenas of the allocator grow in them."""
MOST_MIB = 20.0
"""By which resident memory may grow over all trials after the warm-up."""
Trial = Callable[[nn.Module, Tensor, Path, list[object]], Any]
KINDS: dict[str, Trial] = {}


# What fails


class _Fault(RuntimeError):
    """What a failing trial fails with."""


class _Fuse:
    """Raises at one of the places that a trial passes: calls of a network, and steps of progress."""

    def __init__(self) -> None:
        self.passed, self.at, self.error = 0, -1, _Fault

    def set(self, at: int = -1, error: type[BaseException] = _Fault) -> None:
        """Count anew; raise at that place, or nowhere."""
        self.passed, self.at, self.error = 0, at, error

    def burn(self) -> None:
        """One place."""
        self.passed += 1
        if self.passed == self.at:
            raise self.error("asked for by the soak test")


FUSE = _Fuse()


class _Burning(nn.Module):
    """Passes its input on, or raises."""

    def forward(self, x: Tensor) -> Tensor:
        FUSE.burn()
        return x


class _Hearing:
    """Raises where progress is told."""

    @lloydmax.hookimpl
    def lloydmax_step(self) -> None:
        FUSE.burn()


# What is compressed


def network(seed: int) -> nn.Module:
    """A small classifier of pictures ``(N, 3, 8, 8)`` with convolutions, batch norms and 0.3 MiB of weights."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), _Burning(), nn.Linear(256, 5),
    )  # fmt: skip
    with torch.no_grad():
        net(torch.randn(32, 3, 8, 8))
    return net.eval()


def pictures(seed: int) -> Tensor:
    """64 inputs."""
    return torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


# The kinds


def kind(trial: Trial) -> Trial:
    """Register a kind under the name of its function."""
    KINDS[trial.__name__] = trial
    return trial


def _recipe(*steps: dict[str, Any], **more: Any) -> dict[str, Any]:
    rules = [{"layers": "all", "centroids": 8}]
    return {"quantize": rules, "trainable": ["all"], "recover": [*steps], **more}


INT8 = {"quantize": [{"layers": "all", "quantizer": "uniform"}], "activations": {"bits": 8}}
RECIPES: dict[str, dict[str, Any]] = {
    "kmeans": _recipe(),
    "importance": {"quantize": [{"layers": "all", "centroids": 8, "importance": "fisher"}]},
    "bits": {"bits": 3, "storage": {"codes": "entropy"}},
    "vectors": {"quantize": [{"layers": "all", "centroids": 8, "block": 2}]},
    "uniform": {"quantize": [{"layers": "all", "quantizer": "uniform", "bits": 4}]},
    "distill": _recipe({"step": "distill", "steps": 4, "batch_size": 16}),
    "codes": _recipe({"step": "distill", "steps": 4, "batch_size": 16, "codes": "learn"}),
    "align": _recipe({"step": "align", "steps": 4, "batch_size": 16}),
    "renormalize": _recipe({"step": "renormalize", "samples": 32, "relative": True}),
    "correct_bias": _recipe({"step": "correct_bias", "samples": 32}),
    "reconstruct": _recipe({"step": "reconstruct", "samples": 32}),
    "equalize": _recipe({"step": "equalize"}),
    "int8": INT8,
    "train_thresholds": {**INT8, "recover": [{"step": "train_thresholds", "steps": 4, "calibration": 32}]},
    "train_multipliers": {**INT8, "recover": [{"step": "train_multipliers", "steps": 4}]},
}


def _compressing(name: str) -> Trial:
    def trial(net: nn.Module, x: Tensor, place: Path, hear: list[object]) -> Any:
        return lloydmax.compress(net, RECIPES[name], x, x[:32], progress=False, listeners=hear)

    trial.__name__ = name
    return trial


for _name in RECIPES:
    kind(_compressing(_name))


@kind
def loader(net: nn.Module, x: Tensor, place: Path, hear: list[object]) -> Any:
    """Batches of an iterator, which are kept, in a folder for state."""
    recipe = RECIPES["distill"]
    result = lloydmax.compress(net, recipe, iter(x.split(16)), workdir=place, progress=False, listeners=hear)
    for left in [*place.rglob("*")][::-1]:
        left.rmdir() if left.is_dir() else left.unlink()
    return result


CACHE = lloydmax.Cache(limit=4 << 20)


@kind
def cache(net: nn.Module, x: Tensor, place: Path, hear: list[object]) -> Any:
    """Trials that share a cache of 4 MiB."""
    return lloydmax.compress(net, RECIPES["distill"], x, progress=False, listeners=hear, cache=CACHE)


@kind
def threads(net: nn.Module, x: Tensor, place: Path, hear: list[object]) -> Any:
    """Two runs at once over one network."""
    found: list[Any] = []

    def work() -> None:
        try:
            found.append(lloydmax.compress(net, RECIPES["renormalize"], x, progress=False, listeners=hear))
        except BaseException as error:
            found.append(error)

    both = [threading.Thread(target=work) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return found


@kind
def lagrangian(net: nn.Module, x: Tensor, place: Path, hear: list[object]) -> Any:
    return lloydmax.search(net, x, 0.1, samples=32, progress=False, listeners=hear)


@kind
def greedy(net: nn.Module, x: Tensor, place: Path, hear: list[object]) -> Any:
    return lloydmax.search(net, x, 0.1, method="greedy", centroids=(4, 16), samples=32, progress=False, listeners=hear)


@kind
def sweep(net: nn.Module, x: Tensor, place: Path, hear: list[object]) -> Any:
    return lloydmax.sweep(net, x, centroids=(4, 16), samples=32, progress=False, listeners=hear)


@kind
def files(net: nn.Module, x: Tensor, place: Path, hear: list[object]) -> Any:
    """Saved, verified, inspected, read back, and a damaged one refused."""
    target = place / "model.safetensors"
    result = lloydmax.compress(net, _recipe(storage={"codes": "entropy"}), progress=False, listeners=hear)
    result.save(target)
    lloydmax.verify(target, net)
    lloydmax.inspect(target)
    found = lloydmax.load(target, copy.deepcopy(net))
    found(x)
    target.write_bytes(target.read_bytes()[:-9])
    try:
        lloydmax.load(target, copy.deepcopy(net))
    except lloydmax.CheckpointError:
        target.unlink()
    return found


@kind
def int8_files(net: nn.Module, x: Tensor, place: Path, hear: list[object]) -> Any:
    target = place / "model.safetensors"
    lloydmax.compress(net, INT8, x, progress=False, listeners=hear).save(target)
    found = lloydmax.load(target, copy.deepcopy(net))
    found(x)
    target.unlink()
    return found


@kind
def report(net: nn.Module, x: Tensor, place: Path, hear: list[object]) -> Any:
    result = lloydmax.compress(net, _recipe(), x, progress=False, listeners=hear)
    for ending in ("json", "html"):
        result.report.save(place / f"report.{ending}")
        (place / f"report.{ending}").unlink()
    return result


@kind
def kernels(net: nn.Module, x: Tensor, place: Path, hear: list[object]) -> Any:
    found = lloydmax.compress(net, _recipe(), progress=False, listeners=hear).model
    lloydmax.set_kernel(found, "packed")
    found(x)
    lloydmax.set_cache(lloydmax.set_kernel(found, None), False)
    found(x)
    return found


@kind
def compiled(net: nn.Module, x: Tensor, place: Path, hear: list[object]) -> Any:
    """A model of ``torch.compile``; its caches are emptied as a service would."""
    try:
        seen = torch.compile(net[8:12], backend="eager")
        net[8:12](x.mean((2, 3)).repeat(1, 6)[:, :16])
        seen(x.mean((2, 3)).repeat(1, 6)[:, :16])
        return lloydmax.compress(seen, _recipe(), x.flatten(1)[:, :16], progress=False, listeners=hear)
    finally:
        torch._dynamo.reset()


def _exporting(ending: str) -> Trial:
    def trial(net: nn.Module, x: Tensor, place: Path, hear: list[object]) -> Any:
        found = lloydmax.compress(net, _recipe(), progress=False, listeners=hear).model
        lloydmax.export(found, place / f"model.{ending}", example_inputs=x[:2])
        for left in place.iterdir():
            left.unlink()
        return found

    return trial


KINDS |= {"export_torch": _exporting("pt2"), "export_onnx": _exporting("onnx"), "export_openvino": _exporting("xml")}


@kind
def inc(net: nn.Module, x: Tensor, place: Path, hear: list[object]) -> Any:
    """Prepared, fed, converted, saved and read back."""
    from lloydmax.integrations.inc import CodebookConfig, load
    from neural_compressor.torch.quantization import convert, prepare, save

    config = CodebookConfig(centroids=8, trainable="all", recover={"step": "distill", "steps": 2})
    prepared = prepare(copy.deepcopy(net), config)
    prepared(x)
    found = convert(prepared)
    save(found, str(place))
    load(str(place), original_model=net)
    for left in place.iterdir():
        left.unlink()
    return found


@kind
def inc_autotune(net: nn.Module, x: Tensor, place: Path, hear: list[object]) -> Any:
    from lloydmax.integrations.inc import CodebookConfig
    from neural_compressor.torch.quantization import TuningConfig, autotune

    def score(model: nn.Module) -> float:
        return float((model(x).argmax(1) == net(x).argmax(1)).float().mean())

    config = CodebookConfig(centroids=[4, 16], recover={"step": "correct_bias", "samples": 32})
    return autotune(net, TuningConfig(config_set=[config], tolerable_loss=0.5), score, run_args=(x,))


@kind
def torch_ao(net: nn.Module, x: Tensor, place: Path, hear: list[object]) -> Any:
    import torch.ao.quantization as tq
    from lloydmax.integrations.torch_ao import apply_recipe, backend_config
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_qat_fx

    recipe = {"quantize": [{"layers": "0", "quantizer": "none"}, {"layers": ["8", "10"], "centroids": 8}]}
    mapping = tq.get_default_qat_qconfig_mapping("x86")
    apply_recipe(mapping, recipe, net)
    prepared = prepare_qat_fx(copy.deepcopy(net).train(), mapping, (x,), backend_config=backend_config())
    lloydmax.distill(prepared, net, x, steps=2, listeners=hear)
    return convert_fx(prepared.eval(), backend_config=backend_config())


@kind
def torch_ao_thresholds(net: nn.Module, x: Tensor, place: Path, hear: list[object]) -> Any:
    from lloydmax.integrations.torch_ao import threshold_qconfig_mapping, train_thresholds
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_qat_fx

    mapping = threshold_qconfig_mapping()
    prepared = prepare_qat_fx(copy.deepcopy(net).train(), mapping, (x,))
    train_thresholds(prepared, net, x, steps=2, listeners=hear)
    return convert_fx(prepared.eval())


@kind
def torch_ao_eager(net: nn.Module, x: Tensor, place: Path, hear: list[object]) -> Any:
    import torch.ao.quantization as tq
    from lloydmax.integrations.torch_ao import apply_recipe, eager_mapping

    wrapped = tq.QuantWrapper(copy.deepcopy(net))
    wrapped.qconfig = tq.get_default_qconfig("x86")
    apply_recipe(None, {"quantize": [{"layers": ["module.8", "module.10"], "centroids": 8}]}, wrapped)
    prepared = tq.prepare(wrapped)
    prepared(x)
    return tq.convert(prepared, mapping=eager_mapping())


@kind
def torchao(net: nn.Module, x: Tensor, place: Path, hear: list[object]) -> Any:
    from lloydmax.integrations.torchao import CodebookWeightConfig
    from torchao.quantization import quantize_

    def wanted(module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.Linear)

    student = copy.deepcopy(net)
    quantize_(student, CodebookWeightConfig(4, step="prepare"), wanted)
    lloydmax.distill(student, net, x, steps=2, listeners=hear)
    quantize_(student, CodebookWeightConfig(4, step="convert"), wanted)
    return student


@kind
def torchao_pt2e(net: nn.Module, x: Tensor, place: Path, hear: list[object]) -> Any:
    from lloydmax.integrations.torchao import CodebookQuantizer
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    program = torch.export.export(net, (x,)).module()
    prepared = prepare_pt2e(program, CodebookQuantizer(centroids=8))
    prepared(x)
    return convert_pt2e(prepared)


# What is counted


@dataclass
class Left:
    """What the trials of one kind left behind, after the warm-up.

    Attributes:
        kind: its name.
        trials: after the warm-up.
        failed: trials that ended in an error, asked for.
        interrupted: trials that ended in a ``KeyboardInterrupt``, asked for.
        memory: growth of resident memory in MiB.
        peak: its growth at most after any trial, in MiB.
        objects: growth of Python objects that the garbage collector knows.
        networks: networks of the trials that are still alive.
        descriptors: growth of open files.
        threads: growth of threads.
        files: that are left in the folders of the trials and the temporary one.
        seconds: of all trials.
    """

    kind: str
    trials: int
    failed: int
    interrupted: int
    memory: float
    peak: float
    objects: int
    networks: int
    descriptors: int
    threads: int
    files: int
    seconds: float

    @property
    def grew(self) -> str | None:
        """What is wrong, in words; ``None`` where nothing is."""
        held = {
            "networks": self.networks, "descriptors": self.descriptors, "threads": self.threads, "files": self.files,
        }  # fmt: skip
        wrong = [f"{number} {what}" for what, number in held.items() if number > 0]
        wrong += [f"{self.memory:.1f} MiB"] if self.memory > MOST_MIB else []
        wrong += [f"{self.objects} objects"] if self.objects > self.trials else []
        return ", ".join(wrong) or None


def soak(name: str, trials: int, warm_up: int = WARM_UP) -> Left:
    """Run trials of one kind in this process."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        place, temporary = Path(folder) / "place", Path(folder) / "tmp"
        place.mkdir(), temporary.mkdir()
        before_dir, tempfile.tempdir = tempfile.tempdir, str(temporary)
        try:
            return _soaked(name, trials, warm_up, place, temporary)
        finally:
            tempfile.tempdir = before_dir


def _soaked(name: str, trials: int, warm_up: int, place: Path, temporary: Path) -> Left:
    outcomes: Counter[str] = Counter()
    alive: weakref.WeakSet[nn.Module] = weakref.WeakSet()
    FUSE.set()
    _one(KINDS[name], 0, place)
    places = FUSE.passed
    for number in range(warm_up):
        _tried(KINDS[name], number, places, place, outcomes, alive)
    outcomes.clear(), alive.clear()
    before, peak, start = _now(), 0.0, time.perf_counter()
    for number in range(warm_up, warm_up + trials):
        _tried(KINDS[name], number, places, place, outcomes, alive)
        peak = max(peak, _resident())
    seconds = time.perf_counter() - start
    after = _now()
    grown = {key: after[key] - before[key] for key in before}
    left = [file for folder in (place, temporary) for file in folder.rglob("*")]
    return Left(
        name, trials, outcomes["failed"], outcomes["interrupted"],
        round(grown["memory"], 1), round(peak - before["memory"], 1), int(grown["objects"]), len(alive),
        int(grown["descriptors"]), int(grown["threads"]), len(left), round(seconds, 1),
    )  # fmt: skip


def _tried(
    trial: Trial, number: int, places: int, place: Path, outcomes: Counter[str], alive: weakref.WeakSet[nn.Module]
) -> None:
    """One trial: every fourth fails, every fourth is interrupted, somewhere."""
    error = (None, _Fault, None, KeyboardInterrupt)[number % 4]
    at = 1 + number * 7919 % max(places, 1)
    FUSE.set() if error is None else FUSE.set(at, error)
    try:
        _one(trial, number, place, alive)
        outcomes["done"] += 1
    except KeyboardInterrupt:
        if error is not KeyboardInterrupt:
            raise
        outcomes["interrupted"] += 1
    except Exception:
        if error is None:
            raise
        outcomes["failed"] += 1
    if error is not None:  # what is left of a call of the host is the host's
        for left in [*place.rglob("*")][::-1]:
            if not left.name.startswith((".lloydmax", "lloydmax")):
                left.rmdir() if left.is_dir() else left.unlink()


def _one(trial: Trial, number: int, place: Path, alive: weakref.WeakSet[nn.Module] | None = None) -> None:
    net = network(number)
    if alive is not None:
        alive.add(net)
    made = trial(net, pictures(number), place, [_Hearing()])
    if alive is not None and isinstance(model := getattr(made, "model", made), nn.Module):
        alive.add(model)


def _now() -> dict[str, float]:
    for _ in range(3):
        gc.collect()
    return {
        "objects": len(gc.get_objects()),
        "memory": _resident(),
        "descriptors": len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0,
        "threads": len(os.listdir("/proc/self/task")) if Path("/proc/self/task").exists() else threading.active_count(),
    }


def _resident() -> float:
    """Resident memory in MiB; 0 where it cannot be told."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        return 0.0


def table(found: list[Left]) -> Iterator[str]:
    """Lines of a Markdown table."""
    yield "| kind | trials | failed | interrupted | memory MiB | at most MiB | objects | networks | descriptors | threads | files | s a trial |"
    yield "|---|" + "---:|" * 11
    for one in found:
        yield (
            f"| {one.kind} | {one.trials} | {one.failed} | {one.interrupted} | {one.memory:+.1f} | {one.peak:+.1f} | "
            f"{one.objects:+d} | {one.networks} | {one.descriptors:+d} | {one.threads:+d} | {one.files} | "
            f"{one.seconds / max(one.trials, 1):.3f} |"
        )


def main() -> int:
    """Arguments in, a table out; 1 where something grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", choices=[*KINDS, []], help="default: all")
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--warm-up", type=int, default=WARM_UP)
    parser.add_argument("--list", action="store_true", help="print the kinds")
    parser.add_argument("--here", action="store_true", help="one kind, in this process; prints JSON")
    asked = parser.parse_args()
    if asked.list:
        print("\n".join(KINDS))
        return 0
    if asked.here:
        print(json.dumps(asdict(soak(asked.kinds[0], asked.trials, asked.warm_up))))
        return 0
    found, broken = [], []
    for name in asked.kinds or KINDS:
        command = [sys.executable, __file__, name, "--here", "--trials", str(asked.trials)]
        ran = subprocess.run([*command, "--warm-up", str(asked.warm_up)], capture_output=True, text=True)
        try:
            found.append(Left(**json.loads(ran.stdout.splitlines()[-1])))
            print(*list(table(found))[-1:], sep="\n", file=sys.stderr, flush=True)
        except (ValueError, IndexError):
            broken.append(f"{name}: {ran.stderr.strip()}")
            print(broken[-1], file=sys.stderr, flush=True)
    print(*table(found), sep="\n")
    grew = [f"{one.kind}: {one.grew}" for one in found if one.grew]
    print(*grew, *broken, sep="\n", file=sys.stderr)
    return bool(grew or broken)


if __name__ == "__main__":
    sys.exit(main())
