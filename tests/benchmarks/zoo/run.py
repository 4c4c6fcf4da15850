"""Size against quality on real trained networks of many tasks, every byte of a file counted.

    LLOYDMAX_ZOO=CHECKPOINTS python tests/benchmarks/zoo/run.py [--networks a,b] [--bits 4,3,2] [--rows none,effort0]

Networks come from packages that ship their weights, and from files of public repositories that lie in CHECKPOINTS; one
that is not there is passed over, and it is said what to install. ``--list`` tells them all. Each cell (a network, a
way, a number of bits) is kept as a JSON file in ``--folder``, so that the command can be killed and started again.
Prints Markdown: the score of each way and, in brackets, the bits of its file for each weight of the original; then
where lloydmax is behind.
"""

from __future__ import annotations

import argparse
import gc
import logging
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from published.cells import Cell, Store, markdown

from zoo.network import Loaded, Missing, Network
from zoo.registry import NETWORKS
from zoo.rows import OURS, ROWS, weights

MORE = 1.05
"""Times the bits that a file may have to be as small as another."""
ALIKE = {True: 0.01, False: 0.002}
"""Shares that differ by less are alike; other scores, by less than this share of the better one."""


def cells(network: str, bits: Sequence[float], rows: Sequence[str], loaded: Loaded | None) -> list[Cell]:
    """Of a network; they run only where it is loaded."""

    def original() -> dict[str, Any]:
        assert loaded is not None
        return {"score": loaded.measure(loaded.model), "weights": weights(loaded.model)}

    def compressed(row: str, size: float) -> dict[str, Any]:
        assert loaded is not None
        start = time.process_time()
        try:
            made = ROWS[row][1](loaded, size)
        except Exception as refusal:
            return {"refused": f"{type(refusal).__name__}: {refusal}"[:500]}
        seconds = round(time.process_time() - start, 1)
        share = 8 * made.bytes / weights(loaded.model)
        return {"score": loaded.measure(made.model), "bits": round(share, 3), "compression": seconds}

    wanted = [Cell("zoo", {"network": network, "row": "original", "bits": 32}, original)]
    for size in bits:
        for row in rows:
            key = {"network": network, "row": row, "bits": size}
            wanted.append(Cell("zoo", key, lambda row=row, size=size: compressed(row, size)))  # type: ignore[misc]
    return wanted


def main(words: Sequence[str] | None = None, known: dict[str, Network] = NETWORKS) -> None:
    """Run what is missing, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=_names(known), default=list(known))
    parser.add_argument("--bits", type=lambda text: [_bits(part) for part in text.split(",")], default=[4, 3, 2])
    parser.add_argument("--rows", type=_names(ROWS), default=list(ROWS))
    parser.add_argument("--folder", type=Path, default=Path("build/zoo"), help="of the cells")
    parser.add_argument("--list", action="store_true", help="tell the networks and whether they are there, run nothing")
    parser.add_argument("--tables", action="store_true", help="run nothing, print what is there")
    given = parser.parse_args(words)
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    store = Store(given.folder)
    for name in given.networks:
        wanted = cells(name, given.bits, given.rows, None)
        if given.tables or (not given.list and all(store.done(cell) for cell in wanted)):
            continue
        try:
            loaded = known[name].load()
        except Missing as missing:
            print(f"{name} is passed over: {missing}", file=sys.stderr, flush=True)
            continue
        if given.list:
            found = known[name]
            print(f"{name}: {found.task}; {found.source}; {found.measure}; {weights(loaded.model):,} weights")
            continue
        for cell in cells(name, given.bits, given.rows, loaded):
            if not store.done(cell):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    result = store.run(cell)
                print(f"{time.strftime('%H:%M:%S')} {cell.name}: {result['figures']}", file=sys.stderr, flush=True)
                gc.collect()
    if not given.list:
        print(tables(store, {name: known[name] for name in given.networks}, given.bits, given.rows))


def _bits(text: str) -> float:
    """Whole numbers stay whole, also in the names of cells."""
    bits = float(text)
    return int(bits) if bits.is_integer() else bits


def _names(known: Any) -> Any:
    def read(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name} is not one of {', '.join(known)}")
        return names

    return read


def tables(store: Store, networks: dict[str, Network], bits: Sequence[float], rows: Sequence[str]) -> str:
    """For each number of bits a table, and where lloydmax is behind."""
    parts = []
    for size in bits:
        lines, behind = [], []
        for name, network in networks.items():
            done = store.load(cells(name, [size], rows, None)).found
            figures = {cell["key"]["row"]: cell["figures"] for cell in done}
            if "original" not in figures:
                continue
            first = figures.pop("original")
            label = f"{name}: {network.task}, {first['weights']:,} weights"
            told = [f"{network.measure}, {_score(first, network)}", *(_text(figures.get(row), network) for row in rows)]
            lines.append([label, *told])
            behind += [f"- {name}, {size} bits: {line}" for line in losses(figures, network)]
        head = ["network", "measure, original", *(ROWS[row][0] for row in rows)]
        parts += [markdown(f"{size} bits", head, lines), *behind, ""]
    return "\n".join(parts)


def losses(figures: dict[str, dict[str, Any]], network: Network) -> list[str]:
    """Where one of lloydmax's rows is behind a file that is not larger, or data behind none."""
    found = []
    scored = {row: cell for row, cell in figures.items() if "score" in cell}
    for row in OURS:
        if row not in scored:
            if row in figures:
                found.append(f"{ROWS[row][0]}: {figures[row]['refused']}")
            continue
        for other, cell in scored.items():
            smaller = other not in OURS and cell["bits"] <= MORE * scored[row]["bits"]
            without = row in ("effort0", "effort1", "made") and other == "none"
            if (smaller or without) and _worse(scored[row]["score"], cell["score"], network):
                texts = (f"{ROWS[name][0]} {_text(scored[name], network)}" for name in (row, other))
                found.append(" < ".join(texts))
    return found


def _worse(one: float, other: float, network: Network) -> bool:
    return not one >= other - ALIKE[network.percent] * (1.0 if network.percent else abs(other))


def _score(cell: dict[str, Any], network: Network) -> str:
    return f"{100 * cell['score']:.1f}" if network.percent else f"{cell['score']:.3f}"


def _text(cell: dict[str, Any] | None, network: Network) -> str:
    if cell is None:
        return "-"
    return f"{_score(cell, network)} ({cell['bits']:.2f})" if "score" in cell else "refused"


if __name__ == "__main__":
    main()
