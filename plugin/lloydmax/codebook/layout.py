"""TODO docstring."""

from __future__ import annotations

import math
import re

import torch

from lloydmax.errors import FitError

FLOAT_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def channels_per_codebook(granularity: str) -> int | None:
    """Number of output channels that share one codebook; ``None`` when the whole tensor shares one.

    Args:
        granularity: ``"tensor"``, ``"channel"`` or ``"group:N"`` with N >= 1.

    Raises:
        FitError: any other spelling.
    """
    if granularity == "tensor":
        return None
    if granularity == "channel":
        return 1
    match = re.fullmatch(r"group:([1-9][0-9]{0,8})", granularity)
    if match is None:
        raise FitError(f"granularity is {granularity!r}; write 'tensor', 'channel' or 'group:N' with N >= 1")
    return int(match.group(1))


def codebook_count(shape: torch.Size | tuple[int, ...], granularity: str, axis: int = 0) -> int:
    """Number of codebooks that a weight of this shape gets."""
    channels = channels_per_codebook(granularity)
    return 1 if channels is None or not shape else math.ceil(shape[axis] / channels)


def code_bits(centroids: int) -> int:
    """Bits of one fixed-width code, ``ceil(log2(centroids))``; 0 for a single centroid."""
    return (centroids - 1).bit_length()


def code_dtype(centroids: int) -> torch.dtype:
    """The smallest integer dtype that holds the codes ``0 .. centroids - 1`` in memory."""
    if centroids <= 1 << 8:
        return torch.uint8
    return torch.int16 if centroids <= 1 << 15 else torch.int32
