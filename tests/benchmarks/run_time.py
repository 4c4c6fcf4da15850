"""Latency and memory of compressed layers by the way they run, in Markdown; about 5 minutes on one core.

    OMP_NUM_THREADS=1 taskset -c 0 python tests/benchmarks/run_time.py [layer] [network] [agreement]
    OMP_NUM_THREADS=2 python tests/benchmarks/run_time.py layer

Medians of interleaved runs; with one thread of process CPU time, which neighbours on the machine disturb little, with
more of wall-clock time. Memory is the peak of a fresh process from the load of the file to the end of one forward
pass, beyond what it holds with everything imported.
"""

from __future__ import annotations

import copy
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
from lloydmax.student import attach, finish
from torch import Tensor, nn

WAYS: dict[str, tuple[bool, Any]] = {
    "decoded, cached (default)": (True, None),
    "decoded on the fly: `set_cache(model, False)`": (False, None),
    '`set_cache(model, False)`, `set_kernel(model, "codes")`': (False, "codes"),
    '`set_cache(model, False)`, `set_kernel(model, "int8")`': (False, "int8"),
}
FLOAT = "float32"
SIZE = 4096
SHAPES = {"linear": (SIZE,), "vgg16": (3, 224, 224)}


def network(name: str) -> nn.Module:
    """A 4096 x 4096 linear layer or torchvision's VGG-16, random weights."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(SIZE, SIZE)) if name == "linear" else torchvision.models.vgg16(weights=None)


def compressed(model: nn.Module, centroids: int) -> nn.Module:
    """Every parameter in a codebook of its own."""
    for name, parameter in list(model.named_parameters()):
        attach(model, name, lloydmax.fit_codebook(parameter, centroids))
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
    return json.loads(done.stdout.splitlines()[-1])


def probe(name: str, folder: str, way: str, batch: str) -> None:
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    with torch.inference_mode():
        opened(name, Path(folder), way)(torch.randn(int(batch), *SHAPES[name]))
    print(_status("VmHWM") - before)


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


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


def difference(found: Tensor, expected: Tensor) -> str:
    return f"{float((found - expected).abs().max() / expected.abs().max()):.0e}"


@torch.inference_mode()
def layer() -> None:
    """The memory-bound layer: against float32 with the decoded weights, for several numbers of centroids."""
    print(
        f"\n**Linear layer, {SIZE} x {SIZE}**, {torch.get_num_threads()} thread(s). Off: largest difference of an output"
    )
    print("from float32 with the decoded weights, in units of the largest output.\n")
    print("| centroids | run | batch 1 | | off | batch 32 | | memory, batch 1 |\n|---|---|---|---|---|---|---|---|")
    for centroids in (16, 32, 64, 128, 256):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write("linear", folder, centroids)
            models = {way: opened("linear", folder, way) for way in WAYS}
            dense = network("linear").eval()
            for key, codebook in lloydmax.codebooks(next(iter(models.values()))).items():
                dense.get_parameter(key).copy_(codebook.dequantize())
            models = {FLOAT: dense, **models}
            inputs = {batch: torch.randn(batch, SIZE) for batch in (1, 32)}
            runs = {
                (way, batch): lambda model=model, x=x: model(x)
                for way, model in models.items()
                for batch, x in inputs.items()
            }
            seconds = medians(runs, 15)
            for way, model in models.items():
                if centroids != 32 and WAYS.get(way, (0, 0))[1] != "codes":
                    continue
                cells = [str(centroids) if way != FLOAT else "", way]
                for batch, x in inputs.items():
                    cells.append(f"{1e3 * seconds[way, batch]:.2f} ms")
                    cells.append(f"{seconds[way, batch] / seconds[FLOAT, batch]:.2f}")
                    if batch == 1:
                        cells.append(difference(model(x), dense(x)) if way != FLOAT else "")
                cells.append(f"{peak_bytes('linear', folder, way, 1) / 1e6:.0f} MB")
                print("| " + " | ".join(cells) + " |", flush=True)


@torch.inference_mode()
def whole_network() -> None:
    """VGG-16 with 32 centroids (5 bits) in every parameter."""
    print(f"\n**VGG-16, 32 centroids everywhere**, 224 x 224, {torch.get_num_threads()} thread(s)\n")
    print(
        "| run | batch 1 | | batch 32 | | memory, batch 1 | | memory, batch 32 | |\n|---|---|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write("vgg16", folder)
        memory = {(way, batch): peak_bytes("vgg16", folder, way, batch) for way in (FLOAT, *WAYS) for batch in (1, 32)}
        models = {way: opened("vgg16", folder, way) for way in (FLOAT, *WAYS)}
    seconds: dict[tuple[str, int], float] = {}
    for batch, rounds in ((1, 7), (32, 1)):
        x = torch.randn(batch, *SHAPES["vgg16"])
        taken = medians({way: lambda model=model, x=x: model(x) for way, model in models.items()}, rounds)
        seconds |= {(way, batch): value for way, value in taken.items()}
    for way in models:
        cells = [way]
        for batch in (1, 32):
            cells += [f"{seconds[way, batch]:.2f} s", f"{seconds[way, batch] / seconds[FLOAT, batch]:.2f}"]
        for batch in (1, 32):
            share = memory[way, batch] / memory[FLOAT, batch]
            cells += [f"{memory[way, batch] / 1e6:.0f} MB", f"{share:.1%}"]
        print("| " + " | ".join(cells) + " |")


@torch.inference_mode()
def agreement() -> None:
    """Trained networks, every large enough parameter at 16 centroids, all linear layers by the kernel."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "plugin" / "integrations"))
    from ao_models import digit_cnn, digits, minilm, sentences

    print(
        "\n**Agreement with the same codebooks run by the decoded weights**, 16 centroids in every matrix and filter\n"
    )
    print(
        "| run | digit network, 1,000 digits: same top-1 | largest logit off | MiniLM: least cosine |\n|---|---|---|---|"
    )
    inputs, tokens = digits(1000)[0], sentences()
    models = []
    for model in (digit_cnn(), minilm()):
        for name, parameter in list(model.named_parameters()):
            if parameter.dim() > 1:
                attach(model, name, lloydmax.fit_codebook(parameter, 16))
        models.append(finish(model).eval())

    def outputs(model: nn.Module, x: Tensor) -> Tensor:
        return torch.cat([model(part) for part in x.split(1)])

    expected = [outputs(copy.deepcopy(model), x) for model, x in zip(models, (inputs, tokens), strict=True)]
    for way in list(WAYS)[1:]:
        logits, sentence = (outputs(set_way(model, way), x) for model, x in zip(models, (inputs, tokens), strict=True))
        same = (logits.argmax(1) == expected[0].argmax(1)).float().mean()
        cosine = torch.cosine_similarity(sentence, expected[1]).min()
        print(f"| {way} | {same:.2%} | {difference(logits, expected[0])} | {cosine:.6f} |")


def main() -> None:
    parts = {"layer": layer, "network": whole_network, "agreement": agreement}
    if sys.argv[1:2] == ["probe"]:
        return probe(*sys.argv[2:])
    print(", ".join(f"{key} {value}" for key, value in environment().items()))
    for part in sys.argv[1:] or parts:
        parts[part]()


if __name__ == "__main__":
    main()
