"""PEFT's own LoRA layers, beside codes: they learn as usual, and refuse to be merged."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from lloydmax.errors import IntegrationError
from lloydmax.integrations.transformers.host import Conv1D
from lloydmax.student.dense import original_type
from lloydmax.student.layers import CodebookLayer

REFUSED = (
    "an adapter cannot be merged into codes: keep it beside the compressed model, or call dequantize() of the model "
    "before the adapter is attached"
)


class BesideCodes:
    """What adapters of layers with codes have in common."""

    def merge(self, *args: Any, **kwargs: Any) -> None:
        """Refused."""
        raise IntegrationError(REFUSED)

    def unmerge(self) -> None:
        """Nothing was ever merged."""


@functools.cache
def beside_codes(kind: Any) -> Any:
    """A class of PEFT, under its own name, which it asks for, for layers with codes."""
    made = type(kind.__name__, (BesideCodes, _Parameter if kind is layers().ParamWrapper else _Layer, kind), {})
    made.__module__ = kind.__module__
    return made


def layers() -> Any:
    """PEFT's module of LoRA layers."""
    return importlib.import_module("peft.tuners.lora.layer")


class _Layer:
    """For a whole layer."""

    def _get_in_out_features(self, module: nn.Module) -> tuple[int, int]:
        if not isinstance(module, CodebookLayer):
            found: tuple[int, int] = super()._get_in_out_features(module)  # type: ignore[misc]
            return found
        inputs, outputs = module.weight.shape
        return (inputs, outputs) if issubclass(original_type(module), Conv1D) else (outputs, inputs)


class _Parameter:
    """For a parameter by its name: what is decoded, and what is learnt added to it, for as long as a batch runs."""

    def get_param(self) -> Tensor:
        """The decoded parameter."""
        chain = self._chain()
        value: Tensor = chain[0](chain.original)
        return value

    def _chain(self) -> Any:
        layer: Any = self
        return layer.get_base_layer().parametrizations[layer.parameter_name]

    @contextmanager
    def _activate_lora(self, active_adapters: Sequence[str]) -> Iterator[None]:
        layer: Any = self
        learnt = [layer.get_delta_weight(name) for name in active_adapters if name in layer.lora_A]
        chain = self._chain()
        chain.extend(map(_Plus, learnt))
        try:
            with parametrize.cached():
                yield
        finally:
            for _ in learnt:
                del chain[-1]


class _Plus(nn.Module):
    def __init__(self, learnt: Tensor) -> None:
        super().__init__()
        self._learnt = learnt

    def forward(self, value: Tensor) -> Tensor:
        return value + self._learnt
