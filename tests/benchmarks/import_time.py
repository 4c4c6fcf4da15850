"""What importing lloydmax costs beyond importing torch, in fresh processes.

python tests/benchmarks/import_time.py
"""

from __future__ import annotations

import subprocess
import sys

PROBE = "import time, torch; t = time.perf_counter(); import lloydmax; print(time.perf_counter() - t)"
HOSTS = ("neural_compressor", "torchao", "optuna", "ray", "torchvision", "onnx", "rich", "transformers")


def seconds_beyond_torch(runs: int = 5) -> float:
    """The least of several processes: whatever else the machine does only adds to it."""
    return min(
        float(subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True).stdout)
        for _ in range(runs)
    )


def imported_hosts() -> list[str]:
    """Which optional hosts (and slow libraries) importing lloydmax pulls in beyond what torch does: none."""
    code = (
        "import sys, torch; before = set(sys.modules); import lloydmax; "
        f"print(*(h for h in {HOSTS!r} if h in set(sys.modules) - before))"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


if __name__ == "__main__":
    print(f"import lloydmax after torch: {seconds_beyond_torch():.3f} s; optional hosts imported: {imported_hosts()}")
