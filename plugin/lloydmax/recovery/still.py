"""What training leaves as it is in parameters without a codebook: zeros of pruned ones, and rows for padding."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lloydmax.codebook.zeros import MANY_ZEROS
from lloydmax.network.parameters import owners, padding_rows
from lloydmax.runtime.dense import not_dense
from lloydmax.student.fake_quantize import CodebookWeightFakeQuantize


class Still:
    """Values that stay whatever an optimizer does.

    A codebook sees to its own zeros. Elsewhere a matrix, or what has more axes, keeps its zeros where at least 20 % of
    it are 0, unless all of it is, and an embedding its row of ``padding_idx``.

    Args:
        student: as it is before the first step.
        trained: the parameters that learn.
    """

    def __init__(self, student: nn.Module, trained: Iterable[Tensor]) -> None:
        self._zeros: list[tuple[Tensor, Tensor]] = []
        self._rows: list[tuple[Tensor, int, Tensor]] = []
        owned = owners(student)
        for parameter in trained:
            places, value = owned.get(id(parameter), []), parameter.detach()
            if not places or not_dense(value) or any(isinstance(module, _OF_CODEBOOKS) for _, module, _ in places):
                continue
            zeros = value == 0
            if value.dim() > 1 and MANY_ZEROS * value.numel() <= int(zeros.count_nonzero()) < value.numel():
                self._zeros.append((value, zeros))
            self._rows += [(value, row, value[row].clone()) for row in padding_rows(places).values()]

    @torch.no_grad()
    def restore(self) -> None:
        """Put back what a step has changed."""
        for value, zeros in self._zeros:
            value.masked_fill_(zeros, 0)
        for value, row, kept in self._rows:
            value[row] = kept


_OF_CODEBOOKS = (parametrize.ParametrizationList, CodebookWeightFakeQuantize)
