"""How a compressed weight computes in inference: decoded in parts, to need little memory, or in int8 or straight from
its codes, to be fast.

Compiled and exported programs hold operators for what runs from codes, and else the plain way,
:meth:`lloydmax.codebook.layout.Layout.decode`; traced ones always hold that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Literal, Protocol, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from lloydmax import native
from lloydmax.codebook.codebook import Codebook
from lloydmax.codebook.layout import FLOAT_DTYPES, Layout


class CodedWeight(Protocol):
    """A weight of codes, as a codebook layer holds it."""

    @property
    def kernel(self) -> str | None:
        """What it runs with."""

    @property
    def cached(self) -> bool:
        """Whether the dense weight is kept."""

    @property
    def layout(self) -> Layout:
        """Of the weight."""

    @property
    def centroids(self) -> Tensor:
        """Of its codebooks."""

    @property
    def planes(self) -> Tensor | None:
        """Its packed codes, where it runs from them."""

    def __call__(self) -> Tensor:
        """The dense weight."""

    def codebook(self) -> Codebook:
        """The centroids and codes (not copied)."""

    def int8(self) -> tuple[Tensor, Tensor, Tensor]:
        """What int8 runs with, see :func:`int8_weight`."""

    def plain(self) -> Tensor:
        """The dense weight, whatever it runs with."""


Kernel = Literal["int8", "codes", "codes-fast"]
KERNELS: tuple[str, ...] = get_args(Kernel)
FROM_CODES: tuple[str | None, ...] = ("codes", "codes-fast")

LARGE = 1 << 19
"""Weights from which a product with few inputs is bound by memory."""
_FEW = 16
"""Input vectors up to which int8 is faster than a product with the decoded weight."""
_STEP = 16
"""Inputs that PyTorch's kernel takes at once; it checks no remainder and reads past the end."""
_TOLERANCE = 1e-2
"""Largest relative error of a weight in int8, over the decoded one; outliers make it larger."""
INT8_NEEDS = (
    f"at least {LARGE:,} weights, a multiple of {_STEP} inputs, a code for each weight, on the CPU, and centroids that "
    f"int8 holds to {_TOLERANCE:.0%} (far outliers spoil that; a finer granularity helps)"
)
CODES_LEAST = 1 << 12
"""Weights from which a product from codes is worth a call of the core."""
CODES_NEEDS = (
    f"at least {CODES_LEAST:,} weights, a code for each, output channels along the first axis (of GPT-2's Conv1D, the "
    "last), at least 32 of them in each of several groups, one codebook or scale for all weights of a channel (not "
    "weights:N), at most 256 float32 centroids, on the CPU"
)
FAST_TOLERANCE = 1e-3
"""Largest relative error of a product in integers."""
FEWEST_ROWS = 32
"""Output channels of each of several groups of a convolution that are worth a product from codes."""
_MOST_WATCHED = 64
"""Inputs of a call whose products in integers are compared."""
_watched: ContextVar[dict[int, float] | None] = ContextVar("watched", default=None)


def plainly(input: Tensor | None = None) -> bool:
    """Whether a program is being recorded, or the input is not an ordinary tensor."""
    recorded = torch.compiler.is_compiling() or torch.compiler.is_exporting() or torch.jit.is_tracing()
    return recorded or (input is not None and type(input) is not Tensor)


def dense(codebook: Codebook) -> Tensor:
    """What :meth:`~lloydmax.Codebook.dequantize` gives, bit for bit, without its large temporaries; no gradient."""
    with torch.no_grad():
        weight = torch.empty(codebook.shape, dtype=codebook.centroids.dtype, device=codebook.codes.device)
        for rows, part in codebook.parts():
            weight[rows] = part.dequantize()
        return weight


def linear(input: Tensor, weight: CodedWeight, bias: Tensor | None) -> Tensor:
    """``F.linear`` with a weight of codes: ``(*, in_features)`` -> ``(*, out_features)``.

    Without a cache the product is formed in parts as well: the same up to the order of the sums.
    """
    if (found := from_codes(input, weight, bias)) is not None:
        return found
    if plainly(input):
        return F.linear(input, weight(), bias)
    if weight.kernel == "int8" and (found := few(input, weight, bias)) is not None:
        return found
    if weight.cached:
        return F.linear(input, weight(), bias)
    output = None
    for rows, part in weight.codebook().parts():
        product = F.linear(input, part.dequantize(), None if bias is None else bias[rows])
        if output is None:  # products kept in a list would lie between the freed weights, and keep their memory
            output = product.new_empty(*product.shape[:-1], weight.layout.shape[0])
        output[..., rows] = product
    assert output is not None
    return output


def few(input: Tensor, weight: CodedWeight, bias: Tensor | None, matrix: int = 0) -> Tensor | None:
    """A linear layer in int8: ``(*, inputs)`` -> ``(*, outputs)``; ``None`` where it does not take the inputs.

    Args:
        input: of the layer.
        weight: that int8 serves.
        bias: ``(outputs,)`` or ``None``.
        matrix: of several, which one.
    """
    if not _takes(input, weight, bias):
        return None
    product = _int8_linear(input, weight, matrix)
    return product if bias is None else product.add_(bias)


def from_codes(input: Tensor, weight: CodedWeight, bias: Tensor | None) -> Tensor | None:
    """A linear layer from packed codes: ``(*, inputs)`` -> ``(*, outputs)``; ``None`` where it does not take them.

    In integers (``"codes-fast"``) up to :data:`native.FEW` inputs; within :func:`watching` they are only compared.
    """
    planes = weight.planes
    if planes is None or not _runs(input, weight, bias) or input.shape[-1] != weight.layout.weights_per_channel:
        return None
    vectors, fast = input.reshape(-1, input.shape[-1]), weight.kernel == "codes-fast"
    held = planes, *_tables(weight)
    watched = None if torch.compiler.is_compiling() else _watched.get()
    product = native.linear_codes(vectors, *held, fast and watched is None)
    if fast and watched is not None and len(vectors):
        some = vectors[:_MOST_WATCHED]
        found = torch.cat([native.linear_codes(part, *held, True) for part in some.split(native.FEW)])
        off = float((found - product[: len(some)]).norm() / product[: len(some)].norm().clamp(min=1e-30))
        watched[id(planes)] = max(watched.get(id(planes), 0.0), off)
    product = product.view(*input.shape[:-1], weight.layout.outputs)
    return product if bias is None else product.add_(bias)


@contextmanager
def watching() -> Iterator[dict[int, float]]:
    """Products in integers are compared with those in floats, which are what layers give meanwhile.

    Yields:
        The largest relative error of a call, filled as layers run, by the ``id`` of the packed codes.
    """
    found: dict[int, float] = {}
    token = _watched.set(found)
    try:
        yield found
    finally:
        _watched.reset(token)


def convolution(
    input: Tensor,
    weight: CodedWeight,
    bias: Tensor | None,
    stride: int | Sequence[int],
    padding: int | str | Sequence[int],
    dilation: int | Sequence[int],
    groups: int,
) -> Tensor | None:
    """``F.conv1d`` or ``F.conv2d`` from packed codes; ``None`` where that does not take the inputs."""
    planes = weight.planes
    if planes is None:
        return None
    layout, axes = weight.layout, len(weight.layout.shape) - 2
    if axes not in (1, 2) or layout.axis or not _runs(input, weight, bias):
        return None
    if input.dim() not in (axes + 1, axes + 2) or input.shape[-axes - 1] != layout.shape[1] * groups:
        return None
    if (groups > 1 and layout.outputs < groups * FEWEST_ROWS) or 0 in input.shape:
        return None
    kernel = layout.shape[2:]
    steps, spread = _each(stride, axes), _each(dilation, axes)
    if padding == "same":
        around = [distance * (size - 1) for distance, size in zip(spread, kernel, strict=True)]
        input = F.pad(input, [side for total in reversed(around) for side in (0, total % 2)])
        padding = [total // 2 for total in around]
    edges = _each(0 if isinstance(padding, str) else padding, axes)
    ends = [size + 2 * edge - distance * (side - 1) for size, edge, distance, side in
            zip(input.shape[-axes:], edges, spread, kernel, strict=True)]  # fmt: skip
    if min(ends) < 1:
        return None
    images = input if input.dim() == axes + 2 else input.unsqueeze(0)
    if groups == 1 and not any(edges) and images.shape[2:] == kernel:  # there is one place for the kernel
        product = from_codes(images.flatten(1), weight, bias)
        output = None if product is None else product.view(*product.shape, *[1] * axes)
    else:
        line = 2 - axes
        output = native.convolve_codes(
            images if axes == 2 else images.unsqueeze(2), planes, *_tables(weight), bias,
            [1] * line + [*kernel], [1] * line + steps, [0] * line + edges, [1] * line + spread, groups,
        )  # fmt: skip
        output = output if axes == 2 else output.squeeze(2)
    return output if output is None or input.dim() == axes + 2 else output.squeeze(0)


def embedding(input: Tensor, weight: CodedWeight) -> Tensor | None:
    """Only the rows that are looked up, decoded: integers ``(*)`` -> ``(*, embedding_dim)``; ``None`` where the decoded
    weight is at hand, or is to be recorded."""
    planes = weight.planes
    if input.dtype not in (torch.int32, torch.int64):
        return None  # PyTorch says so
    if planes is not None and weight.layout.axis == 0 and _runs(input, weight, None, None):
        tables, rows, shared = _tables(weight)
        width = weight.layout.weights_per_channel
        found = native.decode_codes(input.reshape(-1).long(), planes, tables, rows, width, shared)
        return found.view(*input.shape, width)
    if plainly(input) or weight.cached:
        return None
    codebook, index, layout = weight.codebook(), input.reshape(-1), weight.layout
    width = layout.shape[1]
    codes, centroids, granularity = codebook.codes[index], codebook.centroids, "tensor"
    if layout.runs > 1:
        granularity = layout.granularity
        centroids = centroids.view(layout.shape[0], -1, codebook.k)[index].flatten(0, 1)
    elif layout.channels is not None:
        centroids, granularity = centroids[index // layout.channels], "channel"
    rows_of = replace(layout, shape=(len(index), width), granularity=granularity)
    return rows_of.decode(centroids, codes).view(*input.shape, width)


def int8_serves(codebook: Codebook) -> bool:
    """Whether int8 can hold the weight of a linear layer and is worth it; what is needed, :data:`INT8_NEEDS` says."""
    return (
        codebook.block == 1
        and codebook.layout.runs == 1
        and (
            len(codebook.shape) == 2 or (codebook.shape[:1] == (codebook.layout.matrices,) and len(codebook.shape) == 3)
        )
        and codebook.layout.weights_per_channel % _STEP == 0
        and codebook.codes.numel() >= LARGE
        and codebook.codes.device.type == "cpu"
        and codebook.centroids.dtype in FLOAT_DTYPES
        and _int8_centroids(codebook)[2] <= _TOLERANCE
    )


def codes_serve(codebook: Codebook) -> bool:
    """Whether a weight can be run from its codes and that is worth it; see :data:`CODES_NEEDS`."""
    return (
        codebook.block == 1
        and codebook.layout.runs == 1
        and codebook.layout.matrices == 1
        and codebook.codes.numel() >= CODES_LEAST
        and codebook.codes.dtype == torch.uint8
        and codebook.codes.device.type == "cpu"
        and codebook.centroids.dtype == torch.float32
    )


def int8_weight(codebook: Codebook) -> tuple[Tensor, Tensor, Tensor]:
    """The weight through an int8 codebook: every centroid a multiple of a scale, -127 to 127.

    Returns:
        int8 ``(outputs, inputs)``, of several matrices ``(matrices, outputs, inputs)``; a bfloat16 scale for each row;
        and in float32 the sum of what each row lost, which times the mean of an input is the part of the error that
        does not average out.
    """
    layout = codebook.layout
    flat = replace(layout, shape=(layout.outputs, layout.weights_per_channel), axis=0, matrices=1)
    matrices = layout.matrices
    codebook = Codebook.of(flat, codebook.centroids, layout.channels_first(codebook.codes).reshape(flat.shape))
    multiples, scale, _ = _int8_centroids(codebook)
    lost = _table(codebook) - multiples * scale.float()[:, None]
    shape = codebook.centroids.shape
    values = dense(replace(codebook, centroids=multiples.to(torch.int8).view(shape)))
    rest = torch.empty(len(values))
    for rows, part in replace(codebook, centroids=lost.view(shape)).parts():
        rest[rows] = part.dequantize().sum(1)
    found = values, scale[codebook.layout.owners()], rest
    if matrices == 1:
        return found
    first, second, third = (part.unflatten(0, (matrices, -1)) for part in found)
    return first, second, third


def _int8_centroids(codebook: Codebook) -> tuple[Tensor, Tensor, float]:
    """Multiples, bfloat16 scales and the relative error over the weights; the scale of a codebook is that bfloat16
    number which gives the least."""
    table, counts = _table(codebook), codebook.member_counts().float().view(-1, codebook.k)
    least = (table.abs().amax(1) / 127).clamp(min=torch.finfo(torch.bfloat16).tiny).bfloat16().view(torch.int16)
    best, error = least, torch.full_like(table[:, 0], torch.inf)
    for step in range(128):  # so many bfloat16 numbers lie between one and its double
        scale = (least + step).view(torch.bfloat16)
        found = ((_multiples(table, scale) * scale[:, None] - table).square() * counts).sum(1)
        best, error = torch.where(found < error, least + step, best), torch.minimum(found, error)
    scale = best.view(torch.bfloat16)
    signal = (table.square() * counts).sum().clamp(min=torch.finfo(torch.float32).tiny)
    return _multiples(table, scale), scale, float((error.sum() / signal).sqrt())


def _table(codebook: Codebook) -> Tensor:
    return codebook.centroids.detach().float().reshape(-1, codebook.k)


def _multiples(table: Tensor, scale: Tensor) -> Tensor:
    return (table / scale.float()[:, None]).round().clamp(-127, 127)


def _takes(input: Tensor, weight: CodedWeight, bias: Tensor | None) -> bool:
    return (
        _ordinary(input, weight, bias)
        and input.dtype == weight.centroids.dtype
        and input.dim() > 0
        and input.shape[-1] == weight.layout.weights_per_channel
        and input.numel() <= _FEW * input.shape[-1]
    )


def _ordinary(input: Tensor, weight: CodedWeight, bias: Tensor | None) -> bool:
    """No gradient, no autocast, on the CPU."""
    learns = torch.is_grad_enabled() and (input.requires_grad or (bias is not None and bias.requires_grad))
    return input.device.type == "cpu" and not learns and not torch.is_autocast_enabled("cpu")


def _runs(input: Tensor, weight: CodedWeight, bias: Tensor | None, dtype: torch.dtype | None = torch.float32) -> bool:
    """Whether operators from codes take an input: now, or in a program that is recorded."""
    recorded = torch.compiler.is_compiling() or torch.compiler.is_exporting()
    if torch.jit.is_tracing() or not (recorded or type(input) is Tensor):
        return False
    if not recorded and (torch._C._functorch.maybe_get_level(input) != -1 or forward_ad._current_level >= 0):
        return False  # a transformed function
    return (
        _ordinary(input, weight, bias)
        and dtype in (None, input.dtype)
        and weight.centroids.dtype == torch.float32
        and (dtype is None or input.dim() > 0)
    )


def _tables(weight: CodedWeight) -> tuple[Tensor, int, int]:
    """Tables, rows, and how many of them share a table, as the operators take them."""
    layout = weight.layout
    return weight.centroids.view(-1, layout.centroids), layout.outputs, layout.channels or layout.outputs


def _each(value: int | Sequence[int], axes: int) -> list[int]:
    given = [value] if isinstance(value, int) else [*value]
    return given * axes if len(given) == 1 else given


def _int8_linear(input: Tensor, weight: CodedWeight, matrix: int) -> Tensor:
    values, scale, rest = weight.int8()
    if weight.layout.matrices > 1:
        values, scale, rest = values[matrix], scale[matrix], rest[matrix]
    rows = input.reshape(-1, input.shape[-1])
    product = torch.ops.aten._weight_int8pack_mm(rows.to(torch.bfloat16), values, scale).float()
    product.addcmul_(rows.float().mean(1, keepdim=True), rest)
    return product.to(input.dtype).view(*input.shape[:-1], len(values))
