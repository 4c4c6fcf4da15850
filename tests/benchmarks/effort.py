"""What ``effort`` and bits take and give: CPU seconds of one thread, peak memory and agreement, network by network.

    OMP_NUM_THREADS=1 python tests/benchmarks/effort.py                              # 2.5 bits; efforts 0, 0.01, 0.1, 1
    OMP_NUM_THREADS=1 python tests/benchmarks/effort.py --bits 2 3 4 --efforts 0     # time and memory by bits
    python tests/benchmarks/effort.py ... --done                                     # print what is there, run nothing

Each cell is a process of its own, so that its peak is its own, and leaves one small file in the folder, so that a run
goes on where it ended. The inputs are foreign to the networks, as in the demo, but for those of EfficientNet-Lite0.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from published.cells import Cell, Store, markdown
from torch import Tensor, nn

INPUTS = 512


def _demo() -> tuple[nn.Module, Tensor]:
    from lloydmax import demo

    return demo.network(), demo.silhouettes()[:INPUTS]


def _digits() -> tuple[nn.Module, Tensor]:
    from digit_recognizer.model import CNN
    from lloydmax import demo

    return CNN().eval(), demo.silhouettes()[:INPUTS]


def _mobilenet() -> tuple[nn.Module, Tensor]:
    from lloydmax import demo
    from torchvision.models import mobilenet_v3_small

    torch.manual_seed(0)
    silhouettes = demo.silhouettes()[:INPUTS]
    return mobilenet_v3_small(num_classes=10).eval(), silhouettes.expand(-1, 3, -1, -1).contiguous()


def _lite() -> tuple[nn.Module, Tensor]:
    from published.lite import crops, network

    return network(), crops(500, 0)


def _resnet() -> tuple[nn.Module, Tensor]:
    from published.lite import crops
    from torchvision.models import resnet18

    torch.manual_seed(0)
    return resnet18().eval(), crops(500, 0)


NETWORKS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "demo ResNet": _demo,
    "digit CNN, untrained": _digits,
    "MobileNetV3-Small, untrained, 28 x 28": _mobilenet,
    "EfficientNet-Lite0, 500 photographs of 128 x 128": _lite,
    "ResNet-18, untrained, 500 photographs of 128 x 128": _resnet,
}


def measured(name: str, bits: float, effort: float) -> dict[str, Any]:
    """One run."""
    import resource

    import lloydmax

    warnings.simplefilter("ignore")
    model, data = NETWORKS[name]()
    began = time.process_time()
    recipe = lloydmax.recipe_for(model, bits, data, effort=effort)
    report = lloydmax.compress(model, recipe, data, progress=False).report
    spent = time.process_time() - began
    steps = sum(said.get("steps") or 0 for said in report.recovery)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    figures = {"seconds": spent, "steps": steps, "peak": peak, "alike": report.alike.after, "weights": report.weights}
    return figures | {"bits": report.bits, "machine": report.environment.get("machine", "?")}


def apart(name: str, bits: float, effort: float) -> dict[str, Any]:
    """One run in a process of its own."""
    command = [sys.executable, __file__, "--one", name, str(bits), str(effort)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("effort-cells"))
    parser.add_argument("--bits", nargs="+", type=float, default=[2.5])
    parser.add_argument("--efforts", nargs="+", type=float, default=[0.0, 0.01, 0.1, 1.0])
    parser.add_argument("--networks", default="", help="comma-separated beginnings of names; default: all")
    parser.add_argument("--done", action="store_true")
    parser.add_argument("--one", nargs=3, metavar=("NETWORK", "BITS", "EFFORT"))
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measured(asked.one[0], float(asked.one[1]), float(asked.one[2]))))
        return
    store, rows, machines = Store(asked.folder), [], set[str]()
    for name in (name for name in NETWORKS if name.startswith(tuple(asked.networks.split(",")))):
        for bits, effort in ((bits, effort) for bits in asked.bits for effort in asked.efforts):
            key = {"network": name, "bits": bits, "effort": effort}
            cell = Cell("effort", key, partial(apart, name, bits, effort))
            if asked.done and not store.done(cell):
                continue
            found = (store.load([cell]).found[0] if store.done(cell) else store.run(cell))["figures"]
            machines.add(found["machine"])
            took = [f"{found['steps']:,}", f"{found['seconds']:.0f}", f"{found['peak'] / 1e9:.1f} GB"]
            rows.append(
                [name, f"{found['weights']:,}", f"{bits:g}", f"{effort:g}", *took, f"{100 * found['alike']:.1f} %"]
            )
            print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    heads = ["network", "weights", "bits", "effort", "steps", "CPU seconds", "peak memory", "agreement"]
    threads = os.environ.get("OMP_NUM_THREADS", "?")
    print(markdown(f"{', '.join(sorted(machines))}, torch {torch.__version__}, {threads} thread", heads, rows))


if __name__ == "__main__":
    main()
