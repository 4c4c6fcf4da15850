"""How a compressed layer computes: from a decoded weight, from blocks of it, or from its codes.

The plain way is exact and runs everywhere; traced, exported and compiled programs always hold it. The others are for
eager inference, where a large weight at a small batch is bound by the bytes that it reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from lloydmax.codebook import FLOAT_DTYPES, channels_per_codebook, decode

if TYPE_CHECKING:
    from lloydmax.codebook import Codebook
    from lloydmax.layers import CodebookTensor

Kernel = Literal["codes", "int8"]
KERNELS: tuple[str, ...] = get_args(Kernel)

_BLOCK = 1 << 18
"""Weights of a block on the CPU: 1 MiB of float32, which stays in the second-level cache."""
_BLOCK_ELSEWHERE = 1 << 24
_LARGE = 1 << 20
"""Weights from which a decoded weight is bound by memory."""
_FEW = {"codes": 16, "int8": 32}
"""Input vectors up to which a kernel is faster than a product with the decoded weight."""


def blocks(
    centroids: Tensor, codes: Tensor, granularity: str, axis: int, kernel: str | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """The decoded weight in blocks of its first axis, so that temporaries stay small: ``(rows, weights)``."""
    size = _BLOCK if codes.device.type == "cpu" else _BLOCK_ELSEWHERE
    rows = max(1, size // max(1, codes[0].numel()))
    channels = channels_per_codebook(granularity) if axis == 0 else None
    if channels is not None and rows > channels:
        rows -= rows % channels
    start = 0
    while start < len(codes):
        stop, tables = start + rows, centroids
        if channels is not None:
            if channels > rows:
                stop = min(stop, (start // channels + 1) * channels)
            tables = centroids[start // channels : -(-stop // channels)]
        yield slice(start, stop), _decoded(tables, codes[start:stop], granularity, axis, kernel)
        start = stop


def expanded(centroids: Tensor, codes: Tensor, granularity: str, axis: int, kernel: str | None = None) -> Tensor:
    """What :func:`~lloydmax.codebook.decode` gives, bit for bit; faster for a large weight. No gradient."""
    if kernel == "codes" or codes.numel() <= _BLOCK or codes.dim() < 2:
        return _decoded(centroids, codes, granularity, axis, kernel)
    with torch.no_grad():
        weight = torch.empty(codes.shape, dtype=centroids.dtype, device=codes.device)
        for part, values in blocks(centroids, codes, granularity, axis):
            weight[part] = values
        return weight


def _decoded(centroids: Tensor, codes: Tensor, granularity: str, axis: int, kernel: str | None) -> Tensor:
    if kernel == "codes":
        from lloydmax import native

        if native.handles(centroids, codes, granularity, axis):
            return native.expand(centroids, codes, granularity)
    return decode(centroids, codes, granularity, axis)


def linear(input: Tensor, weight: CodebookTensor, bias: Tensor | None) -> Tensor:
    """``F.linear`` with a weight of codes: ``(*, in_features)`` -> ``(*, out_features)``."""
    if torch.compiler.is_compiling() or type(input) is not Tensor:
        return F.linear(input, weight(), bias)
    if _by_kernel(input, weight, bias):
        if weight.kernel == "int8":
            product = _by_int8(input, weight)
        else:
            from lloydmax import native

            product = native.multiply(input, weight.centroids, weight.codes, weight.granularity)
        return product if bias is None else product.add_(bias)
    if weight.cached or weight.codes.numel() <= _BLOCK:
        return F.linear(input, weight(), bias)
    parts = blocks(weight.centroids, weight.codes, weight.granularity, weight.axis, weight.kernel)
    return torch.cat([F.linear(input, part, None if bias is None else bias[rows]) for rows, part in parts], -1)


def embedding(input: Tensor, weight: CodebookTensor) -> Tensor:
    """Only the rows that are looked up, decoded: integers ``(*)`` -> ``(*, embedding_dim)``."""
    codes, centroids = weight.codes[input.reshape(-1)], weight.centroids
    channels = channels_per_codebook(weight.granularity)
    if channels is not None:
        centroids = centroids[input.reshape(-1) // channels]
    rows = decode(centroids, codes, "tensor" if channels is None else "channel")
    return rows.view(*input.shape, codes.shape[1])


def int8_weight(centroids: Tensor, codes: Tensor, granularity: str, axis: int) -> tuple[Tensor, Tensor]:
    """The weight through an int8 codebook: each centroid rounded to a 127th of the largest one of its codebook.

    Returns:
        int8 in the shape of ``codes``, and a bfloat16 scale for each row; a weight is off by half a scale at most.
    """
    tables = centroids.detach().float().reshape(-1, centroids.shape[-1])
    scale = (tables.abs().amax(1, keepdim=True) / 127).clamp(min=torch.finfo(torch.bfloat16).tiny).bfloat16()
    rounded = (tables / scale.float()).round().clamp(-127, 127).to(torch.int8).view(centroids.shape)
    owner = torch.arange(len(codes), device=codes.device) // (channels_per_codebook(granularity) or len(codes))
    return expanded(rounded, codes, granularity, axis), scale[:, 0][owner]


def takes(kernel: str, weight: Codebook | CodebookTensor) -> bool:
    """Whether a kernel takes this weight, in a linear layer."""
    from lloydmax import native

    centroids, codes = weight.centroids, weight.codes
    if kernel == "codes":
        return native.handles(centroids, codes, weight.granularity, weight.axis)
    scalar = centroids.dim() == (1 if weight.granularity == "tensor" else 2)
    return scalar and weight.axis == 0 and codes.device.type == "cpu" and centroids.dtype in FLOAT_DTYPES


def _by_kernel(input: Tensor, weight: CodebookTensor, bias: Tensor | None) -> bool:
    kernel, codes = weight.kernel, weight.codes
    if kernel is None or (weight.cached and codes.numel() < _LARGE):
        return False
    learns = torch.is_grad_enabled() and (input.requires_grad or (bias is not None and bias.requires_grad))
    elsewhere = torch.jit.is_tracing() or torch.is_autocast_enabled(input.device.type)
    return (
        not learns
        and not elsewhere
        and input.device.type == "cpu"
        and input.dtype == weight.centroids.dtype
        and input.dim() > 0
        and input.shape[-1] == codes.shape[-1]
        and input.numel() <= _FEW[kernel] * codes.shape[-1]
        and takes(kernel, weight)
    )


def _by_int8(input: Tensor, weight: CodebookTensor) -> Tensor:
    values, scale = weight.int8()
    rows = input.reshape(-1, input.shape[-1]).to(torch.bfloat16)
    product = torch.ops.aten._weight_int8pack_mm(rows, values, scale)
    return product.to(input.dtype).view(*input.shape[:-1], len(values))
