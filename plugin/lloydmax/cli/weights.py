"""Reading the weights of a model: state dicts as trainers, wrappers and hubs write them."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lloydmax.errors import LloydmaxError
from lloydmax.runtime.files import shown
from lloydmax.runtime.text import printable

_CONTAINERS = (
    "state_dict", "model_state_dict", "model", "net", "network", "module", "weights", "params",
    "state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "params_ema", "teacher", "student",
)  # fmt: skip
"""Under what trainers keep a state dict; where several fit, the first is taken."""
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""What wrappers put into the names of the model in them."""
_COUNTER = "n_averaged"
"""What an ``AveragedModel`` keeps beside the averages."""
_BATCHES = "num_batches_tracked"
"""What batch norms have counted since PyTorch 0.4.1; files that are older do not have it."""
_INDEX = ".index.json"
"""Ending of a file that says in which other files the weights are."""
_OBJECT = re.compile(r"(?:Unsupported global: GLOBAL|Unsupported class|unsupported GLOBAL) (\S+)")
"""What torch says of the first object that is not a tensor."""
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
        others: entries beside the model's, which are left out.
    """

    where: str
    state: dict[str, Any]
    problems: dict[str, list[str]]
    others: tuple[str, ...] = ()


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a file of weights into a model.

    The state dict may be in one of the containers that trainers write (``state_dict``, ``model``, ``ema`` ...), and its
    names may have the prefixes of wrappers (``module.``, ``_orig_mod.``, nested) or one that all of them share
    (``model.``): what fits exactly is taken. Where the entries under one prefix fit, those beside it (of metrics and
    losses, for example) are left out with a warning. Tied parameters need one name, and counters of batches none.

    Args:
        model: its parameters and buffers are overwritten.
        path: ``.safetensors``, the ``.index.json`` of weights in several files, or anything that
            ``torch.load(weights_only=True)`` reads.

    Raises:
        ModelError: the file cannot be read, holds no state dict, or none that fits; then the model is as it was.
    """
    found = dict(_containers(_read(path)))
    if not found:
        raise ModelError(f"--weights {path}: holds no state dict")
    if any(name.endswith(".codes") for state in found.values() for name in state):
        raise ModelError(f"--weights {path}: is a compressed file; lloydmax.load() and --student read those")
    tried = [candidate for where, state in found.items() for candidate in _candidates(model, where, state)]
    fitting = sorted((candidate for candidate in tried if not candidate.problems), key=lambda one: bool(one.others))
    if not fitting:
        nearest = min(tried, key=lambda candidate: sum(map(len, candidate.problems.values())))
        listed = ", ".join(f"{len(names)} {kind} {names[:_NAMED]}" for kind, names in nearest.problems.items())
        inside = f" ({nearest.where!r} in it)" if nearest.where else ""
        raise ModelError(f"--weights {path}{inside} does not fit {type(model).__name__}: {listed}")
    chosen = fitting[0]
    places = list(dict.fromkeys(candidate.where for candidate in fitting))
    if chosen.others and len(places) > 1:
        raise ModelError(
            f"--weights {path}: {' and '.join(map(repr, places))} in it fit {type(model).__name__}: save the one that "
            "is meant alone"
        )
    if chosen.others:
        more = len(chosen.others) - _NAMED
        warnings.warn(
            f"--weights {path}: {chosen.where!r} in it is taken; left out: {', '.join(chosen.others[:_NAMED])}"
            f"{f' and {more} more' if more > 0 else ''}",
            stacklevel=2,
        )
    if others := sorted({candidate.where for candidate in fitting} - {chosen.where}):
        warnings.warn(
            f"--weights {path}: {chosen.where!r} and {', '.join(map(repr, others))} in it fit; {chosen.where!r} is "
            "taken: save the other one alone to use that",
            stacklevel=2,
        )
    before = {name: held.clone() for name, held in _tensors(model.state_dict(keep_vars=True)).items()}
    try:
        model.load_state_dict(chosen.state, strict=False)
    except Exception as error:  # whatever hooks and extra states of the model raise
        with torch.no_grad():
            for name, held in _tensors(model.state_dict(keep_vars=True)).items():
                held.copy_(before[name])
        raise ModelError(f"--weights {path}: {_line(error)}") from error


def _read(path: Path) -> Any:
    try:
        if path.exists() and not path.is_file():  # to open a pipe would wait for ever
            raise ValueError("it is a directory" if path.is_dir() else "it is not an ordinary file")
        if not path.exists():
            raise ValueError("there is no such file")
        if not path.stat().st_size:
            raise ValueError("the file is empty")
        if path.name.endswith(_INDEX):
            return _sharded(path)
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        if (held := _OBJECT.search(str(error))) is None:
            raise ModelError(f"--weights {shown(path)}: cannot be read: {printable(_line(error), 300)}") from None
        raise ModelError(
            f"--weights {shown(path)}: cannot be read: it holds a whole model or other objects "
            f"({printable(held[1], 100)}), which may run code when they are opened: write its weights alone, with "
            "torch.save(model.state_dict(), path)"
        ) from None
    except Exception as error:  # whatever a damaged file makes a reader raise
        raise ModelError(f"--weights {shown(path)}: cannot be read: {printable(_line(error), 300)}") from None


def _sharded(path: Path) -> dict[str, Any]:
    """The state dict in the files that an index names, which lie beside it."""
    names = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
    if outside := [name for name in names if Path(name).name != name or name.endswith(_INDEX)]:
        raise ValueError(f"it names {outside[0]!r}, which is not a file beside it")
    return {name: value for shard in names for name, value in _read(path.parent / shard).items()}


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first, *rest = lines or [type(error).__name__]
    return f"{first} {rest[0]}" if first.endswith(":") and rest else first


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
    """The state dict under its own names, without what wrappers put into them and all of them share, and what of it is
    under one prefix."""
    own = model.state_dict(keep_vars=True)
    bare = {_bare(name): name for name in own}
    yield _Candidate(where, dict(state), _problems(own, state))
    unwrapped = {_bare(name): value for name, value in state.items() if name.rpartition(".")[2] != _COUNTER}
    if len(unwrapped) < sum(name.rpartition(".")[2] != _COUNTER for name in state):
        return
    for depth in range(len(_shared(unwrapped)) + 1):
        names = {name: ".".join(name.split(".")[depth:]) for name in unwrapped}
        renamed = {bare.get(new, new): unwrapped[name] for name, new in names.items()}
        if len(renamed) == len(unwrapped):
            yield _Candidate(where, renamed, _problems(own, renamed))
    for prefix in _prefixes(own, unwrapped):
        inside = {name.removeprefix(prefix): value for name, value in unwrapped.items() if name.startswith(prefix)}
        if others := tuple(name for name in unwrapped if not name.startswith(prefix)):
            renamed = {bare.get(name, name): value for name, value in inside.items()}
            if "missing" not in (problems := _problems(own, renamed)):
                yield _Candidate(f"{where}.{prefix}".strip("."), renamed, problems, others)


def _prefixes(own: Mapping[str, Any], state: Mapping[str, Any]) -> list[str]:
    """Those under which the first tensor of the model is found, by any of its names."""
    tied = next((names for names in _tied(own).values() if not names[0].endswith(_BATCHES)), [])
    ends = tuple(f".{_bare(name)}" for name in tied)
    return list(dict.fromkeys(n.removesuffix(end) + "." for n in state for end in ends if n.endswith(end)))


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
    tensors, tied = _tensors(own), _tied(own)
    loaded = {name for names in tied.values() if any(name in state for name in names) for name in names}
    problems: dict[str, list[str]] = {
        "missing": [n for n in own if n not in state and n not in loaded and not n.endswith(_BATCHES)],
        "unexpected": [n for n in state if n not in own],
    }
    for name, value in state.items():
        if name in tensors and (problem := _problem(tensors[name], value)) is not None:
            kind, said = problem
            problems.setdefault(kind, []).append(f"{name} {said}".rstrip())
    if not any(problems.values()):
        for names in tied.values():
            given = [name for name in names if name in state]
            if wrong := [name for name in given[1:] if not _same(tensors[name], state[given[0]], state[name])]:
                problems.setdefault("unlike what they are tied to", []).append(f"{wrong[0]}, unlike {given[0]}")
    return {kind: names for kind, names in problems.items() if names}


def _problem(own: Tensor, given: Any) -> tuple[str, str] | None:
    """Why a tensor of the model cannot take a value: the kind, and in words."""
    if not isinstance(given, Tensor):
        return "not a tensor", ""
    if given.is_nested or given.layout != own.layout:
        return "of another layout", f"({'nested' if given.is_nested else str(given.layout).removeprefix('torch.')})"
    if given.shape != own.shape:
        return "of another shape", f"{tuple(given.shape)}, not {tuple(own.shape)}"
    if given.is_meta:
        return "without values (on the meta device)", ""
    if not _holds(own.dtype, given):
        return "of another dtype", f"{given.dtype}, not {own.dtype}".replace("torch.", "")
    return None


def _holds(dtype: torch.dtype, given: Tensor) -> bool:
    """Whether a tensor of this dtype can hold what is given, but for rounding: floats for complex numbers, bools and
    whole numbers for integers."""
    if given.is_quantized:
        return False
    if dtype.is_complex:
        return given.is_complex() or given.is_floating_point()
    if dtype.is_floating_point:
        return given.is_floating_point()
    if dtype == torch.bool or given.is_complex():
        return given.dtype == dtype
    return torch.equal(given.to(dtype).to(given.dtype), given)


def _same(own: Tensor, first: Tensor, second: Tensor) -> bool:
    """Whether two values are the same in the dtype of the tensor that takes them."""
    if own.layout != torch.strided:
        return True
    one, other = first.to(own.dtype), second.to(own.dtype)
    return bool(((one == other) | ((one != one) & (other != other))).all())


def _tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a model's own state that have a shape."""
    return {name: held for name, held in state.items() if isinstance(held, Tensor) and not is_lazy(held)}


def _tied(own: Mapping[str, Any]) -> dict[object, list[str]]:
    """The names of each tensor of a model's own state; several where it is tied, or where two are the same memory."""
    found: dict[object, list[str]] = {}
    for name, held in _tensors(own).items():
        plain = held.layout == torch.strided and held.numel() > 0 and not held.is_meta
        place = (held.data_ptr(), held.shape, held.stride()) if plain else id(held)
        found.setdefault(place, []).append(name)
    return found
