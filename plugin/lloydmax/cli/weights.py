"""Reading the weights of a model: state dicts as trainers, wrappers and hubs write them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lloydmax.errors import LloydmaxError

_CONTAINERS = (
    "state_dict", "model_state_dict", "model", "net", "network", "module", "weights", "params",
    "state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "params_ema", "teacher", "student",
)  # fmt: skip
"""Under what trainers keep a state dict; where several fit, the first is taken."""
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""What wrappers put into the names of the model in them."""
_COUNTER = "n_averaged"
"""What an ``AveragedModel`` keeps beside the averages."""
_DEPTH, _NAMED = 3, 3


class ModelError(LloydmaxError, ValueError):
    """The model cannot be built from what the command line says."""


@dataclass(frozen=True)
class _Candidate:
    """A state dict of the file, under the names that the model may have.

    Attributes:
        where: in the file, for messages; empty: the file itself.
        state: by name.
        problems: what does not fit, by kind.
    """

    where: str
    state: dict[str, Any]
    problems: dict[str, list[str]]


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a file of weights into a model.

    The state dict may be in one of the containers that trainers write (``state_dict``, ``model``, ``ema`` ...), and its
    names may have the prefixes of wrappers (``module.``, ``_orig_mod.``, nested) or one that all of them share
    (``model.``): what fits exactly is taken.

    Args:
        model: its parameters and buffers are overwritten.
        path: ``.safetensors``, or anything that ``torch.load(weights_only=True)`` reads.

    Raises:
        ModelError: the file cannot be read, holds no state dict, or none that fits; then the model is as it was.
    """
    found = dict(_containers(_read(path)))
    if not found:
        raise ModelError(f"--weights {path}: holds no state dict")
    if any(name.endswith(".codes") for state in found.values() for name in state):
        raise ModelError(f"--weights {path}: is a compressed file; lloydmax.load() and --student read those")
    tried = [candidate for where, state in found.items() for candidate in _candidates(model, where, state)]
    fitting = [candidate for candidate in tried if not candidate.problems]
    if not fitting:
        nearest = min(tried, key=lambda candidate: sum(map(len, candidate.problems.values())))
        listed = ", ".join(f"{len(names)} {kind} {names[:_NAMED]}" for kind, names in nearest.problems.items())
        inside = f" ({nearest.where!r} in it)" if nearest.where else ""
        raise ModelError(f"--weights {path}{inside} does not fit {type(model).__name__}: {listed}")
    chosen = fitting[0]
    if others := sorted({candidate.where for candidate in fitting} - {chosen.where}):
        warnings.warn(
            f"--weights {path}: {chosen.where!r} and {', '.join(map(repr, others))} in it fit; {chosen.where!r} is "
            "taken: save the other one alone to use that",
            stacklevel=2,
        )
    try:
        model.load_state_dict(chosen.state, strict=False)
    except Exception as error:
        raise ModelError(f"--weights {path}: {_line(error)}") from error


def _read(path: Path) -> Any:
    try:
        if path.is_file() and not path.stat().st_size:
            raise ValueError("the file is empty")
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes a reader raise
        raise ModelError(f"--weights {path}: cannot be read: {_line(error)}") from None


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0]


def _containers(held: Any, where: str = "", depth: int = 0) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The state dicts in what a file holds, and where they are."""
    if not isinstance(held, Mapping):
        return
    if held and all(isinstance(v, Tensor) or str(name).endswith("_extra_state") for name, v in held.items()):
        yield where, {str(name): value for name, value in held.items()}
    elif depth < _DEPTH:
        for key in _CONTAINERS:
            yield from _containers(held.get(key), f"{where}.{key}" if where else key, depth + 1)


def _candidates(model: nn.Module, where: str, state: Mapping[str, Any]) -> Iterator[_Candidate]:
    """The state dict under its own names, and without what wrappers put into them and all of them share."""
    own = model.state_dict()
    bare = {_bare(name): name for name in own}
    yield _Candidate(where, dict(state), _problems(own, state))
    unwrapped = {_bare(name): value for name, value in state.items() if name != _COUNTER}
    for depth in range(len(_shared(unwrapped)) + 1):
        names = {name: ".".join(name.split(".")[depth:]) for name in unwrapped}
        renamed = {bare.get(new, new): unwrapped[name] for name, new in names.items()}
        if len(renamed) == len(unwrapped):
            yield _Candidate(where, renamed, _problems(own, renamed))


def _bare(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _shared(names: Mapping[str, Any]) -> list[str]:
    """The parts of the names, but the last one, with which all of them begin."""
    paths = [name.split(".")[:-1] for name in names]
    shared = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return shared


def _problems(own: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, list[str]]:
    """What does not fit, by kind."""
    tensors = {name: value for name, value in own.items() if isinstance(value, Tensor) and not is_lazy(value)}
    loaded = {tensors[name].data_ptr() for name in state if name in tensors}
    missing = [n for n in own if n not in state and not (n in tensors and tensors[n].data_ptr() in loaded)]
    shaped = [
        f"{name} {tuple(value.shape)}, not {tuple(tensors[name].shape)}"
        for name, value in state.items()
        if name in tensors and isinstance(value, Tensor) and value.shape != tensors[name].shape
    ]
    problems = {"missing": missing, "unexpected": [n for n in state if n not in own], "of another shape": shaped}
    return {kind: names for kind, names in problems.items() if names}
