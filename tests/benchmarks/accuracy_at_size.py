"""Agreement and accuracy at a file size: lloydmax and its peers on real networks, every byte of a file counted.

    python tests/benchmarks/accuracy_at_size.py [--network GLOB ...] [--method GLOB ...] [--bits GLOB ...] [--list]

Every cell (one network, one method, one size) runs in a process of its own, forked, and leaves one JSON file under
FOLDER/cells, so that the command can be killed and started again; lloydmax's files are kept under FOLDER/files, and
a file that is there is measured as it is, so that it may come from another machine. A size is the bits of a code
(``4``), or those of the whole file for each parameter of the original, at most (``at4.3``). Figures go to stdout as
Markdown (``--json``: as JSON) and to FOLDER as ``results.json`` and ``tables.md``; PLOTS gets one picture a network.
What a method refuses is a result: its own words are in the cell. A cell whose network or package is not installed is
told and left out.

Needs the extras ``test`` and ``bench``; pictures and texts: see ``size/photos.py`` and ``size/minilm.py``. The VGG-16
and ResNet-50 for Fashion-MNIST are those of ``published/teachers.py`` (``--teachers``: its folder).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from published import teachers
from size import runs, tables
from size.networks import networks

PLOTS = Path(__file__).parent / "plots"


def main(words: Sequence[str] | None = None) -> None:
    """Run what is missing, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for kind in ("network", "method", "bits"):
        parser.add_argument(f"--{kind}", nargs="+", default=[], metavar="GLOB", help="only these; default: all")
    parser.add_argument("--folder", type=Path, default=Path("build/accuracy_at_size"), help="of cells and tables")
    parser.add_argument("--plots", type=Path, default=PLOTS, help="folder of the plots")
    parser.add_argument("--teachers", type=Path, default=teachers.FOLDER)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--effort", choices=("low", "medium", "high", "highest"), default="medium", help="of the full recovery"
    )
    parser.add_argument("--device", default="cpu", help="of the networks, and of all that lloydmax does")
    parser.add_argument("--list", action="store_true", help="list the cells, run nothing")
    parser.add_argument("--tables", action="store_true", help="run nothing, print what is there")
    parser.add_argument("--json", action="store_true", help="print JSON in place of Markdown")
    arguments = parser.parse_args(words)
    settings = runs.Settings(
        arguments.folder, arguments.teachers, arguments.threads, arguments.effort, arguments.device
    )
    known = networks(settings.folder, settings.teachers)

    chosen = runs.keys(known, vars(arguments))
    if not chosen:
        parser.error("no cell matches --network, --method and --bits together; --list shows all cells")
    if arguments.list:
        for key in chosen:
            print(f"{key}{' (done)' if key.file(settings.folder).exists() else ''}")
        return
    todo = [] if arguments.tables else [key for key in chosen if not key.file(settings.folder).exists()]
    for number, key in enumerate(todo, start=1):
        said = runs.run(key, known[key.network], settings)
        print(f"{time.strftime('%H:%M:%S')} [{number}/{len(todo)}] {key}: {said}", file=sys.stderr, flush=True)
    found = runs.load(settings.folder)
    text = tables.write(settings.folder, arguments.plots, found, {name: known[name].title for name in known})
    print(json.dumps(found, indent=1) if arguments.json else text)


if __name__ == "__main__":
    main()
