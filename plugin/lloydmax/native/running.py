"""Weights of codes at work, run.c: products, convolutions and rows of weights, straight from packed codes.

The operators are PyTorch's (``torch.ops.lloydmax``), so that compiled and exported programs hold them. Without the
core, and on other devices, their twins decode.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lloydmax.native.library import active, address, ready, size

BLOCK = 64
"""Codes that lie together, see run.c."""
FEW = 4
"""Inputs up to which integers are faster than floats."""
_SEVERAL = 8
"""Inputs up to which each row of codes is decoded for a few of them; from there on, a tile of rows for all."""
_SHARED = 1 << 20
"""Products from which threads share them."""
_PEAK = 32.0
"""Over the root mean square of the inputs: with a larger one the others have too few bits to be held to 1e-3."""
_PARTS = 64
"""Pixels, or squares of them, of a tile; threads share an image by so many."""


P = ParamSpec("P")
T = TypeVar("T")


def _operator(work: Callable[P, T]) -> Callable[P, T]:
    """An operator of PyTorch where a program is recorded, and else a plain function: the first call of an operator from
    Python imports PyTorch's compiler."""
    made = torch.library.custom_op(f"lloydmax::{work.__name__}", work, mutates_args=())

    @functools.wraps(work)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        recorded = torch.compiler.is_compiling() or torch.compiler.is_exporting() or torch.jit.is_tracing()
        if recorded or any(isinstance(one, Tensor) and type(one) is not Tensor for one in args):
            found: T = made(*args, **kwargs)
            return found
        return work(*args, **kwargs)

    return call


def bits_of(tables: Tensor) -> int:
    """Bits of a packed code for tables ``(.., k)``, at least 1."""
    return max(1, (tables.shape[-1] - 1).bit_length())


def close_codes(codes: Tensor, bits: int) -> Tensor:
    """Codes packed as weights of codes run: uint8, ``8 * bits`` bytes for every 64 codes.

    Args:
        codes: uint8 below ``2 ** bits``, any shape.
        bits: 1 to 8.
    """
    flat = codes.reshape(-1)
    blocks = -(-len(flat) // BLOCK)
    if active() and flat.device.type == "cpu":
        planes = flat.new_empty(blocks * 8 * bits)
        ready().lm_close(address(flat), size(len(flat)), bits, address(planes))
        return planes
    rows = F.pad(flat, (0, blocks * BLOCK - len(flat))).view(blocks, BLOCK)
    return torch.cat([_plane(rows >> at & ((1 << width) - 1), width) for width, at in _places(bits)], 1).view(-1)


@_operator
def open_codes(planes: Tensor, bits: int, count: int) -> Tensor:
    """The reverse of :func:`close_codes`: uint8 ``(count,)``."""
    if active() and planes.device.type == "cpu":
        codes = planes.new_empty(count)
        ready().lm_open(address(planes.contiguous()), size(count), bits, address(codes))
        return codes
    rows = planes.view(-1, 8 * bits)
    found, begin = torch.zeros(len(rows), BLOCK, dtype=torch.uint8, device=planes.device), 0
    for width, at in _places(bits):
        parts = torch.arange(0, 8, width, dtype=torch.uint8, device=planes.device)
        plane = rows[:, begin : begin + 8 * width]
        spread = plane[:, :, None] >> parts if width == 1 else plane[:, None, :] >> parts[:, None]
        found |= (spread & ((1 << width) - 1)).reshape(-1, BLOCK) << at
        begin += 8 * width
    return found.view(-1)[:count].clone()


@torch.library.register_fake("lloydmax::open_codes")
def _(planes: Tensor, bits: int, count: int) -> Tensor:
    return planes.new_empty(count)


def _places(bits: int) -> list[tuple[int, int]]:
    """Widths of the planes of a code, and where each begins in it."""
    if bits == 8:
        return [(8, 0)]
    widths = [width for width in (4, 2, 1) if bits & width]
    return [(width, sum(widths[:place])) for place, width in enumerate(widths)]


def _plane(part: Tensor, width: int) -> Tensor:
    shifts = torch.arange(0, 8, width, dtype=torch.uint8, device=part.device)
    if width == 1:
        return (part.view(-1, 8, 8) << shifts).sum(2).to(torch.uint8)
    return (part.view(len(part), 8 // width, -1) << shifts[:, None]).sum(1).to(torch.uint8)


@_operator
def decode_codes(index: Tensor | None, planes: Tensor, tables: Tensor, rows: int, width: int, shared: int) -> Tensor:
    """Rows of a weight: row r is ``tables[r // shared][codes[r]]``.

    Args:
        index: int64 ``(n,)``, 0 to ``rows - 1``; ``None``: all rows.
        planes: the codes ``(rows, width)``, closed by :func:`close_codes`.
        tables: ``(.., k)``, float32, k at most 256.
        rows: of the weight.
        width: of a row.
        shared: rows that have one table.

    Returns:
        ``(n, width)``, float32.

    Raises:
        ValueError: shapes or dtypes do not go together.
        IndexError: there is not such a row.
    """
    _fits(planes, tables, rows, width, shared)
    if index is not None and len(index) and not 0 <= int(index.min()) <= int(index.max()) < rows:
        raise IndexError(f"a row below 0 or above {rows - 1} of a weight of {rows} rows")
    if not active() or planes.device.type != "cpu":
        codes = open_codes(planes, bits_of(tables), rows * width).view(rows, width)
        owners = torch.arange(rows, device=planes.device) // shared
        chosen = slice(None) if index is None else index
        return tables[owners[chosen]].gather(1, codes[chosen].long())
    count = rows if index is None else len(index)
    output = tables.new_empty(count, width)
    places = None if index is None else index.contiguous()
    held = _held(planes, tables, rows, width, shared)
    _divided(1, count, count * width, lambda begin, end: ready().lm_decode(
        *held, address(None if places is None else places[begin:end]), size(begin), size(end), address(output),
    ))  # fmt: skip
    return output


@torch.library.register_fake("lloydmax::decode_codes")
def _(index: Tensor | None, planes: Tensor, tables: Tensor, rows: int, width: int, shared: int) -> Tensor:
    return tables.new_empty(rows if index is None else index.shape[0], width)


@_operator
def linear_codes(input: Tensor, planes: Tensor, tables: Tensor, rows: int, shared: int, fast: bool) -> Tensor:
    """``input @ weight.T``, where row r of the weight is ``tables[r // shared][codes[r]]``.

    Args:
        input: ``(batch, in)``, float32.
        planes: the codes ``(rows, in)``, closed by :func:`close_codes`.
        tables: ``(.., k)``, float32, k at most 256.
        rows: of the weight.
        shared: rows that have one table.
        fast: up to :data:`FEW` inputs in integers of 16 bits, where the core and the numbers allow that, see
            :data:`_PEAK`.

    Returns:
        ``(batch, rows)``, float32.

    Raises:
        ValueError: shapes or dtypes do not go together.
    """
    batch, width = input.shape
    _fits(planes, tables, rows, width, shared, input)
    if not active() or input.device.type != "cpu":
        return F.linear(input, decode_codes(None, planes, tables, rows, width, shared))
    x = input.contiguous()
    if batch > _SEVERAL:  # an image of one row of pixels, whose channels lie together
        turned = input.new_empty(rows, batch)
        shape = (1, 0, width, 1, batch, *(1, 1) * 2, *(0, 0), *(1, 1), 1, batch, 1, 0, 1, width, 0, batch, 1)
        _convolved(x, planes, tables, rows, width, shared, None, shape, turned)
        return turned.t().contiguous()
    output = input.new_empty(batch, rows)
    held, left = _held(planes, tables, rows, width, shared), range(batch)
    if fast and batch <= FEW:
        left = [b for b in left if not _in_integers(x[b], held, rows, width, output[b])]  # type: ignore[assignment]
    for part in [slice(0, batch)] if len(left) == batch else [slice(b, b + 1) for b in left]:
        some, into = x[part], output[part]
        _divided(1, rows, rows * width, lambda begin, end: ready().lm_few(
            address(some), size(len(some)), *held, size(begin), size(end), address(into),  # noqa: B023
        ))  # fmt: skip
    return output


@torch.library.register_fake("lloydmax::linear_codes")
def _(input: Tensor, planes: Tensor, tables: Tensor, rows: int, shared: int, fast: bool) -> Tensor:
    return input.new_empty(input.shape[0], rows)


def _in_integers(x: Tensor, held: tuple[object, ...], rows: int, width: int, output: Tensor) -> bool:
    def product(begin: int, end: int) -> int:
        room = torch.empty(width + BLOCK, dtype=torch.int16)
        done: int = ready().lm_integers(
            address(x), *held, size(begin), size(end), ctypes.c_float(_PEAK), address(room), address(output)
        )
        return done

    return all(_divided(1, rows, rows * width, product))


@_operator
def convolve_codes(
    input: Tensor, planes: Tensor, tables: Tensor, rows: int, shared: int, bias: Tensor | None,
    kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int,
) -> Tensor:  # fmt: skip
    """``F.conv2d`` with a weight of codes, zeros around the input.

    Kernels of 3 x 3 in steps of one run by squares of 2 x 2 outputs (Winograd 1980): an input that is not finite spoils
    all outputs of the squares that see it.

    Args:
        input: ``(images, channels, height, width)``, float32, in any order of memory.
        planes: the codes ``(rows, channels / groups * kernel)``, closed by :func:`close_codes`.
        tables: ``(.., k)``, float32, k at most 256.
        rows: of the weight, the output's channels.
        shared: rows that have one table.
        bias: ``(rows,)`` or ``None``.
        kernel: its height and width; so are the others.
        stride: of the kernel.
        padding: on both sides.
        dilation: of the kernel.
        groups: of channels.

    Returns:
        ``(images, rows, height, width)``, float32.

    Raises:
        ValueError: shapes or dtypes do not go together.
    """
    images, channels = input.shape[:2]
    out = _seen(input.shape[2:], kernel, stride, padding, dilation)
    width = channels // groups * kernel[0] * kernel[1]
    _fits(planes, tables, rows, width, shared, input)
    if channels % groups or rows % groups or min(out) < 1:
        raise ValueError(f"inputs {tuple(input.shape)}, {groups} groups, a kernel of {tuple(kernel)} and {rows} rows")
    if not active() or input.device.type != "cpu":
        weight = decode_codes(None, planes, tables, rows, width, shared).view(rows, -1, *kernel)
        return F.conv2d(input, weight, bias, list(stride), list(padding), list(dilation), groups)
    output = _image(input, (images, rows, *out))
    inner, outer = input.stride(), output.stride()
    shape = (
        *inner[1:], *input.shape[2:], *kernel, *stride, *padding, *dilation, *out,
        images, inner[0], groups, channels // groups, outer[0], outer[1], outer[3],
    )  # fmt: skip
    _convolved(input, planes, tables, rows, width, shared, bias, shape, output)
    return output


@torch.library.register_fake("lloydmax::convolve_codes")
def _(
    input: Tensor, planes: Tensor, tables: Tensor, rows: int, shared: int, bias: Tensor | None,
    kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int,
) -> Tensor:  # fmt: skip
    return _image(input, (input.shape[0], rows, *_seen(input.shape[2:], kernel, stride, padding, dilation)))


def _image(input: Tensor, shape: Sequence[int]) -> Tensor:
    """Empty, in the order of memory that the input has."""
    last = input.stride(1) == 1 and input.shape[1] > 1 and input.is_contiguous(memory_format=torch.channels_last)
    return input.new_empty(shape).to(memory_format=torch.channels_last if last else torch.contiguous_format)


def _seen(
    size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> tuple[int, int]:
    first, second = ((size[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in range(2))
    return first, second


def _convolved(
    input: Tensor, planes: Tensor, tables: Tensor, rows: int, width: int, shared: int, bias: Tensor | None,
    shape: tuple[int, ...], output: Tensor,
) -> None:  # fmt: skip
    """What ``lm_convolve`` does, by threads that share the pixels of an image, or else the rows."""
    held, plan = _held(planes, tables, rows, width, shared), (ctypes.c_int64 * len(shape))(*shape)
    parts, each = ready().lm_parts(plan, size(rows)), rows // shape[17]
    bias = None if bias is None else bias.contiguous()
    by_parts = parts >= 2 * _PARTS * torch.get_num_threads()

    def product(begin: int, end: int) -> int:
        shares = (0, each, begin, end) if by_parts else (begin, end, 0, parts)
        done: int = ready().lm_convolve(
            address(None) if input.numel() == 0 else ctypes.c_void_p(input.data_ptr()), *held, address(bias), plan,
            *map(size, shares), ctypes.c_void_p(output.data_ptr()),
        )  # fmt: skip
        return done

    if output.numel() and not all(
        _divided(
            _PARTS if by_parts else 24,
            parts if by_parts else each,
            shape[13] * shape[14] * shape[15] * rows * width,
            product,
        )
    ):
        raise MemoryError("no 700 kB for the inputs of a product from codes")


def _held(planes: Tensor, tables: Tensor, rows: int, width: int, shared: int) -> tuple[object, ...]:
    """A weight as the core takes it; who calls keeps the tensors."""
    numbers = tables.shape[-1], rows, width, shared
    return (address(planes), address(tables), *map(size, numbers))


def _fits(planes: Tensor, tables: Tensor, rows: int, width: int, shared: int, input: Tensor | None = None) -> None:
    k, blocks = tables.shape[-1], -(-rows * width // BLOCK)
    fits = 1 <= k <= 256 and shared >= 1 and tables.numel() // k * shared >= rows
    if not fits or planes.numel() != blocks * 8 * bits_of(tables):
        given = "" if input is None else f"inputs {tuple(input.shape)}, "
        raise ValueError(
            f"{given}{planes.numel()} bytes of codes, {rows} rows of {width} and tables {tuple(tables.shape)}"
        )
    dtypes = planes.dtype, tables.dtype, torch.float32 if input is None else input.dtype
    if dtypes != (torch.uint8, torch.float32, torch.float32):
        raise ValueError(f"codes, tables and inputs of {dtypes} in place of uint8, float32 and float32")


def _divided(step: int, count: int, work: int, do: Callable[[int, int], int]) -> list[int]:
    """``do(begin, end)`` of all up to ``count``, by as many threads as torch has where the work is worth it."""
    threads = min(torch.get_num_threads(), -(-count // step)) if work >= _SHARED else 1
    if threads <= 1:
        return [do(0, count)]
    each = -(-count // (threads * step)) * step
    return list(_pool(threads).map(lambda begin: do(begin, min(count, begin + each)), range(0, count, each)))


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
