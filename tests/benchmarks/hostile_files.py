"""What files that were made to cost much do cost: memory and processor time of inspect, verify and load.

python tests/benchmarks/hostile_files.py [NAME ...]

Every file is small and honest about its checksums. Each is read in a process of its own by a model of 28 values, or by
no model at all; an ordinary file, of a network in the shape of ResNet-18, is loaded beside them.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lloydmax
import torch
from lloydmax.codebook.codebook import Codebook
from lloydmax.format import compact
from lloydmax.student.attachment import attach
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

Change = Callable[[dict[str, Any], dict[str, Tensor]], Any]
BASE = {"floats": "float32", "codes": "packed", "layout": "named"}


def net() -> nn.Module:
    """What the files claim to be of."""
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def made(path: Path, change: Change, layout: str) -> None:
    """A file with a changed document or changed tensors, and honest checksums."""
    model = net()
    codes = torch.tensor([[0, 1, 2], [2, 1, 0], [1, 1, 2], [0, 0, 4]], dtype=torch.uint8)
    attach(model, "0.weight", Codebook(torch.arange(5.0), codes))
    lloydmax.save(model, path, {"name": "x"}, BASE | {"layout": layout})
    if layout == "compact":
        _rewritten_compact(path, change)
    else:
        _rewritten(path, change)


def _rewritten(path: Path, change: Change) -> None:
    with safe_open(path, "pt") as file:
        document = json.loads(file.metadata()["lloydmax"])
    held = load_file(path)
    change(document, held)
    document["crc32"] = [_checksum(held[name]) for name in sorted(held)]
    document.pop("header", None)
    save_file(held, path)
    with safe_open(path, "pt") as file:
        table, end = [], 0
        for name in file.offset_keys():
            part = file.get_slice(name)
            table.append([name, part.get_dtype(), part.get_shape(), end])
            end += held[name].nbytes
    signed = json.dumps([sorted(table), document], separators=(",", ":"), sort_keys=True)
    document["header"] = f"{zlib.crc32(signed.encode()):08x}"
    save_file(held, path, {"lloydmax": json.dumps(document, separators=(",", ":"), sort_keys=True)})


def _rewritten_compact(path: Path, change: Change) -> None:
    held = load_file(path)
    document = json.loads(compact.inflate(held["document"], 1 << 20))
    change(document, held)
    text = json.dumps(document, separators=(",", ":"), sort_keys=True)
    held["document"] = torch.frombuffer(bytearray(compact.deflate(text)), dtype=torch.uint8)
    save_file(held, path, {"lloydmax": compact.label(held["checksums"], held["document"])})


def _checksum(tensor: Tensor) -> str:
    return f"{zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data):08x}"


def even(document: dict[str, Any], held: dict[str, Tensor]) -> None:
    """2^24 evenly spaced centroids, which two numbers stand for."""
    document["parameters"]["0.weight"] |= {"k": 1 << 24, "even": True}
    held["0.weight.codebook"] = torch.tensor([1e-3, 0.0])
    held["0.weight.codes"] = torch.zeros(36, dtype=torch.uint8)


def table(count: int) -> Change:
    """Tensors that are empty; the names of the model, which begin with digits, come first."""

    def change(document: dict[str, Any], held: dict[str, Tensor]) -> None:
        rows = document["tensors"] + [[f"n{i:06}", "F32", [0]] for i in range(count)]
        document["tensors"] = sorted(rows, key=lambda row: (row[1] != "F32", row[0]))
        held["checksums"] = torch.tensor(held["checksums"].tolist() + [0] * count, dtype=torch.uint32)

    return change


def named(count: int) -> Change:
    """The same in the layout of format 1."""
    return lambda document, held: held.update({f"n{i:06}": torch.zeros(0) for i in range(count)})


def parameters(count: int) -> Change:
    """Parameters with one weight each."""

    def change(document: dict[str, Any], held: dict[str, Tensor]) -> None:
        document["parameters"] |= {f"n{i:06}": {"k": 1, "shape": [1]} for i in range(count)}
        held |= {f"n{i:06}.codebook": torch.zeros(1) for i in range(count)}
        held |= {f"n{i:06}.codes": torch.zeros(0, dtype=torch.uint8) for i in range(count)}

    return change


def entries(key: str, count: int, value: Any) -> Change:
    """A mapping in the document with many names."""
    return lambda document, held: document.setdefault(key, {}).update({f"n{i:06}": value for i in range(count)})


def whole(key: str, value: Any) -> Change:
    """A part of the document."""
    return lambda document, held: document.__setitem__(key, value)


def constants(document: dict[str, Any], held: dict[str, Tensor]) -> None:
    """A constant tensor that would fill the memory."""
    document["format"] = 2
    document["constants"] = {"1.weight": ["F32", [1 << 34], "0000803f"]}
    held.pop("1.weight")


def entropy(document: dict[str, Any], held: dict[str, Tensor]) -> None:
    """A stream of nothing but empty blocks, 20 MB of them."""
    document["parameters"]["0.weight"]["coding"] = "entropy"
    stream = zlib.compressobj(9, zlib.DEFLATED, -15).flush(zlib.Z_FULL_FLUSH) or b"\x00\x00\x00\xff\xff"
    held["0.weight.codes"] = torch.frombuffer(bytearray(stream * (20_000_000 // len(stream))), dtype=torch.uint8)


def shape(document: dict[str, Any], held: dict[str, Tensor]) -> None:
    """A weight of 64 axes with one centroid."""
    document["parameters"]["0.weight"] = {"k": 1, "shape": [1 << 20] * 64}
    held["0.weight.codebook"], held["0.weight.codes"] = torch.zeros(1), torch.zeros(0, dtype=torch.uint8)


ONE = ["F32", [1], "0000803f"]
FILES: dict[str, tuple[Change, str]] = {
    "even": (even, "named"),
    "shape": (shape, "named"),
    "huge constant": (constants, "named"),
    "entropy": (entropy, "named"),
    "table": (table(400_000), "compact"),
    "table, less": (table(8_000), "compact"),
    "named": (named(50_000), "named"),
    "named, less": (named(8_000), "named"),
    "parameters": (parameters(20_000), "named"),
    "parameters, less": (parameters(4_000), "named"),
    "constants": (entries("constants", 200_000, ONE), "compact"),
    "constants, less": (entries("constants", 8_000, ONE), "compact"),
    "tied": (entries("tied", 200_000, "0.weight"), "compact"),
    "tied, less": (entries("tied", 8_000, "0.weight"), "compact"),
    "folded": (entries("folded", 200_000, "1"), "compact"),
    "folded, less": (entries("folded", 8_000, "1"), "compact"),
    "activations": (whole("activations", [[0.1, 3]] * 1_000_000), "compact"),
    "activations, less": (whole("activations", [[0.1, 3]] * 8_000), "compact"),
    "extra": (whole("extra", {"0": [{str(i): []} for i in range(200_000)]}), "compact"),
    "extra, less": (whole("extra", {"0": [{str(i): []} for i in range(43_000)]}), "compact"),
    "recipe": (whole("recipe", {"x": [[]] * 1_000_000}), "compact"),
    "recipe, less": (whole("recipe", {"x": [{}] * 65_000}), "compact"),
    "text": (whole("recipe", {"x": "\u00e9" * 3_300_000}), "named"),
    "text, less": (whole("recipe", {"x": "\u00e9" * 590_000}), "named"),
}
"""Most of them far above the limits of a reader, and just below."""


def resnet18() -> nn.Module:
    """The parameters of ResNet-18, in its order."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, bias=False), nn.BatchNorm2d(64)]
    inside = 64
    for width in (64, 128, 256, 512):
        for block in range(2):
            layers += [nn.Conv2d(inside, width, 3, bias=False), nn.BatchNorm2d(width)]
            layers += [nn.Conv2d(width, width, 3, bias=False), nn.BatchNorm2d(width)]
            if block == 0 and inside != width:
                layers += [nn.Conv2d(inside, width, 1, bias=False), nn.BatchNorm2d(width)]
            inside = width
    return nn.Sequential(*layers, nn.Linear(512, 1000))


def ordinary(path: Path) -> None:
    """A file of such a network, 16 centroids each."""
    torch.manual_seed(0)
    model = resnet18()
    for name, parameter in list(model.named_parameters()):
        if parameter.dim() > 1:
            codes = torch.randint(0, 16, parameter.shape, dtype=torch.uint8)
            attach(model, name, Codebook(torch.randn(16), codes))
    lloydmax.save(model, path)


def _most_memory() -> int:
    """The most that this process had in memory, in KiB; ``getrusage`` would count its parent's, too."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0])


def measured(path: str, use: str) -> None:
    """Read a file in this process, and print what came of it."""
    model = net()
    uses = {
        "inspect": lambda: str(lloydmax.inspect(path)),
        "verify": lambda: lloydmax.verify(path),
        "load": lambda: lloydmax.load(path, model),
    }
    with tempfile.TemporaryDirectory() as folder:  # what is imported at the first use
        made(Path(folder) / "warm", lambda document, held: None, "compact")
        str(lloydmax.inspect(Path(folder) / "warm"))
        lloydmax.load(Path(folder) / "warm", net())
    before, start = _most_memory(), time.process_time()
    try:
        uses[use]()
        said = "ok"
    except lloydmax.CheckpointError as error:
        said = str(error).removeprefix(f"{path}: ")
    seconds = time.process_time() - start
    grown = (_most_memory() - before) / 1024
    print(f"{grown:8.1f} MiB {seconds:8.2f} s   {said[:90]}")


def main(names: list[str]) -> None:
    """Print a line for each file and use, and the times of an ordinary file."""
    with tempfile.TemporaryDirectory() as folder:
        for name in names or FILES:
            path = Path(folder) / name.replace(" ", "_")
            made(path, *FILES[name])
            for use in ("inspect", "verify", "load"):
                command = [sys.executable, __file__, "--one", str(path), use]
                said = subprocess.run(command, capture_output=True, text=True, check=False)
                last = (said.stdout or said.stderr).strip().splitlines()[-1]
                print(f"{name:15} {path.stat().st_size:>11,} bytes  {use:8} {last}", flush=True)
            path.unlink()
        ordinary(path := Path(folder) / "ordinary")
        times: dict[str, list[float]] = {"inspect": [], "verify": [], "load": []}
        for _ in range(21):
            model = resnet18()
            for use, call in (("inspect", lloydmax.inspect), ("verify", lloydmax.verify)):
                start = time.process_time()
                call(path)
                times[use].append(time.process_time() - start)
            start = time.process_time()
            lloydmax.load(path, model)
            times["load"].append(time.process_time() - start)
        said = ", ".join(f"{use} {1000 * statistics.median(found):.2f} ms" for use, found in times.items())
        print(f"{'ordinary':15} {path.stat().st_size:>11,} bytes  {said}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        measured(*sys.argv[2:])
    else:
        main(sys.argv[1:])
