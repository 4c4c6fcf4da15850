"""Trellis-coded codes against scalar ones: bits a weight at the same squared error.

    LLOYDMAX_ZOO=CHECKPOINTS OMP_NUM_THREADS=1 python tests/benchmarks/trellis.py [--networks a,b] [--layers 3]

Two tables take turns (Marcellin and Fischer 1990; as "dependent quantization" in VVC and NNR): one has the even numbers
of a fine grid, the other 0 and the odd ones, and a machine with 8 states, moved by the parity of the codes before, says
which. Codes are those of the path with the least squared error + price x bits (Viterbi 1967), centroids means, bits the
entropy of the codes of each table. Scalar codes are those of ``kmeans`` with a price. Bits for the same error are
interpolated between prices. Both have no contexts.
"""

from __future__ import annotations

import argparse
import math
import sys

import numpy as np
import numpy.typing as npt
import torch
from lloydmax.report import environment
from lloydmax_strategies.clustering.histogram import Histogram
from lloydmax_strategies.clustering.priced import PricedPoints, fit_priced
from zoo.network import Missing
from zoo.registry import NETWORKS

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

NEXT = np.array([[0, 1], [3, 2], [5, 4], [6, 7], [1, 0], [2, 3], [4, 5], [7, 6]])
"""The state after each state and parity; the table of a state is its own parity."""
FROM = np.array([[(s, p) for s in range(8) for p in range(2) if NEXT[s, p] == state] for state in range(8)])
PIECE, ROUNDS, CLOSER = 1024, 7, 0.62
BITS = (1.0, 1.5, 2.0, 3.0, 4.0)


def subsets(middle: int, count: int) -> list[Integers]:
    """Places in the grid, for table and parity: the even numbers by the parity of their halves, 0 and the odd ones."""
    number = np.arange(count) - middle
    parity = np.where(number % 2 == 0, number // 2, (np.abs(number) + 1) // 2) % 2
    inside = (number % 2 == 0, (number % 2 == 1) | (number == 0))
    return [np.flatnonzero(inside[table] & (parity == side)) for table in range(2) for side in range(2)]


def best_path(weights: Floats, grid: Floats, bits: Floats, price: float, middle: int) -> tuple[Integers, Integers]:
    """Places in the grid of the cheapest path through each row, and the tables they are from."""
    rows, steps = weights.shape
    places, costs = np.empty((4, rows, steps), np.int64), np.empty((4, rows, steps))
    for which, own in enumerate(subsets(middle, len(grid))):
        cost = (weights[..., None] - grid[own]) ** 2 + price * bits[which // 2, own]
        choice = cost.argmin(-1)
        places[which], costs[which] = own[choice], np.take_along_axis(cost, choice[..., None], -1)[..., 0]
    total = np.where(np.arange(8) == 0, 0.0, np.inf) * np.ones((rows, 1))
    back = np.empty((steps, rows, 8), np.int64)
    which = FROM[..., 0] % 2 * 2 + FROM[..., 1]
    for step in range(steps):
        both = total[:, FROM[..., 0]] + costs[which, :, step].transpose(2, 0, 1)
        back[step] = both.argmin(2)
        total = both.min(2)
    state, each = total.argmin(1), np.arange(rows)
    found, tables = np.empty((rows, steps), np.int64), np.empty((rows, steps), np.int64)
    for step in range(steps - 1, -1, -1):
        before, parity = FROM[state, back[step, each, state]].T
        tables[:, step] = before % 2
        found[:, step] = places[before % 2 * 2 + parity, each, step]
        state = before
    return found, tables


def trellis(weights: Floats, price: float) -> tuple[float, float]:
    """Bits a weight, and the mean squared error."""
    step = CLOSER * math.sqrt(6 * price / math.log(2))
    middle = math.ceil(np.abs(weights).max() / step) + 2
    grid, bits = (np.arange(2 * middle + 1) - middle) * step, np.zeros((2, 2 * middle + 1))
    for _ in range(ROUNDS):
        found, tables = best_path(weights, grid, bits, price, middle)
        counts = np.stack([np.bincount(found[tables == table], minlength=len(grid)) for table in range(2)])
        bits = -np.log2((counts + 0.02) / (counts + 0.02).sum(1, keepdims=True))
        sums, members = np.bincount(found.ravel(), weights.ravel(), minlength=len(grid)), counts.sum(0)
        grid = np.where(members > 0, sums / np.maximum(members, 1), grid)
    exact = np.log2(counts.sum(1, keepdims=True) / np.maximum(counts, 1))
    return float((counts * exact).sum() / weights.size), float(((weights - grid[found]) ** 2).mean())


def scalar(weights: Floats, price: float) -> tuple[float, float]:
    """The same of one table."""
    weight = torch.from_numpy(weights).float()
    book = fit_priced(weight, PricedPoints(Histogram.of(weight).points, 1024), price)
    return book.entropy, book.mse(weight)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=lambda text: text.split(","), default=["resnet8", "efficientnet"])
    parser.add_argument("--layers", type=int, default=3, help="of each network, the largest of up to 2**16 weights")
    given = parser.parse_args()
    print(", ".join(f"{key} {value}" for key, value in environment().items()), end="\n\n")
    print("| layer | " + " | ".join(f"{bits:g} bits" for bits in BITS) + " |\n|---" + "|---" * len(BITS) + "|")
    for name in given.networks:
        try:
            model = NETWORKS[name].load().model
        except Missing as missing:
            print(f"{name}: {missing}", file=sys.stderr)
            continue
        held = [(key, p) for key, p in model.named_parameters() if p.dim() > 1 and 2 * PIECE <= p.numel() <= 1 << 16]
        for key, parameter in sorted(held, key=lambda one: -one[1].numel())[: given.layers]:
            flat = parameter.detach().double().reshape(-1).numpy()
            weights = flat[: len(flat) // PIECE * PIECE].reshape(-1, PIECE)
            prices = [float((weights**2).mean()) * 2 ** (-halvings / 2) for halvings in range(1, 18, 2)]
            one, two = (np.array([kind(weights, price) for price in prices]).T for kind in (scalar, trellis))
            errors = np.interp(BITS, one[0], np.log(one[1]))
            needed = np.interp(-errors, -np.log(two[1]), two[0])
            saved = " | ".join(f"{100 * (n / b - 1):+.1f} %" for n, b in zip(needed, BITS, strict=True))
            print(f"| {name}: {key} {tuple(parameter.shape)} | {saved} |", flush=True)


if __name__ == "__main__":
    main()
