"""What ``effort`` takes and gives: CPU seconds of one thread, peak memory and agreement, network by network.

    OMP_NUM_THREADS=1 python tests/benchmarks/effort.py            # efforts 0, 0.01, 0.1 and 1
    OMP_NUM_THREADS=1 python tests/benchmarks/effort.py --quick    # without 1

Each run is a process of its own, so that its peak is its own. The inputs are foreign to the networks, as in the demo.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

EFFORTS = (0.0, 0.01, 0.1, 1.0)
BITS, INPUTS = 2.5, 512


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


NETWORKS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "demo ResNet": _demo,
    "digit CNN, untrained": _digits,
    "MobileNetV3-Small, untrained, 28 x 28": _mobilenet,
    "EfficientNet-Lite0, 500 photographs of 128 x 128": _lite,
}


def measured(name: str, effort: float) -> dict[str, Any]:
    """One run."""
    import resource

    import lloydmax

    warnings.simplefilter("ignore")
    model, data = NETWORKS[name]()
    began = time.process_time()
    recipe = lloydmax.recipe_for(model, BITS, data, effort=effort)
    report = lloydmax.compress(model, recipe, data, progress=False).report
    steps = sum(said.get("steps") or 0 for said in report.recovery)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    spent = time.process_time() - began
    return {"seconds": spent, "steps": steps, "peak": peak, "alike": report.alike.after, "weights": report.weights}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--one", nargs=2, metavar=("NETWORK", "EFFORT"))
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measured(asked.one[0], float(asked.one[1]))))
        return
    print(
        f"{platform.machine()}, torch {torch.__version__}, {os.environ.get('OMP_NUM_THREADS', '?')} thread; {BITS} bits"
    )
    print(
        "| network | weights | effort | steps | CPU seconds | peak memory | agreement |\n|---|---|---|---|---|---|---|"
    )
    for name in NETWORKS:
        for effort in EFFORTS[: -1 if asked.quick else None]:
            command = [sys.executable, __file__, "--one", name, str(effort)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            print(
                f"| {name} | {found['weights']:,} | {effort:g} | {found['steps']:,} | {found['seconds']:.0f} | "
                f"{found['peak'] / 1e9:.1f} GB | {100 * found['alike']:.1f} % |",
                flush=True,
            )


if __name__ == "__main__":
    main()
