"""The arithmetic code: both coders give the same bytes, which are few, and read whatever they are given."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from lloydmax import native
from lloydmax.format import arithmetic, coding, packing
from lloydmax.format.arithmetic import PythonCoder
from lloydmax.native.library import ready


class PortableCoder(native.ArithmeticCoder):
    """The core on its portable path."""

    def encode(self, values):
        with portable():
            super().encode(values)

    def decode(self, count):
        with portable():
            return super().decode(count)


@contextmanager
def portable():
    taken = ready().lm_path_taken()
    ready().lm_take_path(0)
    yield
    ready().lm_take_path(taken)


CODERS = [PythonCoder, *([native.ArithmeticCoder, PortableCoder] if native.active() else [])]


def stream(kind, values, columns, mixed, room=1 << 16, kernel=(1, 1)):
    made = kind(mixed, room=room)
    for part in np.array_split(values, 2):
        made.rows(columns, *kernel)
        made.encode(part)
    return made.end()


def back(kind, data, count, columns, mixed, kernel=(1, 1)):
    made = kind(mixed, np.frombuffer(data, np.uint8))
    found = []
    for part in np.array_split(np.zeros(count), 2):
        made.rows(columns, *kernel)
        found.append(made.decode(part.size))
    return np.concatenate(found), made.done()


@pytest.mark.parametrize("kernel", [(1, 1), (9, 3), (2, 1), (18, 18)])
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("spread", [0.02, 1.0, 40.0, 3e6])
def test_every_coder_gives_the_same_bytes_and_the_integers_again(mixed, spread, kernel):
    chance = np.random.default_rng(0)
    rows = np.exp(chance.standard_normal((20, 1)))
    values = (chance.standard_normal((20, 18)) * rows * spread).clip(1 - (1 << 25), (1 << 25) - 1).astype(np.int32)
    streams = {stream(kind, values.reshape(-1), 18, mixed, kernel=kernel) for kind in CODERS}
    (data,) = streams
    for kind in CODERS:
        found, done = back(kind, data, values.size, 18, mixed, kernel)
        assert np.array_equal(found, values.reshape(-1)) and done


def test_coders_agree_when_the_counts_of_nodes_are_at_their_limits():
    values = (np.random.default_rng(0).random(2500) < 0.02).astype(np.int32)
    streams = {stream(kind, values, 0, True) for kind in CODERS}
    (data,) = streams
    assert all(np.array_equal(back(kind, data, values.size, 0, True)[0], values) for kind in CODERS)


@pytest.mark.parametrize("mixed", [False, True])
def test_any_bytes_decode_to_integers_of_their_range(mixed):
    chance = np.random.default_rng(1)
    for size in (0, 1, 5, 60):
        data = chance.integers(0, 256, size).astype(np.uint8).tobytes()
        results = [back(kind, data, 150, 7, mixed) for kind in CODERS]
        assert all(np.abs(found).max() < 1 << 25 for found, _ in results)
        assert all(np.array_equal(found, results[0][0]) and done == results[0][1] for found, done in results)


def test_a_stream_that_has_no_room_is_none():
    values = np.random.default_rng(2).integers(-500, 500, 100).astype(np.int32)
    for kind in CODERS:
        assert stream(kind, values, 10, False, room=20) is None
        assert stream(kind, np.zeros(0, np.int32), 1, True, room=0) == b""


@pytest.mark.skipif(not native.active(), reason="the twin takes long")
@pytest.mark.parametrize("k", [2, 5, 16, 256, 1000])
def test_codes_take_their_entropy_at_most_or_less_in_rows_that_differ(k):
    chance = np.random.default_rng(k)
    weights = chance.standard_normal((256, 512))
    for scale, most in ((1.0, 1.005), (np.exp(chance.standard_normal((256, 1))), 0.95 if k < 99 else 1.005)):
        grid = np.clip(np.round(weights * scale * k / 8 + k / 2 - 0.25), 0, k - 1).astype(np.int16)
        codes, bits = torch.from_numpy(grid), (k - 1).bit_length()
        counts = np.bincount(grid.reshape(-1))
        counts = counts[counts > 0]
        entropy = (counts * np.log2(grid.size / counts)).sum() / 8
        data = coding.encode(codes, bits, "arithmetic")
        learning = len(counts) * np.log2(grid.size) / 16
        assert len(data) <= most * entropy + learning + 8
        blocks = coding.blocks(np.frombuffer(data, np.uint8), "arithmetic", bits, codes.shape)
        found = np.concatenate(list(blocks))
        assert np.array_equal(found, grid.reshape(-1)) and found.dtype == packing.dtype_of(bits)


@pytest.mark.skipif(not native.active(), reason="the twin takes long")
@pytest.mark.parametrize("shape", [(64, 64, 3, 3), (32, 16, 11), (16, 8, 3, 5, 5), (256, 144)])
@pytest.mark.parametrize("axis", [-1, -2])
def test_codes_that_are_like_their_neighbours_take_less(shape, axis):
    chance = np.random.default_rng(3)
    weights = chance.standard_normal(shape)
    for one in range(1, shape[axis]):
        before, here = (np.take(weights, place, axis) for place in (one - 1, one))
        np.moveaxis(weights, axis, 0)[one] = 0.8 * before + 0.6 * here
    grid = np.clip(np.round(weights * 2 + 7), 0, 15).astype(np.uint8)
    codes, mixed = torch.from_numpy(grid), torch.from_numpy(chance.permutation(grid.reshape(-1)).reshape(shape))
    alike = axis == -1 or len(shape) != 3  # in kernels of one line, nothing is above
    here, there = (len(coding.encode(one, 4, "arithmetic")) for one in (codes, mixed))
    assert here < 0.95 * there if alike else here < 1.005 * there


@pytest.mark.skipif(not native.active(), reason="the twin takes long")
def test_a_parameter_of_a_very_large_file_is_not_mixed_and_loads_in_time(monkeypatch):
    monkeypatch.setattr(coding, "_ALL_MIXED", 99_999)
    chance = np.random.default_rng(4)
    rows = chance.standard_normal((64, 512)) * np.exp(chance.standard_normal((64, 1)))
    codes = torch.from_numpy(np.clip(np.round(rows * 2 + 7), 0, 15).astype(np.uint8))
    small, large = (coding.encode(codes, 4, "arithmetic", together) for together in (99_999, 100_000))
    assert (small[0] & 1, large[0] & 1) == (1, 0) and len(small) < len(large)
    for data in (small, large):
        found = coding.blocks(np.frombuffer(data, np.uint8), "arithmetic", 4, codes.shape)
        assert np.array_equal(np.concatenate(list(found)), codes.numpy().reshape(-1))


@pytest.mark.parametrize("shape", [(3, 5), (7,), ()])
def test_streams_of_other_codes_are_refused(shape):
    codes = torch.tensor([4] * int(np.prod(shape)), dtype=torch.uint8).reshape(shape)
    data = np.frombuffer(coding._arithmetic(codes, 99, 99), np.uint8)
    assert np.concatenate(list(coding.blocks(data, "arithmetic", 3, shape))).tolist() == codes.reshape(-1).tolist()
    for wrong, bits, size, words in (
        (data, 2, shape, "more than 2 bits"),
        (data, 3, (1 << 40, 2), "cannot hold"),
        (np.append(data, [1] * 9).astype(np.uint8), 3, shape, "bytes follow"),
        (np.array([255] * 4, np.uint8), 3, shape, "no beginning"),
        (np.zeros(0, np.uint8), 3, shape, "no beginning"),
    ):
        with pytest.raises(ValueError, match=words):
            list(coding.blocks(wrong, "arithmetic", bits, size))


def test_codes_that_are_as_frequent_stay_packed():
    codes = torch.arange(16, dtype=torch.uint8).repeat(3)
    data, coded = coding.stream(codes, 4, "arithmetic")
    assert not coded and np.array_equal(packing.unpack(data, 4, 48), codes.numpy())
    assert coding.stream(torch.zeros(9, dtype=torch.uint8), 0, "arithmetic")[0].size == 0


def test_the_logistic_function_rises_and_has_a_reverse():
    table = arithmetic._stretched()
    assert len(table) == 4096 and sorted(table) == table and table[0] == -table[-1] == -arithmetic._TOP
    assert all(abs((arithmetic._squash(x) >> 4) - at) <= 4 for at, x in enumerate(table) if 8 < at < 4088)


@pytest.mark.skipif(not native.active(), reason="the twin takes long")
@pytest.mark.parametrize("unlike", [False, True])
def test_probabilities_are_mixed_where_the_first_block_promises_something(unlike, monkeypatch):
    chance, encoded = np.random.default_rng(3), {False: 0, True: 0}
    scale = np.exp(chance.standard_normal((1024, 1))) if unlike else 1.0
    grid = np.clip(np.round(chance.standard_normal((1024, 512)) * scale + 4), 0, 7).astype(np.uint8)

    def counting(mixed, room):
        made = native.ArithmeticCoder(mixed, room=room)
        encode = made.encode

        def counted(values):
            encoded[mixed] += values.size
            encode(values)

        made.encode = counted
        return made

    monkeypatch.setattr(arithmetic, "coder", counting)
    data = coding.encode(torch.from_numpy(grid), 3, "arithmetic")
    assert data[0] & 1 == unlike
    assert encoded[True] == packing.BLOCK + unlike * grid.size
