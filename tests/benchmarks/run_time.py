"""Latency and memory of compressed layers by the way they run, in Markdown; 5 to 15 minutes on one core.

    OMP_NUM_THREADS=1 python tests/benchmarks/run_time.py [layer] [network] [agreement]

Time: medians of interleaved runs; with one thread of process CPU time, which neighbours on the machine disturb little,
with more of wall-clock time. Memory: the peak resident set (VmHWM of Linux) of a process of its own that builds the
network on the meta device, opens its file and runs it once, less the peak of that process when everything was imported.
It counts the mapped pages of the file and the activations.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lloydmax
import torch
import torchvision
from lloydmax.report import environment
from lloydmax.student.attachment import attach, finish
from torch import Tensor, nn

WAYS: dict[str, tuple[bool, Any]] = {
    "decoded, cached (default)": (True, None),
    "decoded on the fly: `set_cache(model, False)`": (False, None),
    'int8: `set_kernel(model, "int8")`': (True, "int8"),
    "int8, without the cache: both": (False, "int8"),
}
FLOAT = "float32"
SIZE = 4096
SHAPES = {"linear": (SIZE,), "vgg16": (3, 224, 224)}
BATCHES = (1, 32)


def network(name: str) -> nn.Module:
    """A 4096 x 4096 linear layer or torchvision's VGG-16, random weights."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(SIZE, SIZE)) if name == "linear" else torchvision.models.vgg16(weights=None)


def compressed(model: nn.Module, centroids: int, granularity: str = "tensor", least: int = 1) -> nn.Module:
    """Every parameter of at least so many dimensions in codebooks of its own."""
    for name, parameter in list(model.named_parameters()):
        if parameter.dim() >= least:
            attach(model, name, lloydmax.fit_codebook(parameter, centroids, granularity))
    return finish(model).eval()


def write(name: str, folder: Path, centroids: int = 32) -> None:
    """The float32 and the compressed file of a network."""
    model = network(name)
    torch.save(model.state_dict(), folder / f"{name}.pt")
    lloydmax.save(compressed(model, centroids), folder / f"{name}.safetensors")


def opened(name: str, folder: Path, way: str) -> nn.Module:
    """The network from its file, built without memory of its own."""
    with torch.device("meta"):
        model = network(name)
    if way == FLOAT:
        model.load_state_dict(torch.load(folder / f"{name}.pt", weights_only=True), assign=True)
        return model.eval()
    return set_way(lloydmax.load(folder / f"{name}.safetensors", model), way)


def set_way(model: nn.Module, way: str) -> nn.Module:
    cached, kernel = WAYS[way]
    return lloydmax.set_kernel(lloydmax.set_cache(model, cached), kernel)


def peak_bytes(name: str, folder: Path, way: str, batch: int) -> int:
    """Peak memory of one process that opens a network and runs it once."""
    command = [sys.executable, __file__, "probe", name, str(folder), way, str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout.splitlines()[-1]))


def probe(name: str, folder: str, way: str, batch: str) -> None:
    before = _peak()
    with torch.inference_mode():
        opened(name, Path(folder), way)(torch.randn(int(batch), *SHAPES[name]))
    print(_peak() - before)


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def medians(runs: dict[Any, Callable[[], Any]], rounds: int) -> dict[Any, float]:
    """Seconds of each, by runs that take turns."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    times: dict[Any, list[float]] = {key: [] for key in runs}
    for turn in range(rounds + 1):
        for key, run in runs.items():
            started = clock()
            run()
            if turn:
                times[key].append(clock() - started)
    return {key: statistics.median(values) for key, values in times.items()}


def distance(found: Tensor, wanted: Tensor) -> float:
    """Relative, in the Euclidean norm."""
    return float((found - wanted).norm() / wanted.norm())


def table(name: str, models: dict[str, nn.Module], memory: dict[tuple[str, int], int], rounds: dict[int, int]) -> None:
    print("| run | batch 1 | | batch 32 | | memory, batch 1 | | memory, batch 32 | | outputs off |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    inputs = {batch: torch.randn(batch, *SHAPES[name]) for batch in BATCHES}
    seconds: dict[tuple[str, int], float] = {}
    for batch, x in inputs.items():
        taken = medians({way: lambda model=model, x=x: model(x) for way, model in models.items()}, rounds[batch])
        seconds |= {(way, batch): value for way, value in taken.items()}
    wanted = models[next(iter(WAYS))](inputs[1])
    for way, model in models.items():
        cells = [way]
        for batch in BATCHES:
            cells += [f"{1e3 * seconds[way, batch]:.1f} ms", f"x {seconds[way, batch] / seconds[FLOAT, batch]:.2f}"]
        for batch in BATCHES:
            share = memory[way, batch] / memory[FLOAT, batch]
            cells += [f"{memory[way, batch] / 1e6:.0f} MB", f"{share:.0%}"]
        cells.append("" if way == FLOAT else f"{distance(model(inputs[1]), wanted):.1e}")
        print("| " + " | ".join(cells) + " |", flush=True)


@torch.inference_mode()
def run(name: str, title: str, rounds: dict[int, int]) -> None:
    """Every way from the same file, against the float32 network."""
    print(f"\n**{title}**, {torch.get_num_threads()} thread(s); outputs off: from the decoded weights, relative\n")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write(name, folder)
        ways = (FLOAT, *WAYS)
        memory = {(way, batch): peak_bytes(name, folder, way, batch) for way in ways for batch in BATCHES}
        table(name, {way: opened(name, folder, way) for way in ways}, memory, rounds)


def layer() -> None:
    """The memory-bound layer."""
    run("linear", f"Linear layer, {SIZE} x {SIZE}, 32 centroids", {1: 31, 32: 15})
    with torch.inference_mode():
        model, x = network("linear"), torch.randn(16, SIZE)
        print("\n| centroids | int8 outputs off |\n|---|---|")
        for centroids, granularity in ((2, "tensor"), (16, "tensor"), (256, "tensor"), (16, "channel")):
            one = nn.Sequential(nn.Linear(SIZE, SIZE))
            attach(one, "0.weight", lloydmax.fit_codebook(model[0].weight, centroids, granularity))
            one = finish(one).eval()
            wanted = one(x)
            print(f"| {centroids} a {granularity} | {distance(lloydmax.set_kernel(one, 'int8')(x), wanted):.1e} |")


def whole_network() -> None:
    """VGG-16 with 32 centroids (5 bits) in every parameter."""
    run("vgg16", "VGG-16, 32 centroids everywhere, 224 x 224", {1: 7, 32: 1})


@torch.inference_mode()
def agreement() -> None:
    """Trained networks with 16 centroids a channel in every matrix and filter: what int8 changes."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "plugin" / "integrations"))
    from ao_models import efficientnet, minilm, photos, sentences

    crops, tokens = photos(250), sentences()
    vision, text = efficientnet(), minilm()
    teacher = outputs(vision, crops)
    kept = compressed(vision, 16, "channel", 2), compressed(text, 16, "channel", 2)
    print("\n**Agreement**, 16 centroids a channel in every matrix and filter\n")
    print(
        "| run | EfficientNet-Lite0, 250 photo crops: agreement with the original | logits off | MiniLM: least cosine |"
    )
    print("|---|---|---|---|")
    decoded: list[Tensor] = []
    for way in list(WAYS)[::2]:
        logits, vectors = (outputs(set_way(model, way), x) for model, x in zip(kept, (crops, tokens), strict=True))
        decoded = decoded or [logits, vectors]
        same = (logits.argmax(1) == teacher.argmax(1)).float().mean()
        cosine = torch.cosine_similarity(vectors, decoded[1]).min()
        print(f"| {way} | {same:.1%} | {distance(logits, decoded[0]):.1e} | {cosine:.6f} |", flush=True)


def outputs(model: nn.Module, x: Tensor) -> Tensor:
    """In batches of one, where int8 runs every large linear layer."""
    return torch.cat([model(part) for part in x.split(1)])


def main() -> None:
    parts = {"layer": layer, "network": whole_network, "agreement": agreement}
    if sys.argv[1:2] == ["probe"]:
        return probe(*sys.argv[2:])
    print(", ".join(f"{key} {value}" for key, value in environment().items()))
    for part in sys.argv[1:] or parts:
        parts[part]()


if __name__ == "__main__":
    main()
