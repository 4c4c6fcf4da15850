"""Agreement at a file size: lloydmax and its peers on real networks, every byte of the file counted; one command.

    python tests/benchmarks/accuracy_at_size.py [--only NETWORK/METHOD/BITS ...] [--list] [--threads N] [--folder DIR]

Every cell (one network, one method, one number of bits) runs in a process of its own and leaves one JSON file under
FOLDER/cells, so that the command can be killed and started again; patterns of ``--only`` are globs, and parts from the
right may be left out (``efficientnet-lite0/coreml*``). Figures go to stdout as Markdown (``--json``: as JSON), and to
FOLDER as ``results.json``, ``tables.md`` and one SVG plot a network. What a peer refuses is a result: its own words are
in the cell. A cell whose network or package is not installed is told and left out.

Needs the extra ``bench``; networks and pictures: see ``size/networks.py`` and ``size/photos.py``. The Fashion-MNIST
teachers are those of ``published/teachers.py`` (``--teachers``: its folder). Set ``--threads 1`` (the default) for
figures that other machines can be compared with.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
import warnings
from pathlib import Path

import torch
from published import teachers
from published.pictures import MissingPictures
from size import runs, tables
from size.networks import networks


def main() -> None:
    """Run what is missing, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], metavar="NETWORK/METHOD/BITS", help="globs")
    parser.add_argument("--folder", type=Path, default=Path("build/accuracy_at_size"))
    parser.add_argument("--teachers", type=Path, default=teachers.FOLDER)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--list", action="store_true", help="list the cells, run nothing")
    parser.add_argument("--tables", action="store_true", help="run nothing, print what is there")
    parser.add_argument("--json", action="store_true", help="print JSON in place of Markdown")
    parser.add_argument("--cell", type=runs.Key.read, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(arguments.threads)

    if arguments.cell:
        sys.exit(one(arguments.cell, arguments.folder, arguments.teachers))
    known = networks(arguments.folder, arguments.teachers)
    chosen = runs.keys(list(known), arguments.only)
    if not chosen:
        parser.error(f"--only {' '.join(arguments.only)} matches no cell: --list shows all of them")
    if arguments.list:
        for key in chosen:
            print(f"{key}{' (done)' if key.file(arguments.folder).exists() else ''}")
        return
    todo = [] if arguments.tables else [key for key in chosen if not key.file(arguments.folder).exists()]
    for number, key in enumerate(todo, start=1):
        said = runs.run(__file__, key, arguments.folder, arguments.teachers, arguments.threads)
        print(f"{time.strftime('%H:%M:%S')} [{number}/{len(todo)}] {key}: {said}", file=sys.stderr, flush=True)
    found = runs.load(arguments.folder)
    titles = {name: network.title for name, network in known.items()}
    text = tables.markdown(found, titles)
    tables.write(arguments.folder, found, text, titles)
    print(json.dumps(found, indent=1) if arguments.json else text)


def one(key: runs.Key, folder: Path, teacher_folder: Path) -> int:
    """Run one cell in this process and keep it; the exit status."""
    try:
        result = runs.measure(key, folder, teacher_folder)
    except (MissingPictures, ImportError) as missing:
        print(missing, file=sys.stderr)
        return 3
    except Exception:
        traceback.print_exc()
        return 1
    runs.store(key, folder, result)
    print(runs.summary(result))
    return 0


if __name__ == "__main__":
    main()
