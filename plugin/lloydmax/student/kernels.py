"""How a compressed weight computes in inference: decoded in parts, to need little memory, or in int8 or straight from
its codes, to be fast.

Traced and exported programs always hold the plain way, :func:`lloydmax.codebook.codebook.decode`; compiled ones hold an
operator for products from codes, and else the plain way, too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, Protocol, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

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
    def codes(self) -> Tensor:
        """Of its weights, in their shape."""

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
CODES_LEAST = 1 << 16
"""Weights from which a product from codes is worth a call of the core."""
CODES_NEEDS = (
    f"at least {CODES_LEAST:,} weights, a code for each, at most 256 float32 centroids, on the CPU, and the native "
    "core (lloydmax --version tells whether it is there)"
)


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
    if torch.compiler.is_exporting() or (plainly(input) and not torch.compiler.is_dynamo_compiling()):
        return F.linear(input, weight(), bias)
    if weight.kernel in ("codes", "codes-fast") and input.dtype == torch.float32 and _takes(input, weight, bias):
        vectors, layout = input.reshape(-1, input.shape[-1]), weight.layout
        shared, tables = layout.channels or layout.shape[0], weight.centroids.view(-1, weight.centroids.shape[-1])
        codes: Tensor = weight.codes
        product = native.linear_codes(vectors, codes, tables, shared, weight.kernel == "codes-fast")
        product = product.view(*input.shape[:-1], layout.shape[0])
        return product if bias is None else product + bias
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


def embedding(input: Tensor, codebook: Codebook) -> Tensor:
    """Only the rows that are looked up, decoded: integers ``(*)`` -> ``(*, embedding_dim)``."""
    index, width = input.reshape(-1), codebook.shape[1]
    codes, centroids = codebook.codes[index], codebook.centroids
    channels, granularity = codebook.layout.channels, "tensor"
    if codebook.layout.runs > 1:
        granularity = codebook.granularity
        centroids = centroids.view(codebook.shape[0], -1, codebook.k)[index].flatten(0, 1)
    elif channels is not None:
        centroids, granularity = centroids[index // channels], "channel"
    rows = replace(codebook.layout, shape=(len(index), width), granularity=granularity)
    return rows.decode(centroids, codes).view(*input.shape, width)


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
    """Whether the weight of a linear layer can be run from its codes and that is worth it; see :data:`CODES_NEEDS`."""
    return (
        native.active()
        and codebook.block == 1
        and codebook.layout.runs == 1
        and len(codebook.shape) == 2
        and (codebook.axis == 0 or codebook.granularity == "tensor")
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
    learns = torch.is_grad_enabled() and (input.requires_grad or (bias is not None and bias.requires_grad))
    return (
        not learns
        and not torch.is_autocast_enabled(input.device.type)
        and input.device.type == "cpu"
        and input.dtype == weight.centroids.dtype
        and input.dim() > 0
        and input.shape[-1] == weight.layout.weights_per_channel
        and input.numel() <= _FEW * input.shape[-1]
    )


def _int8_linear(input: Tensor, weight: CodedWeight, matrix: int) -> Tensor:
    values, scale, rest = weight.int8()
    if weight.layout.matrices > 1:
        values, scale, rest = values[matrix], scale[matrix], rest[matrix]
    rows = input.reshape(-1, input.shape[-1])
    product = torch.ops.aten._weight_int8pack_mm(rows.to(torch.bfloat16), values, scale).float()
    product.addcmul_(rows.float().mean(1, keepdim=True), rest)
    return product.to(input.dtype).view(*input.shape[:-1], len(values))
