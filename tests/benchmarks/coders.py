"""Entropy coders for codes: bytes against the entropy, and how fast the codes come back.

    OMP_NUM_THREADS=1 python tests/benchmarks/coders.py [--quick] [--weights N] [NETWORK ...]

The codes are those of k-means per tensor with 2**bits centroids (or, with --evenly, of evenly spaced levels, whose
codes are as skewed as those of k-means with a price) on the weights of real pretrained networks (EfficientNet-Lite0,
all-MiniLM-L6-v2), each parameter coded by itself as a file does. "over the entropy" compares with the order-0 entropy
of each parameter's codes; MB/s are of float32 weights, on one core, from the stream to one byte a code. ``zstandard``
and ``constriction`` are measured where they are installed.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import lzma
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import lloydmax
import numpy as np
import numpy.typing as npt
from lloydmax.format import packing
from lloydmax.report import environment
from torch import Tensor, nn

Codes = npt.NDArray[np.uint8]
NETWORKS = ("lite", "minilm")


@dataclass
class Coder:
    """``encode(codes, bits)`` gives bytes, ``decode(bytes, bits, count)`` the codes again."""

    encode: Callable[[Codes, int], bytes]
    decode: Callable[[bytes, int, int], Any]
    bytes: int = 0
    seconds: float = 0.0
    writing: float = field(default=0.0)

    def measure(self, codes: Codes, bits: int) -> None:
        """Code one parameter, there and back."""
        start = time.process_time()
        stream = self.encode(codes, bits)
        middle = time.process_time()
        back = self.decode(stream, bits, codes.size)
        self.seconds += time.process_time() - middle
        self.writing += middle - start
        self.bytes += len(stream)
        assert np.array_equal(back, codes)


def network(name: str) -> nn.Module:
    """A pretrained network."""
    if name == "lite":
        from published.lite import network as lite

        return lite()
    from size.minilm import network as minilm

    return minilm()


def codes_of(weight: Tensor, bits: int, evenly: bool) -> Tensor:
    """Of k-means, or of evenly spaced levels between plus and minus the largest magnitude."""
    if not evenly:
        return lloydmax.fit_codebook(weight, 1 << bits).codes
    half = 1 << (bits - 1)
    return (weight / weight.abs().max() * (half - 1)).round().add(half).byte()


def parameters(name: str, bits: int, evenly: bool, most: int) -> Iterator[Codes]:
    """The codes of all matrices and kernels by output channel, up to ``most`` weights."""
    for _, parameter in network(name).named_parameters():
        if parameter.dim() > 1 and most > 0:
            most -= parameter.numel()
            codes: Codes = codes_of(parameter.detach(), bits, evenly).flatten(1).numpy()
            yield codes


def lanes(codes: Codes, bits: int, each: int) -> Codes:
    """``each`` codes in a byte, the first one lowest."""
    padded = np.zeros(-(-codes.size // each) * each, np.uint8)
    padded[: codes.size] = codes
    symbols = padded[::each].copy()
    for place in range(1, each):
        symbols |= padded[place::each] << np.uint8(place * bits)
    return symbols


def unlaned(symbols: bytes, bits: int, each: int, count: int) -> Codes:
    """The reverse."""
    array = np.frombuffer(symbols, np.uint8)
    codes = np.empty((array.size, each), np.uint8)
    for place in range(each):
        codes[:, place] = (array >> np.uint8(place * bits)) & np.uint8((1 << bits) - 1)
    return codes.reshape(-1)[:count]


def deflate(strategy: int, level: int = 9) -> Callable[[bytes], bytes]:
    def apply(data: bytes) -> bytes:
        stream = zlib.compressobj(level, zlib.DEFLATED, -15, 9, strategy)
        return stream.compress(data) + stream.flush()

    return apply


def inflate(data: bytes) -> bytes:
    return zlib.decompress(data, -15)


def through(compress: Callable[[bytes], bytes], expand: Callable[[bytes], bytes], each: int | None) -> Coder:
    """A byte coder on ``each`` codes a byte; ``None``: as many as go in."""

    def per(bits: int) -> int:
        return min(each or 8, 8 // bits)

    return Coder(
        lambda codes, bits: compress(lanes(codes, bits, per(bits)).tobytes()),
        lambda data, bits, count: unlaned(expand(data), bits, per(bits), count),
    )


def coders() -> dict[str, Coder]:
    """All that can be measured here, by name."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 0, "lp": 0, "pb": 0}]
    found = {
        "fixed width": Coder(
            lambda codes, bits: packing.pack(_tensor(codes), bits).tobytes(),
            lambda data, bits, count: packing.unpack(np.frombuffer(data, np.uint8), bits, count),
        ),
        "storage: codes: entropy": Coder(
            lambda codes, bits: bytes(packing.entropy_encode(_tensor(codes), bits)),
            packing.entropy_decode,
        ),
        "deflate, Huffman only, 1 code a byte": through(deflate(zlib.Z_HUFFMAN_ONLY), inflate, 1),
        "deflate, Huffman only, 2 codes a byte": through(deflate(zlib.Z_HUFFMAN_ONLY), inflate, 2),
        "deflate, Huffman only, all that fit": through(deflate(zlib.Z_HUFFMAN_ONLY), inflate, None),
        "deflate, level 9": through(deflate(zlib.Z_DEFAULT_STRATEGY), inflate, None),
        "deflate, filtered": through(deflate(zlib.Z_FILTERED), inflate, None),
        "LZMA, 1 code a byte": through(
            lambda data: lzma.compress(data, lzma.FORMAT_RAW, filters=filters),
            lambda data: lzma.decompress(data, lzma.FORMAT_RAW, filters=filters),
            1,
        ),
    }
    if zstandard := _optional("zstandard"):
        writer, reader = zstandard.ZstdCompressor(level=19), zstandard.ZstdDecompressor()
        found["zstandard, level 19"] = through(writer.compress, reader.decompress, None)
        found["zstandard, level 19, 1 code a byte"] = through(writer.compress, reader.decompress, 1)
    if _optional("constriction"):
        found["constriction, ANS"] = Coder(*_constriction("ans"))
        found["constriction, range coder"] = Coder(*_constriction("range"))
    return found


def _tensor(codes: Codes) -> Any:
    import torch

    return torch.from_numpy(codes)


def _optional(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _constriction(kind: str) -> tuple[Callable[[Codes, int], bytes], Callable[[bytes, int, int], Any]]:
    """A categorical model of float32 frequencies, kept before the stream."""
    import constriction

    def model(counts: Any) -> Any:
        return constriction.stream.model.Categorical(counts.astype(np.float32) / counts.sum(), perfect=False)

    def encode(codes: Codes, bits: int) -> bytes:
        counts = np.bincount(codes, minlength=1 << bits).astype(np.uint32)
        symbols = codes.astype(np.int32)
        if kind == "ans":
            coder = constriction.stream.stack.AnsCoder()
            coder.encode_reverse(symbols, model(counts))
        else:
            coder = constriction.stream.queue.RangeEncoder()
            coder.encode(symbols, model(counts))
        return counts.tobytes() + bytes(coder.get_compressed().tobytes())

    def decode(data: bytes, bits: int, count: int) -> Any:
        counts = np.frombuffer(data[: 4 << bits], np.uint32)
        stream = np.frombuffer(data[4 << bits :], np.uint32)
        make = constriction.stream.stack.AnsCoder if kind == "ans" else constriction.stream.queue.RangeDecoder
        return make(stream).decode(model(counts), count).astype(np.uint8)

    return encode, decode


def entropy(codes: Codes) -> float:
    """Order-0 entropy in bytes."""
    return _cost(np.bincount(codes)) / 8


def classes(codes: Codes, k: int, count: int = 4, rounds: int = 15) -> float:
    """Bytes with a table for each class of output channels (or, where that is less, of columns), ideally coded.

    Classes are found by likelihood, from channels in the order of their entropy; naming them and the tables, of 4 bits
    an entry, are in it.
    """
    least = _cost(np.bincount(codes.reshape(-1)))
    for lines in (codes, codes.T):
        counts = np.stack([np.bincount(line, minlength=k) for line in lines])
        if len(lines) < count or lines.shape[1] < k:
            continue
        own = np.argsort(np.argsort([_cost(row) for row in counts])) * count // len(lines)
        for _ in range(rounds):
            table = np.stack([counts[own == c].sum(0) + 0.5 for c in range(count)])
            own = (counts @ -np.log2(table / table.sum(1, keepdims=True)).T).argmin(1)
        cost = sum(_cost(counts[own == c].sum(0)) for c in range(count))
        least = min(least, cost + np.log2(count) * len(lines) + 4 * count * k)
    return float(least) / 8


def _cost(counts: Any) -> float:
    """Order-0 entropy of all symbols in bits."""
    some = counts[counts > 0]
    return float((some * np.log2(some.sum() / some)).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS, metavar="NETWORK", help=", ".join(NETWORKS))
    parser.add_argument("--quick", action="store_true", help="few weights, to see that it runs")
    parser.add_argument("--weights", type=int, default=4_000_000, help="of each network (default: %(default)s)")
    parser.add_argument("--evenly", action="store_true", help="evenly spaced levels")
    parser.add_argument("--bits", type=int, nargs="*", default=[2, 3, 4, 5])
    given = parser.parse_args()
    versions = {name: importlib.metadata.version(name) for name in ("zstandard", "constriction") if _optional(name)}
    print(", ".join(f"{key} {value}" for key, value in {**environment(), **versions}.items()), end="\n\n")
    most = 200_000 if given.quick else given.weights
    for name in given.networks:
        for bits in given.bits:
            measured, ideal, adapted, count = coders(), 0.0, 0.0, 0
            for codes in parameters(name, bits, given.evenly, most):
                ideal += entropy(codes.reshape(-1))
                adapted += classes(codes, 1 << bits)
                count += codes.size
                for coder in measured.values():
                    coder.measure(codes.reshape(-1), bits)
            print(
                f"{name}, {bits} bits, {count:,} weights, entropy {8 * ideal / count:.4f} bits a weight; with tables "
                f"for 4 classes of channels {100 * (adapted / ideal - 1):+.2f} %\n"
            )
            print("| coder | bits a weight | over the entropy | decoded, MB/s of weights | encoded, MB/s |")
            print("|---|---|---|---|---|")
            for coder_name, coder in measured.items():
                over = 100 * (coder.bytes / ideal - 1)
                print(
                    f"| {coder_name} | {8 * coder.bytes / count:.4f} | {over:+.2f} % "
                    f"| {4e-6 * count / coder.seconds:.0f} | {4e-6 * count / coder.writing:.0f} |"
                )
            print(flush=True)


if __name__ == "__main__":
    main()
