"""Codes as bytes: a bit stream of fixed width, or one that is shorter where some codes are more frequent.

All streams are made of blocks of 2**18 codes (the last one may be shorter), so that neither writing nor
reading needs temporaries of the size of the weight. Every block but the last fills whole bytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lloydmax import native

Bytes = npt.NDArray[np.uint8]
Codes = npt.NDArray[np.integer]

BLOCK = 1 << 18
"""Codes of one block: so many of any width fill whole bytes."""
_PLAIN, _MATCHED = (9, zlib.Z_HUFFMAN_ONLY), (4, zlib.Z_FILTERED)
"""Level and strategy of a stream without matches, and of one with long ones."""
_INPUT = 1 << 16
"""Bytes of a stream that are inflated at once."""


def as_bytes(tensor: Tensor) -> Bytes:
    """The bytes of a contiguous tensor on the CPU (memory shared)."""
    stream: Bytes = tensor.detach().reshape(-1).view(torch.uint8).numpy()
    return stream


def packed_bytes(count: int, bits: int) -> int:
    """Length of the fixed-width stream of ``count`` codes."""
    return (count * bits + 7) // 8


def pack(codes: Tensor, bits: int) -> Bytes:
    """The fixed-width bit stream: code i is stream bits ``[i * bits, (i + 1) * bits)``, lowest bit first.

    Args:
        codes: integers ``0 .. 2**bits - 1``, any shape; read in row-major order.
        bits: width of one code, 0 to 24.

    Returns:
        uint8, ``ceil(codes.numel() * bits / 8)`` bytes; unused bits of the last byte are 0.
    """
    flat = flattened(codes)
    stream = np.empty(packed_bytes(flat.size, bits), np.uint8)
    for start in range(0, flat.size if bits else 0, BLOCK):
        part = _pack_block(flat[start : start + BLOCK], bits)
        stream[start * bits // 8 :][: part.size] = part
    return stream


def unpack(stream: Bytes, bits: int, count: int) -> Codes:
    """The codes of a fixed-width stream.

    Args:
        stream: uint8, as :func:`pack` returns it.
        bits: width of one code.
        count: number of codes.

    Returns:
        ``(count,)``: uint8 up to 8 bits, int16 up to 15, else int32, as :func:`~lloydmax.codebook.layout.code_dtype`.

    Raises:
        ValueError: the stream has not exactly the length of ``count`` codes.
    """
    return _join(unpack_blocks(stream, bits, count), bits, count)


def unpack_blocks(stream: Bytes, bits: int, count: int) -> Iterator[Codes]:
    """Like :func:`unpack`, block by block; nothing for codes of 0 bits."""
    if stream.size != packed_bytes(count, bits):
        raise ValueError(f"{count} codes of {bits} bits take {packed_bytes(count, bits)} bytes, not {stream.size}")
    return (
        _unpack_block(stream[start * bits // 8 :][: packed_bytes(BLOCK, bits)], bits)[: count - start]
        for start in range(0, count if bits else 0, BLOCK)
    )


def entropy_encode(codes: Tensor, bits: int) -> bytes:
    """Huffman-code the codes: each block as byte symbols, all of them as one raw deflate stream.

    Without matches or, where that is smaller, with long ones: channels that are alike, or empty. Up to 8 bits a symbol
    holds ``8 // bits`` whole codes, the first one lowest. Wider codes leave their highest 8 bits to symbols; the rest,
    which hardly depends on them and is nearly uniform, comes before these, packed at fixed width.

    Args:
        codes: integers ``0 .. 2**bits - 1``, any shape; read in row-major order.
        bits: width of one code, 0 to 24.
    """
    blocks = _symbols(codes, bits)
    plain = _plain(blocks)
    if native.active() and not native.repeats(_joined(blocks)):
        return plain
    matched = _deflated(blocks, _MATCHED)
    return matched if len(matched) < len(plain) and _may_hold(matched, bits, codes.numel()) else plain


def plain_bytes(codes: Tensor, bits: int) -> int:
    """Length of the entropy-coded stream without matches, the shorter one of nearly all weights, made far sooner."""
    return len(_plain(_symbols(codes, bits)))


def _symbols(codes: Tensor, bits: int) -> list[Bytes]:
    """The symbols of each block."""
    flat = flattened(codes)
    return [_to_symbols(flat[start : start + BLOCK], bits) for start in range(0, flat.size if bits else 0, BLOCK)]


def _joined(blocks: list[Bytes]) -> Bytes:
    return np.concatenate(blocks) if blocks else np.empty(0, np.uint8)


def _plain(blocks: list[Bytes]) -> bytes:
    return native.huffman(_joined(blocks)) if native.active() else _deflated(blocks, _PLAIN)


def _deflated(blocks: list[Bytes], way: tuple[int, int]) -> bytes:
    """The raw deflate stream of symbols."""
    deflate = zlib.compressobj(way[0], zlib.DEFLATED, -zlib.MAX_WBITS, 9, way[1])
    return b"".join([*(deflate.compress(block.data) for block in blocks), deflate.flush()])


def entropy_decode(data: bytes | Bytes, bits: int, count: int) -> Codes:
    """The codes of an entropy-coded stream, see :func:`unpack`.

    Raises:
        ValueError: the stream is damaged, or does not hold exactly ``count`` codes of this width.
    """
    return _join(entropy_blocks(data, bits, count), bits, count)


def entropy_blocks(data: bytes | Bytes, bits: int, count: int) -> Iterator[Codes]:
    """Like :func:`entropy_decode`, block by block.

    A symbol takes at least one bit; a stream that claims more is refused before it is inflated.
    """
    if not _may_hold(data, bits, count):
        raise ValueError(f"{len(data)} bytes cannot hold {count} codes of {bits} bits")
    return _inflated(data, bits, count)


def _may_hold(data: bytes | Bytes, bits: int, count: int) -> bool:
    return _symbol_count(count, bits) <= 8 * len(data)


def _inflated(data: bytes | Bytes, bits: int, count: int) -> Iterator[Codes]:
    inflater = _Inflater(data)
    for start in range(0, count if bits else 0, BLOCK):
        size = min(BLOCK, count - start)
        yield _from_symbols(inflater.read(_symbol_count(size, bits)), bits, size)
    inflater.finish()


class _Inflater:
    """Raw deflate, inflated piece by piece and never by more than was asked for."""

    def __init__(self, data: bytes | Bytes) -> None:
        view = data.data if isinstance(data, np.ndarray) else memoryview(data)
        self._parts = (view[start : start + _INPUT] for start in range(0, len(view), _INPUT))
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)

    def _some(self, limit: int) -> bytes:
        """The next 1 to ``limit`` bytes; none at the end."""
        while not self._inflate.eof:
            part = self._inflate.unconsumed_tail or next(self._parts, None)
            try:
                piece = self._inflate.decompress(part or b"", limit)
            except zlib.error as error:
                raise ValueError(f"the entropy-coded stream is damaged ({error})") from error
            if piece or part is None:
                return piece
        return b""

    def read(self, size: int) -> Bytes:
        """Exactly ``size`` bytes."""
        symbols = bytearray()
        while len(symbols) < size:
            piece = self._some(size - len(symbols))
            if not piece:
                raise ValueError("the entropy-coded stream ends too early")
            symbols += piece
        return np.frombuffer(symbols, np.uint8)

    def finish(self) -> None:
        """The stream must end here, and with it the data."""
        if self._some(1):
            raise ValueError("the entropy-coded stream holds too many codes")
        if not self._inflate.eof:
            raise ValueError("the entropy-coded stream has no end")
        if self._inflate.unused_data or next(self._parts, None) is not None:
            raise ValueError("bytes follow the entropy-coded stream")


def flattened(codes: Tensor) -> Codes:
    """The codes in row-major order, on the CPU."""
    flat: Codes = codes.detach().cpu().contiguous().reshape(-1).numpy()
    return flat


def dtype_of(bits: int) -> type[np.integer]:
    """The dtype in which codes of so many bits are held."""
    if bits <= 8:
        return np.uint8
    return np.int16 if bits <= 15 else np.int32


def _join(blocks: Iterable[Codes], bits: int, count: int) -> Codes:
    codes, start = np.zeros(count, dtype_of(bits)), 0
    for block in blocks:
        codes[start : start + block.size] = block
        start += block.size
    return codes


def _lanes(bits: int) -> list[tuple[np.uint64, np.uint64, np.uint64]]:
    """How 8 codes, one a byte, close up in a 64-bit word: pairs of 8, then of 16, then of 32 bits join.

    Each step is ``(gap, low, high)``: the codes under ``low`` stay, those that ``gap`` bits lower are under
    ``high`` move there.
    """
    steps = []
    for lane in (8, 16, 32):
        width = bits * lane // 8
        low = sum(((1 << width) - 1) << at for at in range(0, 64, 2 * lane))
        steps.append((np.uint64(lane - width), np.uint64(low), np.uint64(low << width)))
    return steps


def _pack_block(codes: Codes, bits: int) -> Bytes:
    return native.pack(codes, bits) if native.active() else pack_in_python(codes, bits)


def pack_in_python(codes: Codes, bits: int) -> Bytes:
    """The twin of the native ``pack``."""
    size = packed_bytes(codes.size, bits)
    if bits > 8:
        rows = np.unpackbits(codes.astype("<u4").view(np.uint8).reshape(-1, 4), axis=1, bitorder="little")
        return np.packbits(rows[:, :bits], bitorder="little")[:size]
    padded = np.zeros(-(-codes.size // 8) * 8, np.uint8)
    padded[: codes.size] = codes
    words = padded.view("<u8")
    for gap, low, high in _lanes(bits):
        words = (words & low) | ((words >> gap) & high)
    return words.view(np.uint8).reshape(-1, 8)[:, :bits].reshape(-1)[:size]


def _unpack_block(stream: Bytes, bits: int) -> Codes:
    if native.active():
        return native.unpack(stream, bits, 8 * stream.size // bits, dtype_of(bits))
    return unpack_in_python(stream, bits)


def unpack_in_python(stream: Bytes, bits: int) -> Codes:
    """The twin of the native ``unpack``, with what the last byte may hold beyond the codes."""
    if bits > 8:
        stored = np.unpackbits(stream, bitorder="little")
        rows = np.zeros((stored.size // bits, 32), np.uint8)
        rows[:, :bits] = stored[: len(rows) * bits].reshape(-1, bits)
        return np.packbits(rows, bitorder="little").view("<i4").astype(dtype_of(bits))
    groups = -(-stream.size // bits)
    padded = np.zeros(groups * bits, np.uint8)
    padded[: stream.size] = stream
    spread = np.zeros((groups, 8), np.uint8)
    spread[:, :bits] = padded.reshape(-1, bits)
    words = spread.reshape(-1).view("<u8")
    for gap, low, high in reversed(_lanes(bits)):
        words = (words & low) | ((words & high) << gap)
    return words.view(np.uint8)


def _symbol_count(count: int, bits: int) -> int:
    if not bits:
        return 0
    return -(-count // (8 // bits)) if bits <= 8 else packed_bytes(count, bits - 8) + count


def _to_symbols(codes: Codes, bits: int) -> Bytes:
    if bits > 8:
        rest = bits - 8
        return np.concatenate([_pack_block(codes & ((1 << rest) - 1), rest), (codes >> rest).astype(np.uint8)])
    if native.active() and codes.dtype == np.uint8:
        return native.to_symbols(codes.view(np.uint8), bits)
    each = 8 // bits
    padded = np.zeros(_symbol_count(codes.size, bits) * each, np.uint8)
    padded[: codes.size] = codes
    symbols = padded[::each].copy()
    for place in range(1, each):
        symbols |= padded[place::each] << np.uint8(place * bits)
    return symbols


def _from_symbols(symbols: Bytes, bits: int, count: int) -> Codes:
    if bits > 8:
        rest, high = bits - 8, symbols[-count:].astype(dtype_of(bits))
        return (high << rest) | _unpack_block(symbols[:-count], rest)[:count]
    if native.active():
        return native.from_symbols(symbols, bits, count)
    each = 8 // bits
    if int(symbols.max()) >> (bits * each):
        raise ValueError(f"a code has more than {bits} bits")
    codes = np.empty((symbols.size, each), np.uint8)
    for place in range(each):
        codes[:, place] = (symbols >> np.uint8(place * bits)) & np.uint8((1 << bits) - 1)
    return codes.reshape(-1)[:count]
