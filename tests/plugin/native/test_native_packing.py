"""Packing and coding give what their twins in numpy and zlib give, byte for byte."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lloydmax import native
from lloydmax.format import packing

pytestmark = pytest.mark.skipif(not native.active(), reason="needs the core")

WINDOW = 1 << 15
SIZES = (0, 1, 2, 3, 100, WINDOW - 1, WINDOW, 65_273, 65_275, 65_534, 65_536, 98_304, 131_072, 250_001)
KINDS = {
    "uniform": lambda r, n: r.integers(0, 256, n),
    "nearly uniform": lambda r, n: r.integers(0, 252, n),
    "constant": lambda r, n: np.full(n, 7),
    "steep": lambda r, n: np.minimum(r.geometric(0.62, n), 255),
    "gaussian": lambda r, n: np.clip(r.normal(128, 30, n), 0, 255),
    "rare": lambda r, n: np.where(r.random(n) < 0.9999, 0, r.integers(0, 256, n)),
}


@given(st.integers(1, 24), st.integers(0, 300), st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_bits(bits: int, count: int, seed: int) -> None:
    dtype = np.uint8 if bits <= 8 else np.int16 if bits <= 15 else np.int32
    codes = np.random.default_rng(seed).integers(0, 1 << bits, count).astype(dtype)
    stream = native.pack(codes, bits)
    assert np.array_equal(stream, packing.pack_in_python(codes, bits))
    assert np.array_equal(native.unpack(stream, bits, count, dtype), codes)
    if count:
        assert np.array_equal(packing.unpack_in_python(stream, bits)[:count], codes)


@pytest.mark.parametrize("kind", KINDS)
def test_the_stream_is_that_of_zlib(kind: str) -> None:
    for size in SIZES:
        symbols = KINDS[kind](np.random.default_rng(size), size).astype(np.uint8)
        deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_HUFFMAN_ONLY)
        assert native.huffman(symbols) == deflate.compress(symbols.data) + deflate.flush(), size


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 8, 11])
@pytest.mark.parametrize("copies", [1, 3])
def test_coded_codes_are_those_without_the_core(bits: int, copies: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three channels that are alike are shorter with matches."""
    drawn = np.clip(np.random.default_rng(bits).normal((1 << bits) / 2, (1 << bits) / 5, 9001), 0, (1 << bits) - 1)
    codes = torch.from_numpy(np.tile(drawn.astype(np.uint8 if bits <= 8 else np.int16), copies))
    stream, packed = packing.entropy_encode(codes, bits), packing.pack(codes, bits)
    assert np.array_equal(packing.entropy_decode(stream, bits, len(codes)), codes.numpy())
    monkeypatch.setattr(native, "active", lambda: False)
    assert packing.entropy_encode(codes, bits) == stream
    assert np.array_equal(packing.pack(codes, bits), packed)
    assert np.array_equal(packing.entropy_decode(stream, bits, len(codes)), codes.numpy())


def test_what_occurs_again_is_found_as_far_as_a_window_goes() -> None:
    fresh = np.random.default_rng(0).permutation(np.arange(1 << 16)).astype(np.uint16).view(np.uint8)[:70_000].copy()
    for begin, again, found in (
        (10, 30_000, True),
        (10, 10 + WINDOW, False),
        (5, 69_994, False),
        (60_000, 69_994, True),
    ):
        symbols = fresh.copy()
        symbols[again : again + 6] = symbols[begin : begin + 6]
        assert native.repeats(symbols) == found, (begin, again)


def test_sizes_and_symbols_are_checked() -> None:
    with pytest.raises(ValueError, match="3 bytes are not 9 codes of 4 bits"):
        native.unpack(np.zeros(3, np.uint8), 4, 9, np.uint8)
    with pytest.raises(ValueError, match="2 symbols are not 9 codes"):
        native.from_symbols(np.zeros(2, np.uint8), 4, 9)
    with pytest.raises(ValueError, match="more than 3 bits"):
        native.from_symbols(np.full(2, 64, np.uint8), 3, 4)
