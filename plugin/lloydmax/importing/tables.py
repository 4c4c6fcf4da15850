"""A lookup table of another tool, and the weight that is made of it, as a codebook with the same values."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from lloydmax.codebook.codebook import Codebook
from lloydmax.codebook.layout import Layout, code_dtype
from lloydmax.errors import IntegrationError


def codebook_of(
    name: str,
    weight: Tensor,
    table: Tensor,
    *,
    scale: Tensor | None = None,
    codes: Tensor | None = None,
    along: int | None = None,
    pruned: bool = False,
) -> Codebook:
    """The codebook of a weight that was made of a table; its values are those of the weight, bit for bit.

    Nothing is clustered. Where a tool rounded its table after it had written it down, the values of the weight count.

    Args:
        name: of the parameter, for messages.
        weight: the dense weight, any floating dtype.
        table: ``(g_0, ..., g_n, entries, length)``: the axes of the weight, each cut into so many parts, which have
            tables of their own; then the entries, each of ``length`` weights.
        scale: that entries are multiplied by, to be broadcast against the weight; ``None``: 1.
        codes: of the entries, integers in the shape of the weight; ``None``: they are found, each the nearest.
        along: the axis of the weight along which the weights of an entry lie, where there are several.
        pruned: whether weights that are 0 need not be in the table.

    Raises:
        IntegrationError: tables along several axes, or a weight that is not made of its table.
    """
    if table.dim() != weight.dim() + 2:
        raise IntegrationError(
            f"{name}: its table has shape {tuple(table.shape)}, which is no layout that is known for a weight of shape "
            f"{tuple(weight.shape)}: compress the original by lloydmax.compress"
        )
    axis, groups = _grouping(name, weight, table, scale)
    entries, length = table.shape[-2:]
    rows = table.to(weight.device, weight.dtype).reshape(groups, entries, length)
    granularity = "tensor" if groups == 1 else _spelled(weight.shape[axis] // groups)
    beside = _beside(weight, axis, groups, length, along) if length > 1 else axis
    if beside is None:
        warnings.warn(
            f"{name}: its table has entries of {length} weights along axis {along}, which no layout of blocks has: it "
            f"becomes {entries * length} single values a codebook, and its codes take more bits",
            stacklevel=3,
        )
        rows, length, codes = rows.reshape(groups, -1, 1), 1, None
    axis = axis if beside is None else beside
    if scale is not None and scale.numel() > 1:
        granularity = "channel"
        each = scale.to(weight.device, weight.dtype).reshape(-1, 1, 1)
        rows = rows.repeat_interleave(weight.shape[axis] // groups, 0) * each
    elif scale is not None:
        rows = rows * scale.to(weight.device, weight.dtype).reshape(())
    if pruned and length == 1 and bool((weight == 0).any()) and not bool((rows == 0).any(1).all()):
        rows = torch.cat([rows, rows.new_zeros(len(rows), 1, length)], 1)
    return _made(
        name, weight, rows, Layout(tuple(weight.shape), rows.shape[1], granularity, axis, length), codes, pruned
    )


def _made(name: str, weight: Tensor, rows: Tensor, layout: Layout, codes: Tensor | None, pruned: bool) -> Codebook:
    """The codebook of this layout; ``rows`` are ``(codebooks, entries, block)``."""
    weight = weight.detach()
    if codes is None:
        none = torch.zeros(layout.code_shape, dtype=code_dtype(layout.centroids), device=weight.device)
        found = Codebook.of(layout, rows.reshape(layout.centroids_shape), none, zeros=pruned).reassigned(weight)
        codes = found.codes
    codes = codes.to(weight.device, code_dtype(layout.centroids)).reshape(layout.code_shape).contiguous()
    held = rows.reshape(-1, layout.block).clone()
    held[layout.slots(codes).long()] = (
        layout.blocks(weight).reshape(-1, layout.block) if layout.block > 1 else weight.reshape(-1, 1)
    )
    codebook = Codebook.of(layout, held.reshape(layout.centroids_shape), codes, zeros=pruned)
    if not torch.equal(codebook.dequantize(), weight):
        raise IntegrationError(
            f"{name}: its weights are not the entries of its table, as after training or another compression: give "
            "the model as the tool finished it, or compress it by lloydmax.compress"
        )
    return codebook


def _grouping(name: str, weight: Tensor, table: Tensor, scale: Tensor | None) -> tuple[int, int]:
    """The axis along which tables change, and how many there are."""
    parts = {axis: size for axis, size in enumerate(table.shape[:-2]) if size > 1}
    axes = set(parts)
    if scale is not None and scale.numel() > 1:
        if scale.dim() != weight.dim():
            raise IntegrationError(
                f"{name}: scales of shape {tuple(scale.shape)} for a weight of {tuple(weight.shape)}"
            )
        axes |= {axis for axis, size in enumerate(scale.shape) if size > 1}
    if len(axes) > 1 or any(weight.shape[axis] % size for axis, size in parts.items()):
        scaled = "" if scale is None else f" and scales of shape {tuple(scale.shape)}"
        raise IntegrationError(
            f"{name}: tables of shape {tuple(table.shape)}{scaled} for a weight of {tuple(weight.shape)}: a codebook "
            "is shared by channels of one axis; compress the original by lloydmax.compress with a granularity"
        )
    axis = next(iter(axes), 0)
    if scale is not None and scale.numel() not in (1, weight.shape[axis]):
        raise IntegrationError(f"{name}: {scale.numel()} scales for {weight.shape[axis]} channels")
    return axis, parts.get(axis, 1)


def _beside(weight: Tensor, axis: int, groups: int, length: int, along: int | None) -> int | None:
    """The axis of the channels, such that blocks lie along another one; ``None``: there is none such."""
    if along is None or weight.shape[along] % length:
        return None
    for channels in [axis] if groups > 1 else range(weight.dim()):
        others = [one for one, size in enumerate(weight.shape) if one != channels and size > 1]
        if others and others[-1] == along:
            return channels
    return None


def _spelled(channels: int) -> str:
    return "channel" if channels == 1 else f"group:{channels}"
