"""Latency and memory of compressed layers by the way they run, in Markdown; 5 to 15 minutes on one core.

    OMP_NUM_THREADS=1 python tests/benchmarks/run_time.py [layer] [network] [language] [agreement] [KERNEL ...]

With names of kernels (``codes``), other ways than those and the default are left out.

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
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lloydmax
import torch
import torchvision
from lloydmax import native
from lloydmax.report import environment
from lloydmax.student.attachment import attach, finish
from lloydmax.student.kernels import KERNELS
from torch import Tensor, nn

DEFAULT = "decoded, cached (default)"
WAYS: dict[str, tuple[bool, Any]] = {
    DEFAULT: (True, None),
    "decoded on the fly: `set_cache(model, False)`": (False, None),
    'int8: `set_kernel(model, "int8")`': (True, "int8"),
    "int8, without the cache: both": (False, "int8"),
    'from codes: `set_kernel(model, "codes")`': (True, "codes"),
    'from codes: `set_kernel(model, "codes-fast")`': (True, "codes-fast"),
}
FLOAT = "float32"
DYNAMIC = "torch, dynamic int8"
"""``torch.ao.quantization.quantize_dynamic`` of the float32 network."""
PEERS = (FLOAT, DYNAMIC)
SIZE = 4096
SHAPES = {"linear": (SIZE,), "vgg16": (3, 224, 224)}
PROMPT, TOKENS = 16, 32


def network(name: str) -> nn.Module:
    """A 4096 x 4096 linear layer, torchvision's VGG-16 or transformers' GPT-2 of 124 million parameters; random."""
    torch.manual_seed(0)
    if name == "gpt2":
        from transformers import GPT2Config, GPT2LMHeadModel

        model: nn.Module = GPT2LMHeadModel(GPT2Config(bos_token_id=None, eos_token_id=None))
        return model
    return nn.Sequential(nn.Linear(SIZE, SIZE)) if name == "linear" else torchvision.models.vgg16(weights=None)


def used(name: str, model: nn.Module, batch: int) -> Tensor:
    """What a network gives: outputs, or tokens one after the other."""
    torch.manual_seed(1)
    if name != "gpt2":
        found: Tensor = model(torch.randn(batch, *SHAPES[name]))
        return found
    prompt: Any = torch.randint(0, 50_000, (batch, PROMPT))
    generated: Tensor = model.generate(prompt, max_new_tokens=TOKENS, do_sample=False, pad_token_id=0)  # type: ignore[operator]
    return generated


def compressed(model: nn.Module, centroids: int, granularity: str = "tensor", least: int = 1) -> nn.Module:
    """Every parameter of at least so many dimensions in codebooks of its own."""
    for name, parameter in list(model.named_parameters()):
        if parameter.dim() >= least:
            attach(model, name, lloydmax.fit_codebook(parameter, centroids, granularity))
    return finish(model).eval()


def write(name: str, folder: Path, centroids: int = 16) -> None:
    """The float32 and the compressed file of a network."""
    model = network(name)
    torch.save(model.state_dict(), folder / f"{name}.pt")
    if name == "gpt2":
        recipe = {"quantize": [{"layers": "all", "centroids": 16}]}
        lloydmax.compress(model, recipe, progress=False).save(folder / f"{name}.safetensors")
    else:
        lloydmax.save(compressed(model, centroids), folder / f"{name}.safetensors")


def opened(name: str, folder: Path, way: str) -> nn.Module:
    """The network from its file, built without memory of its own."""
    with torch.device("meta"):
        model = network(name)
    if way in PEERS:
        model.load_state_dict(torch.load(folder / f"{name}.pt", weights_only=True), assign=True)
        if name == "gpt2":
            model.tie_weights()  # type: ignore[operator]
        model.eval()
        return torch.ao.quantization.quantize_dynamic(model, inplace=True) if way == DYNAMIC else model
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
    network_of_nothing(name)
    before = _peak()
    with torch.inference_mode():
        used(name, opened(name, Path(folder), way), int(batch))
    print(_peak() - before)


def network_of_nothing(name: str) -> None:
    """What building one imports is no part of its memory."""
    with torch.device("meta"):
        network(name)


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
    heads = [f"{what}batch {batch} | " for what in ("", "memory, ") for batch in rounds]
    print("| run | " + "| ".join(heads) + ("| tokens a second |" if name == "gpt2" else "| outputs off |"))
    print("|---" * (2 + 4 * len(rounds)) + "|")
    seconds: dict[tuple[str, int], float] = {}
    for batch, turns in rounds.items():
        runs = {way: lambda model=model, batch=batch: used(name, model, batch) for way, model in models.items()}
        seconds |= {(way, batch): value for way, value in medians(runs, turns).items()}
    wanted = used(name, models[DEFAULT], 1)
    for way, model in models.items():
        cells = [way]
        for batch in rounds:
            cells += [f"{1e3 * seconds[way, batch]:.1f} ms", f"x {seconds[way, batch] / seconds[FLOAT, batch]:.2f}"]
        for batch in rounds:
            share = memory[way, batch] / memory[FLOAT, batch]
            cells += [f"{memory[way, batch] / 1e6:.0f} MB", f"{share:.0%}"]
        if name == "gpt2":
            cells.append(f"{TOKENS / seconds[way, 1]:.1f}")
        else:
            cells.append("" if way == FLOAT else f"{distance(used(name, model, 1), wanted):.1e}")
        print("| " + " | ".join(cells) + " |", flush=True)


@torch.inference_mode()
def run(name: str, title: str, rounds: dict[int, int]) -> None:
    """Every way from the same file, against the float32 network."""
    print(f"\n**{title}**, {torch.get_num_threads()} thread(s); outputs off: from the decoded weights, relative\n")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write(name, folder)
        kernels = set(sys.argv) & set(KERNELS)
        wanted = [way for way, (_, kernel) in WAYS.items() if not kernels or kernel in kernels or way == DEFAULT]
        ways = (*(PEERS if name != "linear" else (FLOAT,)), *wanted)
        memory = {(way, batch): peak_bytes(name, folder, way, batch) for way in ways for batch in rounds}
        table(name, {way: opened(name, folder, way) for way in ways}, memory, rounds)


def layer() -> None:
    """The memory-bound layer."""
    run("linear", f"Linear layer, {SIZE} x {SIZE}, 16 centroids", {1: 31, 32: 15})
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
    """VGG-16 with 16 centroids (4 bits) in every parameter."""
    run("vgg16", "VGG-16, 16 centroids everywhere, 224 x 224", {1: 5})


def language() -> None:
    """GPT-2 with 16 centroids (4 bits) in every matrix, one sequence."""
    run("gpt2", f"GPT-2, 124 M parameters, 16 centroids, {TOKENS} tokens after {PROMPT}", {1: 2})


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
    parts = {"layer": layer, "network": whole_network, "language": language, "agreement": agreement}
    if sys.argv[1:2] == ["probe"]:
        return probe(*sys.argv[2:])
    warnings.simplefilter("ignore")
    print(", ".join(f"{key} {value}" for key, value in environment().items()), f"core {native.path()}")
    for part in [name for name in sys.argv[1:] if name not in KERNELS] or parts:
        parts[part]()


if __name__ == "__main__":
    main()
