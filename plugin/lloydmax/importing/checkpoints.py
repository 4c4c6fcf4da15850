"""Checkpoints of tools that keep tables and codes of linear layers: read, and put into the original architecture."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lloydmax.codebook.codebook import Codebook
from lloydmax.codebook.layout import FLOAT_DTYPES, Layout, code_dtype
from lloydmax.errors import CheckpointError
from lloydmax.format.reader import naming
from lloydmax.network import meta
from lloydmax.network.private import bare, refuse_scripts
from lloydmax.network.snapshot import Snapshot
from lloydmax.runtime.modes import own_modes
from lloydmax.runtime.text import printable
from lloydmax.student.attachment import attach_all, finish
from lloydmax.student.held import contents

Source = str | os.PathLike[str] | Mapping[str, Any]
"""A file, a folder that has one, or a state dict."""
Tables = Callable[[str, Mapping[str, Tensor]], tuple[Tensor, Tensor]]
"""The table ``(outputs, entries)`` and codes ``(outputs, inputs)`` of a layer, by its name and its tensors."""
_FILES = ("model.safetensors", "pytorch_model.bin", "*.safetensors", "*.bin", "*.pt", "*.pth")
_NAMED = 5


def filled(source: Source, model: nn.Module, parts: Collection[str], tables: Tables, tool: str) -> nn.Module:
    """The architecture with what a checkpoint holds.

    Args:
        source: of the checkpoint; files are read without running what is in them.
        model: the uncompressed architecture, changed in place; as it was where that fails.
        parts: the last parts of the names by which the tensors of a layer are known, such as ``qweight``.
        tables: reads a layer.
        tool: its name, for messages.

    Returns:
        The model, out of its wrapper, or its replacement where it is a single layer; in evaluation mode.

    Raises:
        CheckpointError: not such a checkpoint, of another model, or with values that the model's dtype cannot hold.
        ModelError: the model is not a network, or a script.
    """
    refuse_scripts(model)
    before = Snapshot(model)
    try:
        with _naming(source), own_modes(), torch.no_grad():
            return _filled(_read(source), bare(model), parts, tables, tool, before)
    except BaseException:
        before.restore()
        raise


def _naming(source: Source) -> AbstractContextManager[None]:
    return nullcontext() if isinstance(source, Mapping) else naming(source)


def _filled(
    state: dict[str, Tensor], model: nn.Module, parts: Collection[str], tables: Tables, tool: str, before: Snapshot
) -> nn.Module:
    layers: dict[str, dict[str, Tensor]] = {}
    for name in [name for name in state if name.rpartition(".")[2] in parts]:
        layer, _, part = name.rpartition(".")
        layers.setdefault(layer, {})[part] = state.pop(name)
    if not layers:
        raise CheckpointError(
            f"no layer of {tool} in it (tensors named <layer>.{next(iter(parts))}): give its checkpoint"
        )
    meta.check(model)
    values, tied = contents(model)
    own = {tied.get(f"{layer}.weight", f"{layer}.weight"): layer for layer in layers}
    _compare(set(own), values, set(state), tied)
    meta.give_memory(model)
    values, _ = contents(model)
    codebooks = {name: _codebook(name, values[name], *tables(layer, layers[layer])) for name, layer in own.items()}
    plain = {name: (values[name], state[name]) for name in state if isinstance(values.get(name), Tensor)}
    before.keep_values(value for value, _ in plain.values())  # type: ignore[misc]
    for name, (value, stored) in plain.items():
        assert isinstance(value, Tensor)
        if value.shape != stored.shape:
            raise CheckpointError(
                f"belongs to another model: {name} is {tuple(stored.shape)}, {tuple(value.shape)} in the model"
            )
        value.copy_(_exact(name, stored, value))
    attach_all(model, codebooks)
    return finish(model).eval()


def _compare(packed: set[str], values: Mapping[str, Any], plain: set[str], tied: Mapping[str, str]) -> None:
    """Refuse a checkpoint without a tensor of the model; name what the model does not have."""
    if alien := sorted(packed - set(values)):
        raise CheckpointError(f"belongs to another model, which lacks {_first(alien)}")
    known = packed | plain
    missing = [
        name for name in values if name not in known and not any(known & {a} for a, b in tied.items() if b == name)
    ]
    if missing:
        raise CheckpointError(f"belongs to another model: it lacks {_first(missing)}")
    if more := sorted(name for name in plain - set(values) - set(tied)):
        warnings.warn(f"the model has no {_first(more)}: left out", stacklevel=5)


def _codebook(name: str, weight: Any, table: Tensor, codes: Tensor) -> Codebook:
    shape = tuple(weight.shape)
    if shape != tuple(codes.shape):
        raise CheckpointError(f"belongs to another model: {name} is {tuple(codes.shape)}, {shape} in the model")
    layout = Layout(shape, table.shape[1], "channel")
    return Codebook.of(
        layout, _exact(name, table, weight).to(weight.device), codes.to(weight.device, code_dtype(layout.centroids))
    )


def _exact(name: str, stored: Tensor, value: Tensor) -> Tensor:
    """A stored tensor in the dtype of the model's."""
    cast = stored.to(value.dtype)
    if stored.is_floating_point() and not torch.equal(cast.to(stored.dtype).nan_to_num(), stored.nan_to_num()):
        kind = str(stored.dtype).removeprefix("torch.")
        raise CheckpointError(f"{name} is {kind}, and the model's dtype cannot hold it: call model.to(torch.{kind})")
    return cast


def _read(source: Source) -> dict[str, Tensor]:
    """The tensors of a checkpoint, on the CPU."""
    if isinstance(source, Mapping):
        return {name: value for name, value in source.items() if isinstance(value, Tensor)}
    path = Path(source)
    found = [path]
    if path.is_dir():
        found = next((files for pattern in _FILES if (files := sorted(path.glob(pattern)))), [])
    if not found or not found[0].is_file():
        raise CheckpointError("no checkpoint there (a .safetensors, .bin or .pt file, or its folder)")
    state: dict[str, Tensor] = {}
    for file in found:
        read = load_file(file) if file.suffix == ".safetensors" else _unpickled(file)
        state |= {str(name): value for name, value in read.items() if isinstance(value, Tensor)}
    return state


def _unpickled(file: Path) -> Mapping[Any, Any]:
    try:
        read = torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # an unpickler meets anything in a hostile file
        raise CheckpointError(f"{file.name} is not a checkpoint of tensors ({type(error).__name__})") from error
    if not isinstance(read, Mapping):
        raise CheckpointError(f"{file.name} holds a {type(read).__name__}, not a state dict")
    return read


def checked(layer: str, tensors: Mapping[str, Tensor], part: str, dtype: torch.dtype | None, dims: int) -> Tensor:
    """A tensor of a layer.

    Args:
        layer: its name.
        tensors: of the layer.
        part: which.
        dtype: that it must have; ``None``: any of floats.
        dims: number of its axes.

    Raises:
        CheckpointError: it is missing, or another.
    """
    found = tensors.get(part)
    if found is None:
        raise CheckpointError(f"lacks {layer}.{part}")
    if found.dim() != dims or (found.dtype != dtype if dtype else found.dtype not in FLOAT_DTYPES):
        raise CheckpointError(f"{layer}.{part} is {found.dtype} of shape {tuple(found.shape)}, which is not its layout")
    if not dtype and not bool(torch.isfinite(found).all()):
        raise CheckpointError(f"{layer}.{part} holds NaN or infinite values")
    return found


def _first(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(map(printable, names[:_NAMED])) + (f" and {more} more" if more > 0 else "")
