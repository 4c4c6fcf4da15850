"""Operators from packed codes do what the decoded weight does, on every path and without the core."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lloydmax import native
from lloydmax.native import running
from lloydmax.native.library import PATHS, ready
from torch import Tensor

needs_core = pytest.mark.skipif(not native.active(), reason="needs the core")
PATH_AND_TWIN = [*PATHS, "python"] if native.active() else ["python"]


@pytest.fixture(params=PATH_AND_TWIN)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Each path that this machine has, and the twins."""
    if request.param == "python":
        monkeypatch.setattr(running, "active", lambda: False)
        yield "python"
        return
    library, number = ready(), PATHS.index(request.param)
    best = library.lm_path_taken()
    if library.lm_take_path(number) != number:
        library.lm_take_path(best)
        pytest.skip(f"this machine does not have {request.param}")
    yield request.param
    library.lm_take_path(best)


def _weight(rows: int, width: int, k: int, tables: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Packed codes, tables and the dense weight."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, k, (rows, width), generator=generator, dtype=torch.uint8)
    table = torch.randn(tables, k, generator=generator)
    weight = table[torch.arange(rows) // (rows // tables)].gather(1, codes.long())
    return native.close_codes(codes, native.bits_of(table)), table, weight


def _off(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_are_packed_and_come_back(bits: int, path: str) -> None:
    for count in (1, 63, 64, 65, 300):
        codes = torch.randint(0, 1 << bits, (count,), dtype=torch.uint8)
        closed = native.close_codes(codes, bits)
        assert closed.numel() == -(-count // 64) * 8 * bits
        assert torch.equal(native.open_codes(closed, bits, count), codes)
        assert torch.equal(closed, torch.cat([native.close_codes(part, bits) for part in codes.split(64)]))


@needs_core
def test_the_core_and_its_twin_pack_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    for bits in range(1, 9):
        codes = torch.randint(0, 1 << bits, (3, 77), dtype=torch.uint8)
        closed = native.close_codes(codes, bits)
        with monkeypatch.context() as patch:
            patch.setattr(running, "active", lambda: False)
            assert torch.equal(native.close_codes(codes, bits), closed)


@pytest.mark.parametrize("k", [1, 2, 5, 9, 17, 32, 33, 65, 129, 256])
def test_products_are_those_with_the_decoded_weight(k: int, path: str) -> None:
    for tables, width in ((1, 1), (3, 27), (9, 64), (9, 330), (1, 1100)):
        closed, table, weight = _weight(9, width, k, tables, k)
        share = 9 // tables
        assert torch.equal(native.decode_codes(None, closed, table, 9, width, share), weight)
        some = torch.tensor([8, 0, 3, 8])
        assert torch.equal(native.decode_codes(some, closed, table, 9, width, share), weight[some])
        for batch in (1, 2, 3, 5, 9, 20, 70):
            input = torch.randn(batch, width)
            wanted = F.linear(input.double(), weight.double())
            scale = (input.double().norm(dim=1)[:, None] * weight.double().norm(dim=1)).norm()
            for fast, most in ((False, 2e-7), (True, 5e-4))[: 2 if batch <= native.FEW else 1]:
                found = native.linear_codes(input, closed, table, 9, share, fast)
                assert (found.double() - wanted).norm() <= most * scale, (width, batch, fast)


CONVOLUTIONS = [
    # images, channels, groups, rows, size, kernel, stride, padding, dilation
    (1, 3, 1, 8, (9, 11), (3, 3), (2, 1), (1, 0), (1, 1)),
    (2, 4, 2, 50, (20, 23), (3, 2), (1, 1), (4, 3), (2, 3)),
    (3, 5, 1, 7, (1, 70), (1, 5), (1, 3), (0, 2), (1, 1)),
    (1, 70, 1, 26, (8, 9), (1, 1), (1, 1), (0, 0), (1, 1)),
    (1, 40, 1, 13, (30, 30), (3, 3), (1, 1), (1, 1), (1, 1)),
    (1, 2, 1, 3, (2, 2), (2, 2), (3, 3), (3, 3), (1, 1)),
    # by squares of outputs: just enough of them, cut at the edges, several images, channels in two parts, groups
    (1, 8, 1, 30, (8, 8), (3, 3), (1, 1), (1, 1), (1, 1)),
    (3, 70, 1, 17, (9, 31), (3, 3), (1, 1), (0, 2), (1, 1)),
    (2, 150, 2, 40, (13, 5), (3, 3), (1, 1), (1, 3), (1, 1)),
    (1, 9, 1, 16, (40, 37), (3, 3), (1, 1), (1, 1), (1, 1)),
]


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_convolutions_are_those_with_the_decoded_weight(case: tuple[Any, ...], path: str) -> None:
    images, channels, groups, rows, size, kernel, stride, padding, dilation = case
    closed, table, weight = _weight(rows, channels // groups * kernel[0] * kernel[1], 16, 1)
    weight, bias = weight.view(rows, -1, *kernel), torch.randn(rows)
    for order in (torch.contiguous_format, torch.channels_last):
        input = torch.randn(images, channels, *size).to(memory_format=order)
        for added in (None, bias):
            doubled = None if added is None else added.double()
            wanted = F.conv2d(input.double(), weight.double(), doubled, stride, padding, dilation, groups)
            found = native.convolve_codes(
                input, closed, table, rows, rows, added, kernel, stride, padding, dilation, groups
            )
            assert found.shape == wanted.shape and (found.double() - wanted).norm() <= 1e-6 * wanted.norm()


@needs_core
@pytest.mark.parametrize("batch", [1, 6, 300])
def test_results_do_not_depend_on_the_number_of_threads(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_SHARED", 1)
    closed, table, _ = _weight(99, 1100, 16, 3)
    squares, tables, _ = _weight(70, 990, 16, 1)
    picture, input, before = torch.randn(2, 110, 30, 30), torch.randn(batch, 1100), torch.get_num_threads()

    def all_of_them() -> list[Tensor]:
        convolved = native.convolve_codes(picture, closed, table, 99, 33, None, (2, 5), (1, 1), (1, 1), (1, 1), 1)
        squared = native.convolve_codes(picture, squares, tables, 70, 70, None, (3, 3), (1, 1), (1, 1), (1, 1), 1)
        linear = [native.linear_codes(input, closed, table, 99, 33, fast) for fast in (False, True)]
        return [convolved, squared, *linear, native.decode_codes(None, closed, table, 99, 1100, 33)]

    try:
        torch.set_num_threads(1)
        wanted = all_of_them()
        for threads in (2, 5):
            torch.set_num_threads(threads)
            assert all(map(torch.equal, all_of_them(), wanted))
    finally:
        torch.set_num_threads(before)


@needs_core
def test_integers_do_not_overflow_and_outliers_are_exact() -> None:
    closed, table = native.close_codes(torch.ones(3, 4096, dtype=torch.uint8), 1), torch.tensor([[-1.0, 1.0]])

    def found(input: Tensor) -> Tensor:
        return native.linear_codes(input, closed, table, 3, 3, True)

    assert _off(found(torch.ones(1, 4096)), torch.full((1, 3), 4096.0).double()) < 1e-6
    input = torch.randn(1, 4096, generator=torch.Generator().manual_seed(0))
    input[0, 5] = 1e4
    assert _off(found(input), input.double().sum().expand(1, 3)) < 1e-6
    for odd in (float("nan"), float("inf")):
        input[0, 5] = odd
        assert torch.equal(found(input).isfinite(), torch.zeros(1, 3, dtype=torch.bool))
    assert torch.equal(found(torch.zeros(1, 4096)), torch.zeros(1, 3))


def test_shapes_are_checked() -> None:
    closed, table = native.close_codes(torch.zeros(4, 16, dtype=torch.uint8), 1), torch.zeros(1, 2)
    for input, tables, shared in ((torch.zeros(1, 70), table, 4), (torch.zeros(1, 16), table, 3)):
        with pytest.raises(ValueError, match="codes"):
            native.linear_codes(input, closed, tables, 4, shared, False)
    with pytest.raises(ValueError, match="float64"):
        native.linear_codes(torch.zeros(1, 16, dtype=torch.float64), closed, table, 4, 4, False)
    with pytest.raises(ValueError, match="3 groups"):
        around = ((1, 1), (1, 1), (0, 0), (1, 1))
        native.convolve_codes(torch.zeros(1, 16, 2, 2), closed, table, 4, 4, None, *around, 3)
    for row in (-1, 4):
        with pytest.raises(IndexError, match="4 rows"):
            native.decode_codes(torch.tensor([0, row]), closed, table, 4, 16, 4)
    assert native.decode_codes(torch.empty(0, dtype=torch.int64), closed, table, 4, 16, 4).shape == (0, 16)
    assert native.linear_codes(torch.zeros(0, 16), closed, table, 4, 4, True).shape == (0, 4)


def test_operators_are_in_order() -> None:
    closed, table, _ = _weight(8, 36, 4, 2)
    picture, ops = torch.randn(2, 4, 6, 7), torch.ops.lloydmax
    check = functools.partial(torch.library.opcheck, test_utils=("test_schema", "test_faketensor"))
    check(ops.linear_codes.default, (torch.randn(3, 36), closed, table, 8, 4, False))
    check(ops.decode_codes.default, (torch.tensor([1, 7]), closed, table, 8, 36, 4))
    check(ops.open_codes.default, (closed, 2, 8 * 36))
    for order in (torch.contiguous_format, torch.channels_last):
        given = (picture.to(memory_format=order), closed, table, 8, 4, None, [3, 3], [1, 2], [1, 1], [1, 1], 1)
        check(ops.convolve_codes.default, given)
