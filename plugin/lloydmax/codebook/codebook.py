"""Codebook: a few centroids and one small code per weight, in place of the weight.

The scalar quantizer is that of Lloyd (1957/1982) and Max (1960): each weight is replaced by its nearest
centroid, each centroid is the mean of its weights. A vector quantizer does the same to blocks of weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from lloydmax import native
from lloydmax.codebook.blocks import Blocks
from lloydmax.codebook.cheapest import cheapest
from lloydmax.codebook.layout import Layout
from lloydmax.errors import FitError

_CHUNK = 1 << 18
"""Weights handled at once on the CPU: 1 MiB of float32, which a second-level cache holds."""
_PLAIN = (Tensor, torch.nn.Parameter)
_CHUNK_ELSEWHERE = 1 << 24
"""Weights handled at once on other devices, where starting an operation costs more than its temporaries."""


@dataclass(frozen=True, eq=False)
class Codebook:
    """One compressed parameter.

    Attributes:
        centroids: ``(k,)`` for granularity ``tensor``, else ``(codebooks, k)``, in the dtype of the weight,
            ascending when fitted. A codebook with fewer than k distinct values repeats its last centroid. Of blocks
            ``(..., k, block)``, in no order.
        codes: index of each weight's centroid, in the shape of the weight (of each block's, ``(channels, blocks per
            channel)``); uint8 for up to 256 centroids, int16 up to 32,768, int32 beyond.
        granularity: ``"tensor"``, ``"channel"`` (each output channel), ``"group:N"`` (N output channels;
            the last group may be smaller) or ``"weights:N"`` (each N weights of an output channel; the last run may be
            shorter).
        axis: axis of the output channels: 0, or 1 for transposed convolutions and linear layers.
        block: weights of one code: so many consecutive ones of an output channel, row-major over the other axes.
        shape: of the weight; that of the codes unless ``block`` is above 1, where it must be given.
        price: of one bit of a code in squared units of the weight, with which weights are assigned, see
            :meth:`prices`; 0: to the nearest.
        zeros: whether zeros stay: centroids that are exactly 0 do not learn, weights that are 0 are assigned to one.
        matrices: that lie one after the other along the first axis, see :class:`~lloydmax.codebook.layout.Layout`.
        layout: shape, k, granularity, axis, block and matrices as one value.
        centroid_bits: what a centroid costs where bits have a price; its members bear it.

    Raises:
        FitError: blocks that do not divide the channels of the weight, or centroids or codes of another shape.
    """

    centroids: Tensor
    codes: Tensor
    granularity: str = "tensor"
    axis: int = 0
    block: int = 1
    shape: tuple[int, ...] = ()
    price: float = 0.0
    zeros: bool = False
    matrices: int = 1
    layout: Layout = field(init=False, repr=False)
    centroid_bits: ClassVar[int] = 16

    def __post_init__(self) -> None:
        if self.block == 1:
            object.__setattr__(self, "shape", tuple(self.codes.shape))
        layout = Layout(self.shape, self.k, self.granularity, self.axis, self.block, self.matrices)
        if self.block > 1 and (self.centroids.shape[-1] != self.block or tuple(self.codes.shape) != layout.code_shape):
            raise FitError(
                f"centroids {tuple(self.centroids.shape)} and codes {tuple(self.codes.shape)} do not fit blocks of "
                f"{self.block} weights of shape {self.shape}"
            )
        object.__setattr__(self, "layout", layout)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__post_init__()  # 0.1 pickled no layout

    @classmethod
    def of(cls, layout: Layout, centroids: Tensor, codes: Tensor, price: float = 0.0, zeros: bool = False) -> Codebook:
        """A codebook of this layout, whose number of centroids is told by the centroids."""
        parts = (layout.granularity, layout.axis, layout.block, layout.shape)
        return cls(centroids, codes, *parts, price, zeros, layout.matrices)

    def laid_out(self, layout: Layout) -> Codebook:
        """This codebook of the rows ``(outputs, weights per channel)`` of a weight, or of one codebook for all of it,
        as one of the weight in its own layout.

        Args:
            layout: of the weight, but for the number of centroids.
        """
        codes = self.codes if self.block > 1 or self.shape == layout.shape else layout.channels_back(self.codes)
        return Codebook.of(layout, self.centroids, codes, self.price, self.zeros)

    @property
    def k(self) -> int:
        """Number of centroids of one codebook."""
        return self.centroids.shape[-1 if self.block == 1 else -2]

    @property
    def bits(self) -> int:
        """Bits of one fixed-width code."""
        return self.layout.bits

    @property
    def bits_per_weight(self) -> float:
        """Bits of a fixed-width code for each weight that it stands for."""
        return self.layout.bits_per_weight

    def dequantize(self) -> Tensor:
        """The dense weight, in its shape and the dtype of ``centroids``."""
        return self.layout.decode(self.centroids, self.codes)

    def mse(self, weight: Tensor, importance: Tensor | None = None) -> float:
        """Mean squared error against ``weight``, summed in float64 (weighted mean if ``importance`` is given).

        Args:
            weight: in the shape of the compressed one, any floating dtype.
            importance: optional non-negative weights, same shape.

        Raises:
            FitError: the shapes differ.
        """
        error = total = 0.0
        for part, dense, values in self._against(weight):
            squared = (dense.double() - values.double()).square_()
            if importance is not None:
                mass = importance.reshape(-1)[part].double()
                squared, total = squared * mass, total + float(mass.sum())
            error += float(squared.sum())
        return error / (total if importance is not None else weight.numel())

    def snr(self, weight: Tensor) -> float:
        """Signal-to-noise ratio against ``weight`` in dB; infinite where every weight is kept exactly.

        Raises:
            FitError: the shapes differ.
        """
        signal, noise = self._squares(weight)
        return 10 * math.log10(signal / noise) if signal and noise else math.inf

    def starves(self, weight: Tensor) -> bool:
        """Whether zeros would be nearer to ``weight``.

        Raises:
            FitError: the shapes differ.
        """
        signal, noise = self._squares(weight)
        return noise > signal

    def _squares(self, weight: Tensor) -> tuple[float, float]:
        """The sums of the squares of a weight, and of its errors."""
        if tuple(weight.shape) == self.shape and self._served(weight):
            rows = self.centroids.detach().view(self.layout.codebooks, -1)
            return native.noise(weight.detach().view(-1), self.codes, rows)
        signal = noise = 0.0
        for _, dense, values in self._against(weight):
            exact = values.double()
            signal += float(torch.dot(exact, exact))
            exact.sub_(dense)
            noise += float(torch.dot(exact, exact))
        return signal, noise

    def _against(self, weight: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """The decoded and the given weight, flat, in parts that keep temporaries small."""
        if tuple(weight.shape) != self.shape:
            raise FitError(f"weight has shape {tuple(weight.shape)}, the codes stand for {self.shape}")
        dense, flat = self.dequantize().reshape(-1), weight.detach().reshape(-1)
        for start in range(0, flat.numel(), _CHUNK):
            part = slice(start, start + _CHUNK)
            yield part, dense[part], flat[part]

    def member_counts(self) -> Tensor:
        """How many weights, or blocks, each centroid stands for: int64, ``(k,)`` or ``(codebooks, k)``."""
        shape = self.centroids.shape if self.block == 1 else self.centroids.shape[:-1]
        if self._served():
            return native.members(self.codes, self.k, self.layout.codebooks).view(shape)
        parts = list(self.parts())
        if len(parts) == 1:
            return torch.bincount(self.layout.slots(self.codes), minlength=math.prod(shape)).view(shape)
        counts = torch.zeros(shape, dtype=torch.int64, device=self.codes.device)
        for rows, part in parts:
            owned = counts[self._own(rows)]
            owned += torch.bincount(part.layout.slots(part.codes), minlength=owned.numel()).view(owned.shape)
        return counts

    def _served(self, *values: Tensor) -> bool:
        """Whether the core reads codes, and values beside them, with the codebooks one after the other."""
        tensors = (self.codes, *((self.centroids, *values) if values else ()))
        return (
            native.active()
            and self.codes.dtype in native.CODES
            and self.block == 1
            and (self.layout.channels is None or (not self.axis and self.layout.outputs % self.layout.channels == 0))
            and (self.layout.runs == 1 or self.layout.weights_per_channel % (self.layout.run or 1) == 0)
            and self.matrices == 1
            and self.codes.numel() > 0
            and all(type(t) in _PLAIN and t.device.type == "cpu" and t.is_contiguous() for t in tensors)
            and all(t.dtype == torch.float32 for t in tensors[1:])
        )

    def parts(self) -> Iterator[tuple[slice, Codebook]]:
        """Codebooks of slices of the weight along its first axis, small enough that what is made of one stays in
        a cache; a slice holds whole codebooks. A weight that cannot be cut is one part."""
        step, _ = self._whole()
        if not self.shape or not step or (self.axis and self.block > 1):
            yield slice(None), self
            return
        size = _CHUNK if self.codes.device.type == "cpu" else _CHUNK_ELSEWHERE
        rows = max(1, size * self.shape[0] // math.prod(self.shape))
        rows = max(step, rows - rows % step)
        for start in range(0, self.shape[0], rows):
            part = slice(start, start + rows)
            codes = self.codes[part]
            matrices = max(1, len(codes) * self.matrices // self.shape[0]) if self.layout.channels is not None else 1
            layout = replace(self.layout, shape=(len(codes), *self.shape[1:]), matrices=matrices)
            yield part, Codebook.of(layout, self.centroids[self._own(part)], codes)

    def _whole(self) -> tuple[int, int]:
        """How many rows of the weight have codebooks that no other rows have, and how many; no rows where that cannot
        be told, no codebooks where all rows have all."""
        channels = self.layout.channels
        if self.layout.runs > 1:
            return (0, 0) if self.axis else (1, self.layout.runs)
        if channels is None or (self.axis and self.matrices == 1):
            return 1, 0
        if not self.axis:
            return channels, 1
        if self.shape[self.axis] % channels:
            return 0, 0
        return self.shape[0] // self.matrices, self.shape[self.axis] // channels

    def _own(self, rows: slice) -> slice:
        """The codebooks of a part of the rows, see :meth:`parts`."""
        step, owned = self._whole()
        if not owned or rows.stop is None:
            return slice(None)
        return slice(rows.start // step * owned, -(-rows.stop // step) * owned)

    @property
    def entropy(self) -> float:
        """Entropy of the codes, whatever their neighbours, in bits a weight."""
        share = torch.bincount(self.codes.reshape(-1).int(), minlength=self.k).double() / self.codes.numel()
        return float(torch.special.entr(share).sum()) / math.log(2) / self.block

    def reassigned(self, weight: Tensor) -> Codebook:
        """The same centroids, in any order, with every weight given to its nearest one; where bits have a price, to
        the one with the least squared error + price x bits, by the present numbers of members. Where zeros stay, those
        of the weight are given to the centroid 0.

        Args:
            weight: in the shape of the compressed one, any floating dtype, finite.
        """
        if self.block > 1:
            return self._blocks_reassigned(weight)
        order, limits = self.choices()
        cells = self.cells(weight, limits)
        plain = len(order) == 1 and bool((order[0].diff() == 1).all())
        codes = self.zeros_kept(weight, cells if plain else self.looked_up(order, cells))
        return replace(self, codes=codes.to(self.codes.dtype).contiguous())

    def still(self) -> Tensor:
        """Which centroids do not learn, being 0 where zeros stay, or of a run: bool, ``(k,)`` or ``(codebooks, k)``."""
        if self.layout.run is not None:
            return torch.ones_like(self.centroids, dtype=torch.bool)
        zero = self._zero()
        return zero if self.zeros else torch.zeros_like(zero)

    def _zero(self) -> Tensor:
        zero = self.centroids.detach() == 0
        return zero.all(-1) if self.block > 1 else zero

    def zeros_kept(self, weight: Tensor, codes: Tensor) -> Tensor:
        """These codes; where zeros stay, with that of the centroid 0 for weights, or whole blocks, that are 0.

        Args:
            weight: in the shape of the compressed one.
            codes: integers in the shape of the codes.
        """
        if not self.zeros:
            return codes
        zero = self._zero().reshape(-1, self.k)
        place = torch.where(zero.any(1), zero.int().argmax(1), -1)
        if len(place) > 1:
            place = self.layout.with_each(place)
        return torch.where(self.layout.zeros(weight) & (place >= 0), place.clamp(min=0).to(codes.dtype), codes)

    def choices(self) -> tuple[Tensor, Tensor]:
        """What :meth:`reassigned` chooses from: codes, their centroids ascending, int64 ``(codebooks, n)``, and the
        limits between them, ascending, float32 ``(codebooks, n - 1)``. Codes that their price rules out are missing."""
        table, order = self.centroids.detach().float().reshape(-1, self.k).sort()
        if self.price:
            return self._priced(table, order)
        return order, (table[:, 1:] + table[:, :-1]) / 2

    def cells(self, weight: Tensor, limits: Tensor) -> Tensor:
        """Between which limits each weight lies: int32 ``0 .. n``, in the shape of the weight.

        Args:
            weight: in the shape of the compressed one, any floating dtype, finite.
            limits: ascending, float32 ``(codebooks, n)``.
        """
        if self.layout.runs > 1:
            rows = self.layout.in_runs(weight.detach().float())
            return self.layout.from_runs(torch.searchsorted(limits.contiguous(), rows, out_int32=True))
        moved = self.layout.channels_first(weight.detach().float()) if weight.dim() else weight.detach().float()
        if self.layout.channels is not None and weight.dim():
            limits = limits[self.layout.owners(weight.device)]
        if len(limits) == 1:
            cells = torch.bucketize(moved.reshape(-1), limits[0], out_int32=True)
        else:
            cells = torch.searchsorted(limits.contiguous(), moved.reshape(len(moved), -1).contiguous(), out_int32=True)
        return self.layout.channels_back(cells)

    def looked_up(self, table: Tensor, codes: Tensor | None = None) -> Tensor:
        """An entry of a table ``(codebooks, n)`` for each weight, by its code or by other integers ``0 .. n - 1``."""
        codes = self.codes if codes is None else codes
        return self.layout.with_centroids(table.shape[-1]).decode(table, codes)

    def priced_bits(self) -> Tensor:
        """What has a price, for each code, whatever its codebook: its bits by the present numbers of members, and a
        member's share of those of the centroids; float64 ``(k,)``."""
        members = self.member_counts().view(-1, self.k)
        counts = members.sum(0).double().clamp(min=0.01)
        return self.centroid_bits * len(members) / counts - (counts / self.codes.numel()).log2()

    def prices(self) -> Tensor:
        """The price of a bit for the weights of each codebook: ``price`` is that of a codebook whose centroids have the
        mean square of all; in others it goes with theirs. Float64 ``(codebooks,)``."""
        squares = self.centroids.detach().double().reshape(-1, self.k).square().mean(1)
        if len(squares) == 1 or not bool(squares.any()):
            return torch.full_like(squares, self.price)
        return self.price * squares / squares.mean()

    def _priced(self, table: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        bits, found = self.priced_bits(), []
        for price, row, places in zip(self.prices().tolist(), table, order, strict=True):
            kept, limits = cheapest(row.double().cpu().numpy(), bits[places].cpu().numpy(), price)
            found.append((places[torch.from_numpy(kept).to(places.device)], torch.from_numpy(limits).to(row)))
        most = max(len(codes) for codes, _ in found)
        codes = [torch.cat([one, one[-1:].expand(most - len(one))]) for one, _ in found]
        ends = [torch.cat([one, one.new_full((most - 1 - len(one),), math.inf)]) for _, one in found]
        return torch.stack(codes), torch.stack(ends)

    def _blocks_reassigned(self, weight: Tensor) -> Codebook:
        groups = list(self.layout.groups(weight.detach().float()))
        tables = self.centroids.detach().float().reshape(-1, self.k, self.block).split([len(group) for group in groups])
        centre = self.layout.blocks(weight.detach().float()).mean((0, 1))
        codes = [
            Blocks(group - centre).nearest(table - centre)[0].view(-1)
            for group, table in zip(groups, tables, strict=True)
        ]
        found = self.zeros_kept(weight, torch.cat(codes).view(self.codes.shape))
        return replace(self, codes=found.to(self.codes.dtype))

    def to(self, *, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Codebook:
        """The same codebook on another device, or with centroids of another dtype."""
        return replace(
            self, centroids=self.centroids.to(device=device, dtype=dtype), codes=self.codes.to(device=device)
        )
