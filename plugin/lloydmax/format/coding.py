"""The stream of codes in a file, by the name of its coding: fixed width, Huffman (:mod:`lloydmax.format.packing`) or
arithmetic (:mod:`lloydmax.format.arithmetic`)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from torch import Tensor

from lloydmax.format import arithmetic, packing
from lloydmax.format.packing import Bytes, Codes

_MIXED, _WORTH, _PROMISING = 1 << 22, 0.998, 0.999
"""Codes for which probabilities are mixed, at most; the share of the bytes that pays for three times the work; and
the share, of the first block of larger parameters, that makes it worth a try."""
_ALL_MIXED = 1 << 28
"""Codes of a file up to which probabilities are mixed: larger ones are to load in time."""

WORTH_THREADS = 1 << 20
"""Codes from which several threads code the parameters of a file."""


def stream(codes: Tensor, bits: int, coding: str, together: int = 0) -> tuple[Bytes, bool]:
    """The stream of a file, and whether it is of the coding, as it is where that is smaller than fixed width.

    Args:
        codes, bits: see :func:`~lloydmax.format.packing.pack`.
        coding: ``packed``, ``entropy`` or ``arithmetic``.
        together: codes of all parameters of the file.
    """
    coded = encode(codes, bits, coding, together)
    if len(coded) < packing.packed_bytes(codes.numel(), bits):
        return np.frombuffer(bytearray(coded), np.uint8), True
    return packing.pack(codes, bits), False


def encode(codes: Tensor, bits: int, coding: str, together: int = 0) -> bytes:
    """The stream of a coding; that of ``packed`` is its own, and one that would be longer may be, too."""
    if coding == "arithmetic":
        most = _MIXED if together <= _ALL_MIXED else 0
        coded = _arithmetic(codes, packing.packed_bytes(codes.numel(), bits), most)
        if coded is not None:
            return coded
    return packing.entropy_encode(codes, bits) if coding == "entropy" else packing.pack(codes, bits).tobytes()


def _arithmetic(codes: Tensor, room: int, most_mixed: int) -> bytes | None:
    """The codes less the most frequent one, as :mod:`lloydmax.format.arithmetic` codes integers; in rows, of which the
    first axis has so many. Probabilities are mixed where that saves more than 0.2 %, and some in the first block of
    them.

    Args:
        codes: integers from 0 on, any shape.
        room: bytes that the stream may have.
        most_mixed: codes for which probabilities are mixed, at most.

    Returns:
        The most frequent code times two, and one where probabilities are mixed, in groups of 7 bits, lowest first,
        all but the last plus 128; then the stream. ``None``: there is no room for it.
    """
    flat = packing.flattened(codes)
    if not flat.size:
        return None
    most = int(np.bincount(flat).argmax())

    def coded(some: Codes, mixed: bool) -> bytes | None:
        coder = arithmetic.coder(mixed, room=room)
        coder.rows(*_rows(tuple(codes.shape)))
        for start in range(0, some.size, packing.BLOCK):
            coder.encode(some[start : start + packing.BLOCK].astype(np.int32) - np.int32(most))
        return coder.end()

    first = flat[: packing.BLOCK]
    tried = flat.size <= most_mixed
    if tried and first.size < flat.size:
        tried = _shorter(coded(first, True), coded(first, False), _PROMISING)
    plain, mixed = coded(flat, False), coded(flat, True) if tried else None
    taken = _shorter(mixed, plain, _WORTH)
    made = mixed if taken else plain
    return None if made is None else _varint(2 * most + taken) + made


def _shorter(one: bytes | None, other: bytes | None, share: float) -> bool:
    return one is not None and (other is None or len(one) < share * len(other))


def _rows(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Codes of a row, which is one index of the first axis, of a kernel, which has all axes but the first two, and of a
    line, which has the last axis, in a row; 1 where there are no kernels."""
    kernel = math.prod(shape[2:])
    return math.prod(shape[1:]), kernel, shape[-1] if kernel > 1 else 1


def _varint(number: int) -> bytes:
    groups = [number >> shift & 127 for shift in range(0, max(1, number.bit_length()), 7)]
    return bytes([*(group | 128 for group in groups[:-1]), groups[-1]])


def _arithmetic_blocks(data: Bytes, bits: int, shape: tuple[int, ...]) -> Iterator[Codes]:
    """Codes of an arithmetic stream, see :func:`lloydmax.format.packing.unpack`, block by block; of this shape."""
    head, size, count = 0, 0, math.prod(shape)
    for size, group in enumerate(data[:4].tolist(), start=1):
        head |= (group & 127) << 7 * (size - 1)
        if group < 128:
            break
    else:
        raise ValueError("the arithmetic stream has no beginning")
    if count > arithmetic.MOST_VALUES * (len(data) + 8):
        raise ValueError(f"{len(data)} bytes cannot hold {count} codes")
    most = head >> 1
    coder = arithmetic.coder(bool(head & 1), data[size:])
    coder.rows(*_rows(shape))
    for start in range(0, count, packing.BLOCK):
        found = coder.decode(min(packing.BLOCK, count - start)) + np.int32(most)
        if int(found.min()) < 0 or int(found.max()) >> bits:
            raise ValueError(f"a code has more than {bits} bits")
        yield found.astype(packing.dtype_of(bits))
    if not coder.done():
        raise ValueError("bytes follow the arithmetic stream")


def blocks(data: Bytes, coding: str, bits: int, shape: tuple[int, ...]) -> Iterator[Codes]:
    """The codes of a stream, flat, block by block.

    Args:
        data: the stream.
        coding: of it.
        bits: width of one code.
        shape: of the codes.

    Raises:
        ValueError: the stream is damaged, or has not exactly so many codes.
    """
    count = math.prod(shape)
    if coding == "arithmetic":
        return _arithmetic_blocks(data, bits, shape)
    return (packing.entropy_blocks if coding == "entropy" else packing.unpack_blocks)(data, bits, count)
