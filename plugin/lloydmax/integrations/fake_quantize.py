"""The fake quantizer of weights that every host gets: it fits its codebook to the first weight that it sees."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lloydmax.codebook.codebook import Codebook
from lloydmax.fitting.codebook import fit_codebook
from lloydmax.student.fake_quantize import CodebookWeightFakeQuantize


class FittedWeightFakeQuantize(CodebookWeightFakeQuantize):
    """Mixin for a host's ``FakeQuantizeBase``; see the base class for the behaviour.

    Args:
        args: of the base class.
        quantizer: any registered quantizer.
        options: further options of the quantizer.
        kwargs: of the base class.

    Raises:
        FitError: fewer than one centroid, or another granularity.
    """

    def __init__(
        self, *args: Any, quantizer: str = "kmeans", options: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.quantizer, self.options = quantizer, dict(options or {})

    def fitted(self, weight: Tensor) -> Codebook:
        """The codebook of a weight.

        Raises:
            FitError: NaN or infinite weights, or options that the quantizer refuses.
        """
        return fit_codebook(weight, self.k, self.granularity, quantizer=self.quantizer, axis=self.axis, **self.options)
