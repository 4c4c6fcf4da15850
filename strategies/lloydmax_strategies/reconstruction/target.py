"""One weight whose codes are chosen anew: as a whole, some of its rows at a time, or by blocks of inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from lloydmax import Codebook, RecoveryError
from lloydmax.extend import CodebookWeight, Layout, even
from torch import Tensor

from lloydmax_strategies.reconstruction.choice import choice, errors
from lloydmax_strategies.reconstruction.feedback import Factors, output_errors, refitted, squares
from lloydmax_strategies.reconstruction.gram import Gram

Read = Callable[[], Iterator[tuple[slice, Tensor]]]
"""What the weight multiplies, once more at each call: groups, and ``(groups, n, columns)``."""
_LEAST = 1e-30
_LEVELS = 6
"""Of how often a row is looked up, told apart."""


@dataclass
class Target:
    """A weight, seen as groups of rows: an output channel is a row, and its inputs are columns.

    Attributes:
        name: of the parameter.
        holder, centroids: of its codebook.
        weight: to come close to, float32.
        order: axis and matrices that say where its outputs lie.
        free: whether the centroids are trained.
        bias: that takes the mean error, one for each output; ``None``: there is none in floats.
        groups: of rows, each with inputs of its own.
        done: whether its codes were chosen.
    """

    name: str
    holder: CodebookWeight
    centroids: Tensor
    weight: Tensor
    order: Layout
    free: bool
    bias: Tensor | None = None
    groups: int = 1
    done: bool = False

    @property
    def columns(self) -> int:
        """Weights of an output channel."""
        return self.order.weights_per_channel

    def decoded(self) -> Tensor:
        """The weight as it is now; its memory is that which the module uses."""
        return self.holder.decoded(self.centroids)

    def refittable(self) -> bool:
        """Whether its centroids may change one by one."""
        return self.free and even(self.holder.holding(self.centroids)) is None

    def reconstruct(self, gram: Gram, damping: float, refit: bool = False) -> tuple[float, float]:
        """With what all of it multiplies at hand; the error of the outputs relative to their mean square, before and
        after."""
        moments, means = self._checked(gram)
        weight, idle = self._rows(self.weight), gram.rows == 0
        power, first = self._power(weight, moments), float(errors(weight, self._book(), moments).sum())
        if self.bias is not None:
            moments = moments - means[:, :, None] * means[:, None, :]
        chosen = choice(weight, weight.flatten(0, 1), self._book(), moments, damping, self.refittable(), idle)
        self._take(chosen)
        if refit and self.refittable():
            self._refit(moments)
        self._shift(means)
        return first / power, float(errors(weight, self._book(), moments).sum()) / power

    def by_groups(self, gram: Gram, where: slice, damping: float) -> tuple[float, float]:
        """The same for some of the groups, by what these multiply."""
        moments, _ = self._checked(gram)
        weight = self._rows(self.weight)[where]
        each = self.order.outputs // self.groups
        rows = torch.arange(self.order.outputs, device=self.weight.device)[where.start * each : where.stop * each]
        return self._part(rows, weight, moments, damping, gram.rows == 0)

    def looked_up(self, gram: Gram, counts: Tensor, damping: float) -> tuple[float, float]:
        """A head that is tied to an embedding: both uses count, each relative to the mean square of what it gives.

        Args:
            gram: of what the head multiplies.
            counts: how often each row is looked up, float64 ``(rows,)``.
            damping: see :meth:`reconstruct`.
        """
        moments, means = self._checked(gram)
        weight = self._rows(self.weight)
        power, ridge = self._power(weight, moments), self._ridge(counts, moments)
        whole = [self._both(moments, ridge)]
        if self.bias is not None:
            moments = moments - means[:, :, None] * means[:, None, :]
        for rows, damped in _levels(ridge, moments):
            self._part(rows, weight[:, rows], damped, damping, gram.rows == 0)
        self._shift(means)
        whole.append(self._both(moments, ridge))
        return whole[0] / (2 * power), whole[1] / (2 * power)

    def by_columns(self, read: Read, width: int, damping: float, counts: Tensor | None = None) -> tuple[float, float]:
        """With so many columns at a time, whose moments fit into memory: each block of columns makes up for the errors
        of those before, as far as it can.

        Args:
            read: what it multiplies.
            width: of a block.
            damping: see :meth:`reconstruct`.
            counts: see :meth:`looked_up`.
        """
        weight, before = self._rows(self.weight), self._book()
        means, number, power, first = self._looked_over(read, weight - self._dense(before))
        idle, shift = number == 0, means if self.bias is not None else torch.zeros_like(means)
        error, codes = torch.zeros_like(weight), before.codes.clone()
        for start in range(0, self.columns, width):
            part = slice(start, min(start + width, self.columns))
            gram = Gram(len(weight), part.stop - part.start, weight.device)
            cross = torch.zeros((*weight.shape[:2], part.stop - part.start), device=weight.device)
            for where, x in read():
                x = x.float() - shift[where, None].float()
                gram.add(x[..., part], where)
                if start:
                    missing = x[..., :start] @ error[where, :, :start].mT
                    cross[where] += missing.mT @ x[..., part]
            moments, _ = self._checked(gram)
            cross /= gram.rows.clamp(min=1)[:, None, None].float()
            ridge = moments.new_zeros(self.order.outputs) if counts is None else self._ridge(counts, moments)
            for rows, damped in _levels(ridge, moments):
                some = torch.arange(weight.shape[1], device=rows.device) if counts is None else rows
                wanted = weight[:, some, part] + Factors(damped, damping).solved(cross[:, some])
                held = self._cut(before, rows, codes[rows, part])
                zeros = weight[:, some, part].flatten(0, 1)
                found = choice(wanted, zeros, held, damped, damping, False, idle)
                codes[rows, part] = found.codes
                error[:, some, part] = weight[:, some, part] - found.dequantize().float().view_as(wanted)
        self._take(replace(before, codes=codes))
        self._shift(means)
        _, _, _, last = self._looked_over(read, error, shift)
        return first / power, last / power

    def _part(self, rows: Tensor, weight: Tensor, moments: Tensor, damping: float, idle: Tensor) -> tuple[float, float]:
        """Some of the rows, ``(groups, rows, columns)`` with these moments."""
        held = self._book()
        some = self._cut(held, rows, held.codes[rows])
        power = self._power(weight, moments)
        found = choice(weight, weight.flatten(0, 1), some, moments, damping, False, idle)
        codes = held.codes.clone()
        codes[rows] = found.codes
        self._take(replace(held, codes=codes))
        return tuple(float(errors(weight, one, moments).sum()) / power for one in (some, found))  # type: ignore[return-value]

    def _looked_over(
        self, read: Read, error: Tensor, shift: Tensor | None = None
    ) -> tuple[Tensor, Tensor, float, float]:
        """Means ``(groups, columns)`` and rows ``(groups,)`` of what it multiplies, and the mean squares of its outputs
        and of what an error of it makes of these."""
        weight = self._rows(self.weight)
        sums = torch.zeros((len(weight), self.columns), dtype=torch.float64, device=weight.device)
        number, squares = torch.zeros_like(sums[:, 0]), torch.zeros((2, len(weight)), dtype=torch.float64)
        for where, x in read():
            x = x.float()
            sums[where] += x.sum(1, dtype=torch.float64)
            number[where] += x.shape[1]
            squares[0, where] += (x @ weight[where].mT).square().sum((1, 2), dtype=torch.float64).cpu()
            x = x if shift is None else x - shift[where, None].float()
            squares[1, where] += (x @ error[where].mT).square().sum((1, 2), dtype=torch.float64).cpu()
        mean = squares / number.clamp(min=1).cpu()
        return sums / number.clamp(min=1)[:, None], number, max(float(mean[0].sum()), _LEAST), float(mean[1].sum())

    def _checked(self, gram: Gram) -> tuple[Tensor, Tensor]:
        moments, means = gram.moments()
        if not bool(torch.isfinite(moments).all()):
            raise RecoveryError(f"reconstruct: the inputs of {self.name!r} are not finite")
        return moments, means

    def _power(self, weight: Tensor, moments: Tensor) -> float:
        return max(float(output_errors(weight, moments).sum()), _LEAST)

    def _ridge(self, counts: Tensor, moments: Tensor) -> Tensor:
        """What the errors of a row, as it is looked up, are multiplied by, in units of those of the head's outputs."""
        weight = self._rows(self.weight)
        share = counts / counts.sum().clamp(min=1)
        own = float((share * squares(weight).flatten()).sum())
        columns = slice(0, moments.shape[1])
        return share * self._power(weight[..., columns], moments) / max(own, _LEAST)

    def _both(self, moments: Tensor, ridge: Tensor) -> float:
        """Of the one group that a table of tokens is."""
        weight, moments, found = self._rows(self.weight), moments.float(), 0.0
        for rows, part in self._book().parts():
            missing = weight[:, rows] - part.dequantize().float()
            looked_up = (ridge[rows] * missing[0].square().sum(1, dtype=torch.float64)).sum()
            found += float(output_errors(missing, moments).sum() + looked_up)
        return found

    def _rows(self, tensor: Tensor) -> Tensor:
        """``(groups, rows, columns)`` of a tensor in the shape of the weight."""
        rows = self.order.channels_first(tensor).reshape(self.groups, -1, self.columns)
        return rows.float() if tensor.is_floating_point() else rows

    def _book(self) -> Codebook:
        """The codebook of the rows, ``(groups * rows, columns)``."""
        held = self.holder.holding(self.centroids)
        codes = self._rows(held.codes).flatten(0, 1).contiguous()
        layout = Layout(tuple(codes.shape), held.k, held.granularity)
        return Codebook.of(layout, held.centroids, codes, held.price, held.zeros)

    @staticmethod
    def _cut(held: Codebook, rows: Tensor, codes: Tensor) -> Codebook:
        """The codebook of some rows, with these codes."""
        centroids, granularity = held.centroids, held.granularity
        if held.granularity != "tensor" and len(rows) < held.shape[0]:
            centroids, granularity = centroids[held.layout.owners(rows.device)[rows]], "channel"
        layout = Layout(tuple(codes.shape), held.k, granularity)
        return Codebook.of(layout, centroids, codes, held.price, held.zeros)

    def _dense(self, book: Codebook) -> Tensor:
        return book.dequantize().float().view(self.groups, -1, self.columns)

    def _take(self, book: Codebook) -> None:
        """Codes and centroids of the rows become those of the weight."""
        held = self.holder.holding(self.centroids)
        codes = self.order.channels_back(book.codes)
        self.holder.recode(replace(held, centroids=book.centroids, codes=codes))
        self.centroids.copy_(book.centroids)
        self.done = True

    def _shift(self, means: Tensor) -> None:
        """Move the mean error of the outputs into the bias."""
        if self.bias is not None:
            missing = self._rows(self.weight) - self._dense(self._book())
            self.bias.add_((missing @ means.float()[:, :, None]).reshape(self.bias.shape).to(self.bias))

    def _refit(self, moments: Tensor) -> None:
        held, weight = self._book(), self._rows(self.weight)
        slots = held.layout.slots(held.codes).long()

        def decode(centroids: Tensor) -> Tensor:
            return centroids.flatten()[slots].view_as(weight)

        def gather(values: Tensor) -> Tensor:
            sums = torch.zeros(held.centroids.numel(), dtype=torch.float64, device=values.device)
            sums = sums.index_add_(0, slots, values.flatten().double()).view(held.centroids.shape)
            return sums.masked_fill(held.still(), 0).float()

        self.centroids.copy_(refitted(held.centroids.float(), weight, moments, decode, gather))


def _levels(ridge: Tensor, moments: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows that are looked up about as often, and the moments ``(groups, columns, columns)`` with their ridge."""
    share = ridge / ridge.max().clamp(min=_LEAST)
    level = torch.where(ridge > 0, share.clamp(min=_LEAST).log2() / -2, _LEVELS).round().clamp(max=_LEVELS)
    unit = torch.eye(moments.shape[1], dtype=moments.dtype, device=moments.device)
    for one in level.unique():
        rows = (level == one).nonzero()[:, 0]
        more = float(ridge[rows].mean())
        yield rows, moments + more * unit if more else moments
