"""A disk that is full, for one process: no file may grow beyond a few bytes."""

from __future__ import annotations

import pickle
import resource
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lloydmax
import lloydmax.data.kept
import lloydmax.teacher.kept
import torch
from lloydmax.report.report import Report
from torch import nn

MOST = 64
"""Bytes of a file."""


def written(folder: Path) -> dict[str, tuple[str, str, str, list[str]]]:
    """Call everything that writes; by name: the error and what it says, what a file that was there holds, what is left.

    It changes limits of the process, and must not end it.
    """
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 4)).eval()
    recipe: dict[str, Any] = {"version": 1, "name": "x" * 2 * MOST, "quantize": [{"layers": "all", "centroids": 4}]}
    learning = recipe | {"trainable": ["all"], "recover": [{"step": "distill", "steps": 1}]}
    x = torch.randn(32, 64)
    result = lloydmax.compress(model, recipe, x, progress=False)
    searched = lloydmax.search(model, recipe, x, {"bits": 4})
    report: Report = result.report
    writers: dict[str, Callable[[Path], Any]] = {
        "a.safetensors": result.save,
        "b.safetensors": lambda path: lloydmax.save(result.model, path, storage={"layout": "compact"}),
        "a.pt2": lambda path: lloydmax.export(result.model, path, example_inputs=x),
        "a.yaml": lloydmax.Recipe.load(recipe).save,
        "report.json": report.to_json,
        "sweep.json": searched.sweep.to_json,
        "search.json": searched.to_json,
    }
    runs: dict[str, Callable[[Path], Any]] = {
        "outputs": lambda path: lloydmax.compress(model, learning, x, progress=False, workdir=path),
        "inputs": lambda path: lloydmax.compress(model, learning, iter([x] * 4), progress=False, workdir=path),
    }
    lloydmax.teacher.kept.MEMORY_LIMIT = MOST
    lloydmax.data.kept.spool.__kwdefaults__["memory_limit"] = MOST
    found = {}
    for name, write in (writers | runs).items():
        path = folder / name
        path.write_text("old") if name in writers else path.mkdir()
        resource.setrlimit(resource.RLIMIT_FSIZE, (MOST, resource.RLIM_INFINITY))
        try:
            write(path)
            error = ("none", "")
        except lloydmax.LloydmaxError as raised:
            error = (type(raised).__name__, str(raised))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        kept = path.read_text(errors="replace") if name in writers else "old"
        left = [
            str(one.relative_to(folder)) for one in folder.rglob("*") if ".lloydmax-" in one.name or ".bin" in one.name
        ]
        found[name] = (*error, kept, left)
    return found


if __name__ == "__main__":  # a process of its own, since limits count for all of one
    sys.stdout.buffer.write(pickle.dumps(written(Path(sys.argv[1]))))
