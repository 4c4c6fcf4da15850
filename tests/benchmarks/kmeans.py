"""Error, CPU time and memory of the quantizer ``kmeans`` against the optimum and other libraries.

    OMP_NUM_THREADS=1 python tests/benchmarks/kmeans.py [--quick] [quality] [libraries] [speed] [memory] [channels]

Times are process CPU time, the median of interleaved runs. The weights are drawn from Student's t with 5 degrees of
freedom and scale 0.02 unless a shape is named. coremltools is called at the function that its default
(fast) torch palettization uses: cast to float16, round to 4 decimals, unique, kmeans1d.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lloydmax.codebook.codebook import Codebook
from lloydmax_strategies.clustering.histogram import Histogram
from lloydmax_strategies.clustering.rows import fit_rows
from lloydmax_strategies.kmeans import KMeans
from torch import Tensor

SHAPES: dict[str, Callable[[np.random.Generator, int], Any]] = {
    "gaussian": lambda r, n: r.normal(size=n) * 0.02,
    "laplace": lambda r, n: r.laplace(size=n) * 0.02,
    "student 2": lambda r, n: r.standard_t(2, n) * 0.02,
    "student 5": lambda r, n: r.standard_t(5, n) * 0.02,
    "uniform": lambda r, n: r.random(n) - 0.5,
    "two modes": lambda r, n: r.choice([-1.0, 1.0], n) + 1e-3 * r.normal(size=n),
    "90 % zeros": lambda r, n: np.where(r.random(n) < 0.9, 0, r.normal(size=n) * 0.02),
    "positive": lambda r, n: np.abs(r.normal(size=n)),
    "1 +- 1e-3": lambda r, n: 1 + 1e-3 * r.normal(size=n),
    "std 4e-5": lambda r, n: 4e-5 * r.normal(size=n),
    "beyond 65,504": lambda r, n: 1e5 * r.normal(size=n),
    "two scales": lambda r, n: r.choice([1e-8, 1e3], n) * r.normal(size=n),
    "subnormal": lambda r, n: 1e-40 * r.normal(size=n),
    "one outlier": lambda r, n: np.append(r.normal(size=n - 1) * 0.02, 1e4),
    "integers": lambda r, n: r.integers(-500, 500, n),
    "clustered": lambda r, n: r.normal(size=40)[r.integers(0, 40, n)] + 1e-5 * r.normal(size=n),
    "12 decades": lambda r, n: 10 ** r.uniform(-12, 0, n) * r.choice([-1, 1], n),
    "cauchy": lambda r, n: r.standard_cauchy(n),
}


def draw(shape: str, n: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(SHAPES[shape](np.random.default_rng(seed), n).astype(np.float32))


def weights(*shape: int) -> Tensor:
    generator = np.random.default_rng(0)
    table = np.empty(shape, np.float32)
    for row in table:
        row[...] = generator.standard_t(5, row.shape) * 0.02
    return torch.from_numpy(table)


def fit(weight: Tensor, k: int, granularity: str = "tensor") -> Codebook:
    return KMeans(KMeans.Options(centroids=k, granularity=granularity)).fit(weight)


def seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def optimum(weight: Tensor, k: int) -> float:
    """kmeans1d (exact) for few weights; the dynamic programme on all sorted values for many."""
    values = weight.double().numpy()
    if len(values) > 10_000:
        centroids, codes = fit_rows(weight[None], None, k)
        return float(np.mean((values - centroids[0].double().numpy()[codes[0].numpy()]) ** 2))
    import kmeans1d

    codes = np.asarray(kmeans1d.cluster(values, k).clusters)
    mean = np.bincount(codes, values, k) / np.maximum(np.bincount(codes, minlength=k), 1)
    return float(np.mean((values - mean[codes]) ** 2))


def quality(quick: bool) -> None:
    ks = (2, 3, 16, 32, 100, 256)
    print("\nmean squared error over the optimum, and CPU ms of histogram and fit", *ks, sep="\t")
    for n in (5000, 1 << 17 if quick else 1 << 20):
        for shape in SHAPES:
            weight = draw(shape, n)
            cells = []
            for k in ks:
                spent = seconds(lambda: fit(weight, k))  # noqa: B023
                error, best = fit(weight, k).mse(weight), optimum(weight, k)
                cells.append(f"{error / best if best else float(error > 0) + 1:.6f} ({spent * 1e3:.0f})")
            print(f"{n:>8} {shape:14}", *cells, sep="\t", flush=True)


def speed(quick: bool) -> None:
    sys.modules["tensorflow"] = None  # type: ignore[assignment]  # coremltools imports it for nothing here
    import triton  # noqa: F401
    from coremltools.optimize.torch._utils.k_means import KMeans as CoreML
    from coremltools.optimize.torch._utils.k_means import KMeansConfig
    from flash1dkmeans import kmeans_1d

    side = 2048 if quick else 4096
    weight = weights(side, side)
    kmeans_1d(weight[0].numpy(), 16)
    print(f"\nCPU s, {weight.numel():,} weights, medians of {1 if quick else 3} interleaved rounds (own: of 5 each)")
    for bits in (4, 5, 8):
        k, spent = 1 << bits, dict[str, list[float]]()
        config = KMeansConfig(n_bits=bits, enable_fast_kmeans_mode=True)
        others: dict[str, Callable[[], Any]] = {
            "coremltools": lambda: CoreML._cluster_weights_1d(weight, None, config),  # noqa: B023
            "flash1dkmeans": lambda: kmeans_1d(weight.reshape(-1).numpy(), k),  # noqa: B023
        }
        for _ in range(1 if quick else 3):
            for name, other in others.items():
                spent.setdefault("lloydmax", []).extend(seconds(lambda: fit(weight, k)) for _ in range(5))  # noqa: B023
                spent.setdefault(name, []).append(seconds(other))
        median = {name: statistics.median(times) for name, times in spent.items()}
        ratios = ", ".join(
            f"{name} {t:.2f} s = {t / median['lloydmax']:.1f}x" for name, t in median.items() if name in others
        )
        own = median["lloydmax"]
        print(
            f"k={k:3}: lloydmax {own * 1e3:.1f} ms = {own / weight.numel() * 1e9:.2f} ns a weight; {ratios}", flush=True
        )
    histogram = Histogram.of(weight)
    sweep = seconds(lambda: [histogram.error(k) for k in (2, 4, 8, 16, 32, 64, 128, 256)])
    print(f"errors for k = 2 ... 256 from one histogram: {sweep * 1e3:.0f} ms")


def libraries(quick: bool) -> None:
    """All four libraries on one size that the slowest can do, with the error of each against the exact one."""
    sys.modules["tensorflow"] = None  # type: ignore[assignment]
    import kmeans1d
    import triton  # noqa: F401
    from coremltools.optimize.torch._utils.k_means import KMeans as CoreML
    from coremltools.optimize.torch._utils.k_means import KMeansConfig
    from flash1dkmeans import kmeans_1d
    from sklearn.cluster import KMeans as Sklearn

    weight, k = weights(256 if quick else 1024, 1024), 16
    flat = weight.reshape(-1)
    values = flat.double().numpy()
    config = KMeansConfig(n_bits=4, enable_fast_kmeans_mode=True)

    def settled(codes: Any) -> float:
        """Mean squared error with the mean of each cluster."""
        codes = np.asarray(codes).reshape(-1)
        means = np.bincount(codes, values, k) / np.maximum(np.bincount(codes, minlength=k), 1)
        return float(np.mean((values - means[codes]) ** 2))

    works: dict[str, Callable[[], Any]] = {
        "lloydmax": lambda: fit(weight, k).codes.numpy(),
        "kmeans1d (exact)": lambda: kmeans1d.cluster(values, k).clusters,
        "coremltools": lambda: CoreML._cluster_weights_1d(weight, None, config)[1],
        "flash1dkmeans": lambda: kmeans_1d(flat.numpy(), k)[1],
        "scikit-learn": lambda: Sklearn(k, n_init=1, random_state=0).fit(flat.numpy()[:, None]).labels_,
    }
    kmeans_1d(weight[0].numpy(), k)
    spent = {name: list[float]() for name in works}
    for _ in range(1 if quick else 3):
        for name, work in works.items():
            spent[name].append(seconds(work))
    own, exact = statistics.median(spent["lloydmax"]), settled(works["kmeans1d (exact)"]())
    print(f"\n{flat.numel():,} weights, k={k}: CPU of each, over ours, and error over the optimum")
    for name, times in spent.items():
        t = statistics.median(times)
        print(f"{name:18} {t * 1e3:10.1f} ms {t / own:8.1f}x  {settled(works[name]()) / exact:.5f}", flush=True)


def memory(quick: bool) -> None:
    weight = weights(4096, 4096 if quick else 25088)
    n, spent, extra = weight.numel(), [], []
    fit(weight[:64], 256)
    for _ in range(3):
        Path("/proc/self/clear_refs").write_text("5")
        before = _resident("VmRSS")
        spent.append(seconds(lambda: fit(weight, 256)))
        extra.append((_resident("VmHWM") - before) / n)
    print(
        f"\n{n:,} weights, k=256: {statistics.median(spent) / n * 1e9:.2f} ns CPU "
        f"and {max(extra):.2f} bytes more a weight"
    )


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def channels(quick: bool) -> None:
    import kmeans1d

    print("\ngranularity channel: CPU s, and error over the optimum of each of the first rows (mean, worst)")
    shapes = ((4096, 4096, 16), (512, 4608, 16), (64, 147, 16), (2048, 9, 4), (256, 2304, 256))
    for rows, m, k in shapes[1:] if quick else shapes:
        weight = weights(rows, m)
        spent = [seconds(lambda: fit(weight, k, "channel")) for _ in range(3)]  # noqa: B023
        dense, some = fit(weight, k, "channel").dequantize(), min(rows, 64)
        error = (weight - dense).double().square().mean(dim=1)[:some]
        best = torch.tensor([optimum(row, k) for row in weight[:some]])
        exact = seconds(lambda: [kmeans1d.cluster(row, k) for row in weight[:some].numpy()]) * rows / some  # noqa: B023
        own = statistics.median(spent)
        print(
            f"{rows}x{m} k={k}: {own:.2f} s; kmeans1d row by row {exact:.1f} s = {exact / own:.0f}x; "
            f"error {error.sum() / best.sum():.6f} in all, worst row {(error / best).max():.6f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=[], help="quality, libraries, speed, memory, channels")
    parser.add_argument("--quick", action="store_true", help="smaller sizes")
    arguments = parser.parse_args()
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "?")
    names = ("torch", "numpy", "coremltools", "kmeans1d", "flash1dkmeans", "scikit-learn")
    print(cpu.split(":")[-1].strip(), *(f"{name} {importlib.metadata.version(name)}" for name in names), sep=", ")
    parts = {"quality": quality, "libraries": libraries, "speed": speed, "memory": memory, "channels": channels}
    for name, part in parts.items():
        if not arguments.parts or name in arguments.parts:
            part(arguments.quick)


if __name__ == "__main__":
    main()
