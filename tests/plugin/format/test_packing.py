"""Codes as bytes: round trips for every width, and streams that lie."""

import math
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lloydmax.codebook.layout import code_bits, code_dtype
from lloydmax.format import packing

WIDTHS = [*range(18), 20, 24]
LENGTHS = [1, 7, 8, 9, 63, 64, 65, (1 << 18) - 1, 1 << 18, (1 << 18) + 3]


def random_codes(bits: int, count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 1 << bits, (count,), generator=generator).to(code_dtype(1 << bits))


@st.composite
def codes(draw):
    bits = draw(st.sampled_from(WIDTHS))
    values = draw(st.lists(st.integers(0, (1 << bits) - 1), min_size=1, max_size=200))
    return bits, torch.tensor(values).to(code_dtype(1 << bits))


@settings(deadline=None)
@given(codes())
def test_round_trip(case):
    bits, given_codes = case
    count = given_codes.numel()
    packed = packing.pack(given_codes, bits)
    assert packed.dtype == np.uint8
    assert packed.size == packing.packed_bytes(count, bits) == -(-count * bits // 8)
    expected = sum(int(code) << (i * bits) for i, code in enumerate(given_codes.tolist()))
    assert int.from_bytes(packed.tobytes(), "little") == expected
    for back in (
        packing.unpack(packed, bits, count),
        packing.entropy_decode(packing.entropy_encode(given_codes, bits), bits, count),
    ):
        assert torch.equal(torch.from_numpy(back), given_codes)
        assert torch.from_numpy(back).dtype == code_dtype(1 << bits)


@pytest.mark.parametrize("bits", WIDTHS)
def test_round_trip_across_blocks(bits):
    for count in LENGTHS if bits <= 9 else LENGTHS[:7] + LENGTHS[-1:]:
        given_codes = random_codes(bits, count)
        packed = packing.pack(given_codes, bits)
        assert np.array_equal(packing.unpack(packed, bits, count), given_codes.numpy())
        coded = packing.entropy_encode(given_codes, bits)
        assert np.array_equal(packing.entropy_decode(coded, bits, count), given_codes.numpy())


def test_lowest_bit_first():
    # 1, 2, 3, 4 in 3 bits: 001 010 011 100, from the lowest bit upwards
    assert packing.pack(torch.tensor([1, 2, 3, 4], dtype=torch.uint8), 3).tolist() == [0b11010001, 0b00001000]
    assert packing.pack(torch.tensor([0x123, 0x1FF], dtype=torch.int16), 9).tolist() == [0x23, 0xFF, 0x03]
    assert packing.pack(torch.tensor([1, 2, 15], dtype=torch.uint8), 4).tolist() == [0x21, 0x0F]


def test_layout_of_any_strides_is_row_major():
    weight = random_codes(4, 2 * 3 * 4 * 5).view(2, 3, 4, 5)
    last = weight.to(memory_format=torch.channels_last)
    assert np.array_equal(packing.pack(last, 4), packing.pack(weight, 4))
    assert packing.entropy_encode(last, 4) == packing.entropy_encode(weight, 4)


def test_one_centroid_needs_no_bytes():
    zeros = torch.zeros(1000, dtype=torch.uint8)
    assert packing.pack(zeros, 0).size == 0
    assert packing.unpack(np.empty(0, np.uint8), 0, 1000).tolist() == [0] * 1000
    assert list(packing.unpack_blocks(np.empty(0, np.uint8), 0, 10**18)) == []


@pytest.mark.parametrize("k", [1, 2, 3, 256, 257, 1 << 15, (1 << 15) + 1, 1 << 16])
def test_dtype_is_that_of_the_codebook(k):
    given_codes = torch.tensor([0, k - 1]).to(code_dtype(k))
    back = packing.unpack(packing.pack(given_codes, code_bits(k)), code_bits(k), 2)
    assert torch.from_numpy(back).dtype == code_dtype(k)
    assert back.tolist() == [0, k - 1]


def test_entropy_coding_is_near_the_entropy():
    shares = torch.tensor([0.9, 0.05, 0.03, 0.02])
    given_codes = torch.multinomial(shares, 1 << 20, True, generator=torch.Generator().manual_seed(0)).byte()
    bound = float(-(shares * shares.log2()).sum()) * given_codes.numel() / 8
    assert bound < len(packing.entropy_encode(given_codes, 2)) < 1.05 * bound


@pytest.mark.parametrize("bits", [9, 10, 13])
def test_entropy_coding_of_wide_codes_is_near_the_entropy(bits):
    normal = torch.randn(300_000, generator=torch.Generator().manual_seed(0))
    given_codes = (normal * 2**bits / 8 + 2 ** (bits - 1)).round().clamp(0, 2**bits - 1).short()
    shares = torch.bincount(given_codes.long()).double() / given_codes.numel()
    bound = float(torch.special.entr(shares).sum() / math.log(2)) * given_codes.numel() / 8
    coded = packing.entropy_encode(given_codes, bits)
    assert bound < len(coded) < 1.02 * bound
    assert packing.entropy_decode(coded, bits, given_codes.numel()).tolist() == given_codes.tolist()


@pytest.mark.parametrize("bits", [1, 3, 8, 9, 17])
def test_wrong_length_is_refused(bits):
    given_codes = random_codes(bits, 100)
    packed = packing.pack(given_codes, bits)
    for stream, count in ((packed[:-1], 100), (packed, 1000), (packed, 10), (packed, 10**18)):
        with pytest.raises(ValueError, match="bytes"):
            packing.unpack(stream, bits, count)


@pytest.mark.parametrize("bits", [1, 3, 8, 9, 17])
def test_damaged_entropy_stream_is_refused(bits):
    given_codes = random_codes(bits, 4096)
    coded = packing.entropy_encode(given_codes, bits)
    with pytest.raises(ValueError, match="too early|too many|has no end"):
        packing.entropy_decode(coded[:-1], bits, 4096)
    with pytest.raises(ValueError, match="too early"):
        packing.entropy_decode(coded, bits, 4200)
    with pytest.raises(ValueError, match="too many"):
        packing.entropy_decode(coded, bits, 4000)
    with pytest.raises(ValueError, match="follow"):
        packing.entropy_decode(coded + b"\0", bits, 4096)
    with pytest.raises(ValueError, match="cannot hold"):
        list(packing.entropy_blocks(coded, bits, 10**18))
    with pytest.raises(ValueError):
        packing.entropy_decode(b"", bits, 4096)
    with pytest.raises(ValueError, match="damaged"):
        packing.entropy_decode(b"\xff" * len(coded), bits, 4096)


def test_wide_symbols_are_refused():
    def stream(symbols: bytes) -> bytes:
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
        return deflate.compress(symbols) + deflate.flush()

    with pytest.raises(ValueError, match="more than 3 bits"):
        packing.entropy_decode(stream(b"\xff"), 3, 2)


def test_a_bomb_is_not_inflated(monkeypatch):
    bomb = zlib.compress(b"\0" * (1 << 26), 9, wbits=-15)
    inflated = 0
    read = packing._Inflater.read

    def counting(self, size):
        nonlocal inflated
        inflated += size
        return read(self, size)

    monkeypatch.setattr(packing._Inflater, "read", counting)
    with pytest.raises(ValueError, match="cannot hold"):
        packing.entropy_decode(bomb, 8, 1 << 26)
    with pytest.raises(ValueError, match="too many"):
        packing.entropy_decode(bomb, 8, 1000)
    assert inflated == 1000


@given(st.binary(max_size=200), st.sampled_from(WIDTHS), st.integers(1, 2000))
def test_any_bytes_give_codes_or_a_value_error(data, bits, count):
    for decode in (packing.unpack, packing.entropy_decode):
        try:
            found = decode(np.frombuffer(data, np.uint8), bits, count)
        except ValueError:
            continue
        assert found.size == count and int(found.min()) >= 0 and int(found.max()) < 1 << bits


def test_channels_that_are_alike_and_empty_ones():
    chance = random_codes(4, 1 << 16)
    alike = chance[: 1 << 14].repeat(4)
    stream = packing.entropy_encode(alike, 4)
    assert len(stream) < 0.4 * len(packing.entropy_encode(chance, 4))
    assert np.array_equal(packing.entropy_decode(stream, 4, alike.numel()), alike.numpy())
    empty = torch.zeros(1 << 20, dtype=torch.uint8)
    stream = packing.entropy_encode(empty, 4)
    assert 8 * len(stream) >= empty.numel() // 2, "or the reader would refuse it"
    assert np.array_equal(packing.entropy_decode(stream, 4, empty.numel()), empty.numpy())
