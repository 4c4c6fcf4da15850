"""Save a compressed model, and load it into the original architecture."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lloydmax.codebook.codebook import Codebook
from lloydmax.codebook.layout import code_dtype
from lloydmax.errors import CheckpointError, OutputError, RecipeError
from lloydmax.format import coding, compact, tight
from lloydmax.format.document import KEY, Document, file_size
from lloydmax.format.inspection import Inspection, inspect, verify
from lloydmax.format.parts import check_state, ordinary, round_floats, settings, take_apart
from lloydmax.format.reader import File, checksum, naming
from lloydmax.format.rounding import fits
from lloydmax.format.sizes import Sizes, accountings, predicted_size
from lloydmax.network import meta
from lloydmax.network.baking import bake, computed, copied
from lloydmax.network.folding import fold_structure
from lloydmax.network.given import network
from lloydmax.network.private import bare, refuse_scripts
from lloydmax.network.rebuilding import rebuild
from lloydmax.network.snapshot import Snapshot
from lloydmax.plan.plan import plan_as_is
from lloydmax.recipe.recipe import Recipe
from lloydmax.runtime import processes
from lloydmax.runtime.files import refusal, replacing, shown
from lloydmax.runtime.modes import own_modes
from lloydmax.runtime.threads import shared_out
from lloydmax.student import int8
from lloydmax.student.attachment import attach_all, finish
from lloydmax.student.extra import set_extra_states
from lloydmax.student.held import contents, remember

if TYPE_CHECKING:
    from lloydmax.recipe.sections import Storage

__all__ = [
    "Inspection",
    "Sizes",
    "accountings",
    "contents",
    "fits",
    "inspect",
    "load",
    "predicted_size",
    "round_floats",
    "save",
    "verify",
]

_NAMED = 5
"""Differences that a message lists."""
_TEXTS = frozenset({"layers", "except", "types", "parameter", "quantizer", "importance"})
"""Fields of a recipe that name something."""
_TRUTHS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def save(
    model: nn.Module,
    path: str | os.PathLike[str],
    recipe: Mapping[str, Any] | None = None,
    storage: Storage | Mapping[str, str] | None = None,
) -> int:
    """Write a compressed model; the file appears complete or not at all.

    Of several processes that a launcher started, the first one writes.

    The same model, recipe and storage give the same bytes. Nothing is rounded: a tensor is stored in the
    narrower dtype of ``storage`` only where no bit of it is lost, see :func:`round_floats`.

    Args:
        model: in training or finished, with at least one codebook.
        path: the file to write, ``.safetensors``; replaced if it exists.
        recipe: plain JSON data that the file keeps; absent, what the model remembers.
        storage: as in a recipe, such as ``{"floats": "float16", "codes": "entropy"}``; absent, what the model
            remembers, else float32 and packed. ``entropy`` is used where it is smaller.

    Returns:
        Size of the file in bytes.

    Raises:
        CheckpointError: the model holds no codebooks, or something that no file can hold; the folder is
            missing, the disk is full. ModelError: it is not a network.
    """
    network(model)
    with naming(path), own_modes():
        if processes.writes() and (reason := refusal(path)):
            raise CheckpointError(reason)
        kept, chosen = settings(model, recipe, storage)
        check_state(model)
        parts = take_apart(model, kept, chosen)
        tensors = {name: _portable(tensor) for name, tensor in parts.plain.items() if name not in parts.steps}
        entropy: dict[str, int] = {}
        held = list(parts.codebooks.values())
        together = sum(codebook.codes.numel() for codebook in held)
        streams = shared_out(
            lambda codebook: coding.stream(codebook.codes, codebook.bits, chosen["codes"], together),
            held, lambda codebook: codebook.codes.numel(), coding.WORTH_THREADS,
        )  # fmt: skip
        for name, (stream, coded) in zip(parts.codebooks, streams, strict=True):
            if coded:
                entropy[name] = stream.size
            tensors[f"{name}.codes"] = torch.from_numpy(stream)
        entries = parts.entries(entropy)
        named = sorted(tensors) if parts.document.layout != "tight" else ()
        checksums = tuple(checksum(tensors[name]) for name in named)
        document = replace(parts.documented(entropy), crc32=checksums)
        document.check({entry.name: entry for entry in entries})
        if not processes.writes():
            return file_size(document, entries)
        if document.layout == "tight":
            return _write(path, *tight.written(document.text(entries), entries, tensors, parts.stream))
        if document.layout == "compact":
            return _write(path, *compact.written(document.text(entries), entries, tensors, checksums))
        return _write(path, tensors, document.text(entries))


def _portable(tensor: Tensor) -> Tensor:
    return tensor.to("cpu", copy=True, memory_format=torch.contiguous_format)


def _write(path: str | os.PathLike[str], tensors: dict[str, Tensor], text: str) -> int:
    try:
        with replacing(path, sum(tensor.nbytes for tensor in tensors.values()) + len(text)) as temporary:
            save_file(tensors, temporary, {KEY: text})
            return temporary.stat().st_size
    except KeyError as error:
        raise CheckpointError(f"needs a newer safetensors, which can hold {error}") from error
    except OutputError as error:
        raise CheckpointError(str(error).removeprefix(f"{shown(path)}: ")) from error


def load(path: str | os.PathLike[str], model: nn.Module, limit: int | None = None) -> nn.Module:
    """Turn the original architecture into the compressed model that a file holds.

    Everything is checked before ``model`` is touched. It is then changed in place: compressed parameters get
    their codebooks, all other parameters and persistent buffers the stored values, on the devices of ``model``. A
    model that was built within ``torch.device("meta")`` is filled on the CPU; loading it takes little more memory than
    the codes. Where loading fails or is interrupted (Ctrl-C, no memory), ``model`` is as it was.

    Args:
        path: a file that :func:`save` wrote.
        model: the uncompressed architecture, with any values or, on the meta device, none.
        limit: bytes that the file may decode to, see :attr:`Inspection.decoded`. ``None``: what ``model`` needs, with
            room for its codebooks; a file for which that is too little is either an attack or has far more centroids
            than weights.

    Returns:
        ``model``, out of its wrapper (``DataParallel``, ``torch.compile`` ...), or its replacement when it is itself a
        single ``Linear`` or the like; in evaluation mode. Its outputs are those of the saved model, bit for bit.

    Raises:
        CheckpointError: the file cannot be read or is damaged, belongs to another model, or decodes to more than the
            limit.
        ModelError: the model is not a network, or a script.
    """
    refuse_scripts(model)
    before = Snapshot(model)
    try:
        return _loaded(path, model, limit, before)
    except BaseException:
        before.restore()
        raise


def _loaded(path: str | os.PathLike[str], model: nn.Module, limit: int | None, before: Snapshot) -> nn.Module:
    with naming(path), own_modes(), File(path, limit, _needed(model)) as file:
        document, model = file.document, bare(model)
        rebuild(model)
        meta.check(model)
        structured = _structured(model, file)
        values, tied = contents(structured)
        _match(file, values, tied)
        if limit is None:
            file.check_room()
        stored = {name: document.tied.get(name, name) for name in values}
        wanted = [name for name, own in stored.items() if own in document.parameters]
        found = shared_out(
            lambda name: codebook_in(file, stored[name], _device(values[name])),
            wanted, lambda name: document.parameters[stored[name]].layout.codes, coding.WORTH_THREADS,
        )  # fmt: skip
        codebooks = dict(zip(wanted, found, strict=True))
        tensors = {name: file.tensor(own) for name, own in stored.items() if name not in codebooks}
        if document.activations is not None:
            model = copied(model)
        if document.extra:
            before.keep_extra_states()
        _structure(model.eval(), file)
        meta.give_memory(model)
        set_extra_states(model, document.extra)
        values, _ = contents(model)
        before.keep_values(values[name] for name in tensors)  # type: ignore[misc]
        with torch.no_grad():
            for name, tensor in tensors.items():
                _fill(values[name], tensor)
        if document.activations is not None:
            loaded: nn.Module = _on_int8(model, document, codebooks, values)
        else:
            attach_all(model, codebooks)
            loaded = finish(model).eval()
        remember(loaded, document.recipe, document.storage(file.entries))
        return loaded


def _fill(value: Tensor | Codebook, stored: Tensor) -> None:
    """Give a tensor its values, and memory for them where several of its elements share one place."""
    assert isinstance(value, Tensor)
    if any(size > 1 and stride == 0 for size, stride in zip(value.shape, value.stride(), strict=True)):
        value.data = torch.empty_like(value, memory_format=torch.contiguous_format)
    value.copy_(stored)


def _needed(model: nn.Module) -> int:
    """Bytes that a model takes, with some for each name."""
    return sum(tensor.nbytes + 1024 for tensor in (*model.parameters(), *model.buffers()) if not is_lazy(tensor))


def structured_as(file: File, model: nn.Module) -> nn.Module:
    """A copy of the original in the structure that a file has, its own batch norms folded where the file's are.

    Raises:
        CheckpointError: the file belongs to another model.
    """
    made = copied(bare(model)).eval()
    rebuild(made)
    _structure(made, file, values=True)
    _match(file, *contents(made))
    return made


def _structured(model: nn.Module, file: File) -> nn.Module:
    """The model in the structure that the file has, as a copy where it has another one."""
    extra = file.document.extra
    if not file.document.folded and not extra and not _baked(model, file):
        return model
    trial = copied(model, share=not extra).eval()  # a spectral norm in training mode changes what it reads
    _structure(trial, file)
    set_extra_states(trial, extra)
    return trial


def _structure(model: nn.Module, file: File, values: bool = False) -> None:
    if names := _baked(model, file):
        bake(model, names)
    if folded := list(file.document.folded.items()):
        fold_structure(model, folded, values)


def _baked(model: nn.Module, file: File) -> list[str]:
    """What the model computes from other parameters, and the file holds as it is."""
    held = {*file.document.parameters, *file.document.plain(file.entries), *file.document.tied}
    return [name for name in computed(model) if name in held]


def _on_int8(
    model: nn.Module, document: Document, codebooks: dict[str, Codebook], values: Mapping[str, Tensor | Codebook]
) -> nn.Module:
    if document.recipe is None or document.activations is None:
        raise CheckpointError("has quantized activations, but not the recipe that made them")
    with torch.no_grad():
        for name, codebook in codebooks.items():
            values[name].copy_(codebook.dequantize())  # type: ignore[union-attr]
    try:
        plan = plan_as_is(model, Recipe.load(_of_the_graph(document.recipe)))
        if set(plan.parameters) != set(codebooks):
            raise CheckpointError("its recipe does not name the parameters that it compressed")
        settings = plan.recipe.activations
        if settings is None:
            raise CheckpointError("has quantized activations, which its recipe does not ask for")
        given = (settings.bits, settings.scheme, settings.host)
        made = int8.restored(model, plan.parameters, codebooks, document.activations, *given)
        _check_int8(dict(made.held()), codebooks)
        return made
    except CheckpointError:
        raise
    except Exception as error:  # whatever torch raises where it is to quantize what cannot be
        what = "its recipe does" if isinstance(error, RecipeError) else "its quantized activations do"
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"{what} not fit this model: {reason}") from error


def _check_int8(made: Mapping[str, Tensor | Codebook], codebooks: Mapping[str, Codebook]) -> None:
    """Refuse a model on int8 kernels whose weights are others than those of the file."""
    for name, wanted in codebooks.items():
        found = made.get(name)
        if not isinstance(found, Codebook) or not (
            torch.equal(found.codes.int(), wanted.codes.int()) and torch.equal(found.centroids, wanted.centroids)
        ):
            raise CheckpointError(f"the int8 kernels of torch {torch.__version__} cannot hold {name!r} as it is")


def _of_the_graph(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What of a file's recipe its graph is made by. Recipes of 0.1 could have numbers in quotes."""
    return {key: _unquoted(recipe[key]) for key in ("quantize", "activations") if key in recipe}


def _unquoted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: item if key in _TEXTS else _unquoted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_unquoted(item) for item in value]
    if not isinstance(value, str):
        return value
    if value.strip().lower() in _TRUTHS:
        return _TRUTHS[value.strip().lower()]
    for number in (int, float):
        with suppress(ValueError):
            return number(value)
    return value


def codebook_in(file: File, name: str, device: torch.device | None = None) -> Codebook:
    """A codebook of an open file, on the CPU unless a device is named.

    Raises:
        CheckpointError: its codes or centroids are damaged.
    """
    layout = file.document.parameters[name].layout
    made = torch.empty if layout.bits else torch.zeros
    codes = made(layout.codes, dtype=code_dtype(layout.centroids))
    start = 0
    for block in file.codes(name):
        codes[start : start + block.size] = torch.from_numpy(block)
        start += block.size
    return Codebook.of(layout, file.centroids(name).to(device), codes.view(layout.code_shape).to(device))


def _device(value: Tensor | Codebook) -> torch.device:
    """Where a codebook goes that takes the place of a tensor."""
    assert isinstance(value, Tensor)
    return torch.device("cpu") if value.is_meta else value.device


def _match(file: File, values: Mapping[str, Tensor | Codebook], tied: Mapping[str, str]) -> None:
    """Compare names, shapes, dtypes and ties of the architecture with those of the file."""
    if any(isinstance(value, Codebook) for value in values.values()):
        raise CheckpointError("the model already holds codebooks; pass the original, uncompressed architecture")
    document, plain = file.document, file.document.plain(file.entries)
    known = {*document.parameters, *plain, *document.tied}
    names = {*values, *tied}
    problems = []
    if missing := sorted(names - known):
        problems.append(f"the file lacks {', '.join(_first(missing))}")
    if unexpected := sorted(known - names):
        problems.append(f"the model lacks {', '.join(_first(unexpected))}")
    differences = []
    for name in sorted(known & names):
        first = tied.get(name, name)
        value, own, other = values[first], document.tied.get(name, name), document.tied.get(first, first)
        assert isinstance(value, Tensor)
        found = ordinary(name, value, meta=True)
        parameter = document.parameters.get(own)
        shape = parameter.layout.shape if parameter else plain[own].shape
        dtype = parameter.dtype if parameter else document.floats.get(own, plain[own].torch_dtype)
        if shape != tuple(found.shape):
            differences.append(f"{name} is {shape} in the file, {tuple(found.shape)} in the model")
        elif found.dtype != getattr(torch, dtype):
            hint = f"; call model.to(torch.{dtype})" if found.is_floating_point() else ""
            differences.append(f"{name} is {dtype} in the file, {found.dtype} in the model{hint}")
        elif other in known and own != other and file.signature(own) != file.signature(other):
            differences.append(f"{name} and {first} are one in the model, but differ in the file")
    if any(name.endswith(".running_mean") for name in missing) and any(name.endswith(".bias") for name in unexpected):
        differences.append(
            "if torch.ao's FX made the file, its batch norms are folded: load it into "
            "torch.ao.quantization.quantize_fx.fuse_fx(model.eval())"
        )
    if problems or differences:
        raise CheckpointError("belongs to another model: " + "; ".join(problems + _first(differences)))


def _first(items: list[str]) -> list[str]:
    more = len(items) - _NAMED
    return items[:_NAMED] + ([f"and {more} more"] if more > 0 else [])
