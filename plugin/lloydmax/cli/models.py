"""Building the model that a command line names."""

from __future__ import annotations

import importlib
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from lloydmax.cli.weights import ModelError, load_weights
from lloydmax.hooks.registry import spelling_hint
from lloydmax.network.given import network
from lloydmax.runtime.dense import not_dense
from lloydmax.runtime.text import printable

__all__ = ["ModelError", "build", "source_of"]


def build(spec: str, weights: str | Path | None, arguments: dict[str, Any], device: str = "cpu") -> nn.Module:
    """Build a model, load its weights, put it in evaluation mode.

    Args:
        spec: ``package.module:callable``; the current folder is on the import path. The callable may also be a
            module object.
        weights: a file for :func:`lloydmax.cli.weights.load_weights`; ``None``: as built.
        arguments: keyword arguments of the callable.
        device: a torch device.

    Raises:
        ModelError: no such module or callable, or weights that do not fit; says what differs.
    """
    name, _, attribute = spec.partition(":")
    if not attribute:
        raise ModelError(f"--model {spec!r}: write package.module:callable, for example torchvision.models:resnet50")
    _search_here()
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise ModelError(f"--model {spec!r}: {error}") from None
    found = getattr(module, attribute, None)
    if found is None:
        raise ModelError(f"--model {spec!r}: {name} has no {attribute!r}{spelling_hint(attribute, dir(module))[:120]}")
    try:
        model = found if isinstance(found, nn.Module) else found(**arguments)
    except Exception as error:
        raise ModelError(
            f"--model {spec!r}: calling it failed: {printable(f'{type(error).__name__}: {error}', 500)}"
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"--model {spec!r} gives a {type(model).__name__}, not a torch.nn.Module")
    for name, parameter in network(model).named_parameters():
        if kind := not_dense(parameter):
            raise ModelError(f"--model {spec!r}: {name} is {kind}")
    if weights is not None:
        load_weights(model, Path(weights))
    try:
        return model.eval().to(device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"--device {device!r}: {printable(str(error).splitlines()[0])}") from None


def source_of(spec: str) -> str | None:
    """The file of the module in ``package.module:callable``; ``None`` where there is none."""
    _search_here()
    with suppress(Exception):  # what cannot be found is told by build
        found = find_spec(spec.partition(":")[0])
        return found.origin if found is not None and found.has_location else None
    return None


def _search_here() -> None:
    if "" not in sys.path:
        sys.path.insert(0, "")
