"""What is asked of a model that ``from_pretrained`` is to compress, and what ``config.json`` keeps of it."""

from __future__ import annotations

import copy
from typing import Any

from lloydmax.errors import IntegrationError, RecipeError
from lloydmax.hooks.options import spelling_hint
from lloydmax.integrations.transformers.folder import METHOD
from lloydmax.integrations.transformers.host import QuantizationConfigMixin, register_quantization_config
from lloydmax.runtime.arguments import number
from lloydmax.runtime.seeding import check_seed

_KEPT = ("bits", "effort", "seed")
"""What config.json keeps where it was given; the compressed file has the whole recipe."""


@register_quantization_config(METHOD)
class LloydmaxConfig(QuantizationConfigMixin):
    """For ``from_pretrained(path, quantization_config=LloydmaxConfig(bits=3, data=texts))``: compress on loading.

    Args:
        bits: size of the whole file, in bits for each parameter: the recipe is that of
            :func:`lloydmax.recipe_for`; ``None`` with ``recipe`` alone.
        data: unlabelled inputs, as :func:`lloydmax.compress` takes them, or texts; ``None``: as for ``recipe_for``.
        recipe: instead of ``bits``, anything that :meth:`lloydmax.Recipe.load` takes.
        effort: times the usual training, with ``bits``.
        tokenizer: for texts; ``None``: the one in the folder of the model.
        reference_data: as for :func:`lloydmax.compress`.
        seed: of all randomness; ``None``: the recipe's.
        progress: show progress on stderr.

    Raises:
        IntegrationError: ``bits`` and ``recipe``, neither where there is something to compress, an unknown option.
        RecipeError: ``bits``, ``effort`` or ``seed`` out of range.
    """

    def __init__(
        self,
        bits: float | None = None,
        data: Any = None,
        recipe: Any = None,
        effort: float | None = None,
        tokenizer: Any = None,
        reference_data: Any = None,
        seed: int | None = None,
        progress: bool = True,
        quant_method: str = METHOD,
        **unknown: Any,
    ) -> None:
        if unknown:
            known = ["bits", "data", "recipe", "effort", "tokenizer", "reference_data", "seed", "progress"]
            first = next(iter(unknown))
            raise IntegrationError(f"LloydmaxConfig has no option {first!r}{spelling_hint(first, known)}")
        if bits is not None and recipe is not None:
            raise IntegrationError("LloydmaxConfig takes bits or a recipe, not both: a recipe may have bits itself")
        self.quant_method: Any = quant_method
        self.bits = None if bits is None else number("bits", bits, RecipeError, above=True)
        self.effort = None if effort is None else number("effort", effort, RecipeError)
        self.seed = None if seed is None else check_seed(seed)
        self.recipe, self.data, self.reference_data = recipe, data, reference_data
        self.tokenizer, self.progress = tokenizer, progress

    def kept(self) -> LloydmaxConfig:
        """The same without inputs and tokenizer, as a compressed model has it."""
        return LloydmaxConfig(**self.asked())

    def asked(self) -> dict[str, Any]:
        """What is asked for, as plain data for config.json."""
        return {key: value for key in _KEPT if (value := getattr(self, key)) is not None}

    def to_dict(self) -> dict[str, Any]:
        """For config.json, with the method."""
        return {"quant_method": self.quant_method, **self.asked()}

    def __deepcopy__(self, memo: dict[int, Any]) -> LloydmaxConfig:
        """Inputs and tokenizer are not copied: transformers copies the configurations of models."""
        return copy.copy(self)
