"""Building the model that a command line names."""

from __future__ import annotations

import importlib
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lloydmax.errors import LloydmaxError
from lloydmax.hooks.registry import spelling_hint

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")


class ModelError(LloydmaxError, ValueError):
    """The model cannot be built from what the command line says."""


def build(spec: str, weights: str | Path | None, arguments: dict[str, Any], device: str = "cpu") -> nn.Module:
    """Build a model, load its weights, put it in evaluation mode.

    Args:
        spec: ``package.module:callable``; the current folder is on the import path. The callable may also be a
            module object.
        weights: ``.safetensors``, or anything that ``torch.load(weights_only=True)`` reads as a state dict,
            possibly inside ``state_dict`` and with ``module.`` prefixes. ``None``: as built.
        arguments: keyword arguments of the callable.
        device: a torch device.

    Raises:
        ModelError: no such module or callable, or weights that do not fit; says what differs.
    """
    name, _, attribute = spec.partition(":")
    if not attribute:
        raise ModelError(f"--model {spec!r}: write package.module:callable, for example torchvision.models:resnet50")
    if "" not in sys.path:
        sys.path.insert(0, "")
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
        raise ModelError(f"--model {spec!r}: calling it failed: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"--model {spec!r} gives a {type(model).__name__}, not a torch.nn.Module")
    if weights is not None:
        _load(model, Path(weights))
    try:
        return model.eval().to(device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"--device {device!r}: {str(error).splitlines()[0]}") from None


def _load(model: nn.Module, path: Path) -> None:
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ModelError(f"--weights {path}: cannot be read: {str(error).splitlines()[0]}") from None
    for wrapper in _WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"--weights {path}: holds no state dict")
    state = {str(name).removeprefix("module."): value for name, value in state.items()}
    if any(name.endswith(".codes") for name in state):
        raise ModelError(f"--weights {path}: is a compressed file; lloydmax.load() and --student read those")
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ModelError(f"--weights {path}: {error}") from None
    held = model.state_dict()
    loaded = {held[name].data_ptr() for name in state if name in held}
    missing = [name for name in missing if held[name].data_ptr() not in loaded]
    if missing or unexpected:
        raise ModelError(
            f"--weights {path} does not fit {type(model).__name__}: "
            f"{len(missing)} missing {missing[:3]}, {len(unexpected)} unexpected {unexpected[:3]}"
        )
