"""What a file keeps of a model: its parts, described and named, in the dtypes of the file."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lloydmax.codebook import integers
from lloydmax.codebook.codebook import Codebook
from lloydmax.codebook.grid import even
from lloydmax.errors import CheckpointError
from lloydmax.format.document import STORAGE, Document
from lloydmax.format.record import ParameterRecord
from lloydmax.format.rounding import exact, fineness, in_steps, narrows, rows_of, takes_int8, target
from lloydmax.format.steps import FINE, Steps, encode, shared
from lloydmax.format.tensor_table import DTYPES, Entry, constant, file_order
from lloydmax.network.folding import folded
from lloydmax.network.merging import merge_norms
from lloydmax.runtime.code import VERSION
from lloydmax.runtime.dense import not_dense
from lloydmax.student.extra import extra_states
from lloydmax.student.held import contents, held, own_tensors
from lloydmax.student.int8.model import Int8Model
from lloydmax.student.layers import CodesHolder

if TYPE_CHECKING:
    from lloydmax.recipe.sections import Storage


_RESERVED = "__metadata__"


def storage_options(storage: Storage | Mapping[str, str] | None) -> dict[str, str]:
    """Storage options as plain data, with the defaults filled in.

    Raises:
        CheckpointError: an unknown option or value.
    """
    given = storage if isinstance(storage, Mapping) else {} if storage is None else storage.model_dump()
    chosen = {key: values[0] for key, values in STORAGE.items()} | dict(given)
    for key, value in chosen.items():
        if value not in STORAGE.get(key, ()):
            allowed = f"{key} is one of {', '.join(STORAGE[key])}" if key in STORAGE else f"there is no {key!r}"
            raise CheckpointError(f"storage {chosen}: {allowed}")
    return chosen


def settings(
    model: nn.Module, recipe: Mapping[str, Any] | None, storage: Storage | Mapping[str, str] | None
) -> tuple[dict[str, Any] | None, dict[str, str]]:
    """Recipe and storage options: those given, else what the model remembers."""
    remembered: Mapping[str, Any] = getattr(model, "_lloydmax", None) or {}
    kept = remembered.get("recipe") if recipe is None else dict(recipe)
    return kept, storage_options(remembered.get("storage") if storage is None else storage)


@torch.no_grad()
def round_floats(model: nn.Module, storage: Storage | Mapping[str, str] | None = None) -> None:
    """Bring the values of a model, in place, to those that a file with this storage holds.

    Batch norms are merged and codebooks made of integers where ``storage`` says so, and float32 values rounded.
    Afterwards :func:`~lloydmax.save` uses the narrower form wherever it fits, and still loses nothing.

    Args:
        model: with or without codebooks; dtypes stay as they are.
        storage: absent, what the model remembers.

    Raises:
        CheckpointError: unknown storage options.
    """
    _, chosen = settings(model, None, storage)
    if chosen["norms"] == "merged":
        merge_norms(model)
    levels = model.levels if isinstance(model, Int8Model) else {}  # evenly spaced, and so they have to stay
    stepped = chosen["floats"] == "fixed"
    fine = fineness(value for _, value in held(model)) if stepped else FINE
    for name, value in held(model):
        if name not in levels:
            round_value(value, chosen, fine)
    for module in model.modules():
        if isinstance(module, CodesHolder):
            module.set_cache(module.cached)


def round_value(value: Tensor | Codebook, storage: Mapping[str, str], fine: int = FINE) -> None:
    """Bring a tensor, or the centroids of a codebook, in place to the values that a file with this storage holds;
    ``fine`` as for :func:`lloydmax.format.steps.rounded`."""
    tensor, dtype = target(value, storage)
    if isinstance(value, Codebook) and takes_int8(value, storage):
        tensor.copy_(integers.rounded(rows_of(value)).view(tensor.shape))
    elif (stepped := in_steps(value, storage, fine)) is not None:
        tensor.copy_(stepped)
    elif tensor.dtype != dtype and narrows(tensor, dtype):
        tensor.copy_(tensor.to(dtype))


@dataclass(frozen=True)
class Parts:
    """A compressed model as a file will hold it.

    Attributes:
        document: the metadata, checksums missing, all codes packed.
        plain: all tensors but the codes, under their names and in their dtypes in the file (not copied).
        codebooks: the compressed parameters by name.
        coding: of the codes, where that is smaller.
        steps: those of the plain tensors that are in steps.
    """

    document: Document
    plain: dict[str, Tensor]
    codebooks: dict[str, Codebook]
    coding: str
    steps: dict[str, Steps]

    @cached_property
    def stream(self) -> bytes:
        """Of the tensors in steps."""
        order = [entry.name for entry in file_order(Entry.of(name, self.plain[name]) for name in self.steps)]
        return encode(self.steps[name] for name in order) if order else b""

    def entries(self, entropy: Mapping[str, int] | None = None) -> list[Entry]:
        """The table of tensors; ``entropy`` has the lengths of entropy-coded streams, the others are packed."""
        lengths = entropy or {}
        streams = [
            Entry(f"{name}.codes", "U8", (lengths.get(name, parameter.packed_bytes),))
            for name, parameter in self.document.parameters.items()
        ]
        plain = [Entry.of(name, tensor) for name, tensor in self.plain.items() if name not in self.steps]
        coded = file_order(Entry.of(name, self.plain[name]) for name in self.steps)
        return [*plain, *shared(coded, len(self.stream)), *streams, *self.document.constants.values()]

    def documented(self, entropy: Collection[str]) -> Document:
        """The document when the codes of these parameters are entropy coded."""
        parameters = {
            name: replace(parameter, coding=self.coding) if name in entropy else parameter
            for name, parameter in self.document.parameters.items()
        }
        return replace(self.document, parameters=parameters)


def take_apart(model: nn.Module, recipe: dict[str, Any] | None, storage: Mapping[str, str]) -> Parts:
    """Describe a compressed model as a file.

    Raises:
        CheckpointError: the model holds no codebooks, a broken one, or a tensor that no file can hold.
    """
    values, tied = contents(model)
    document = new_document({}, tied, recipe, model, storage)
    parts = Parts(document, {}, {}, storage["codes"], {})
    for name, value in values.items():
        if (kept := entered(document, name, value, storage)) is None:
            continue
        own = name
        if isinstance(value, Codebook):
            parts.codebooks[name], own = value, f"{name}.codebook"
        parts.plain[own], found = kept
        if found is not None:
            parts.steps[own] = found
    if not parts.codebooks:
        raise CheckpointError("the model holds no codebooks; compress it first")
    return parts


def entered(
    document: Document, name: str, value: Tensor | Codebook, storage: Mapping[str, str]
) -> tuple[Tensor, Steps | None] | None:
    """Enter one value of a model into the document.

    Returns:
        The tensor as the file holds it, of a codebook its centroids, and these in steps, if that is how; ``None``: the
        document holds it.

    Raises:
        CheckpointError: no file can hold it, or it is a broken codebook.
    """
    tensor, dtype = target(value, storage)
    whole = ordinary(name, tensor)
    stepped = storage["floats"] == "fixed" and storage["layout"] == "tight"
    if isinstance(value, Codebook):
        record, stored = _codebook(name, value, exact(whole, dtype), storage)
        document.parameters[name] = record
        found = Steps.of(whole, record.columns) if stepped and record.steps else None
        return stored if found is None else whole.float(), found
    if fills(storage) and (entry := constant(name, whole)) is not None:
        document.constants[name] = entry
        return None
    if stepped and (found := Steps.of(whole)) is not None:
        return whole, found
    stored = exact(whole, dtype)
    if stored.dtype != tensor.dtype:
        document.floats[name] = "float32"
    return stored, None


def fills(storage: Mapping[str, str]) -> bool:
    """Whether a file with this storage leaves out the elements of constant tensors."""
    return storage["layout"] != "named" or storage["norms"] == "merged"


def _codebook(
    name: str, codebook: Codebook, centroids: Tensor, storage: Mapping[str, str]
) -> tuple[ParameterRecord, Tensor]:
    """What the file says of a compressed parameter, and its centroids as the file holds them."""
    described = _described(name, codebook)
    if (rows := even(codebook)) is not None:
        rows = rows.view(described.codebook_shape)
        return described, exact(rows, torch.float16) if described.takes_float16 else rows
    if takes_int8(codebook, storage) and (stored := integers.to_bytes(rows_of(codebook))) is not None:
        return replace(described, int8=True), stored
    return described, centroids


def new_document(
    parameters: dict[str, ParameterRecord],
    tied: dict[str, str],
    recipe: dict[str, Any] | None,
    model: nn.Module,
    storage: Mapping[str, str],
) -> Document:
    """A document with the versions of this installation and the structure of the model."""
    return Document(
        parameters,
        tied=tied,
        recipe=recipe,
        folded=dict(model.folded if isinstance(model, Int8Model) else folded(model)),
        activations=model.activations if isinstance(model, Int8Model) else None,
        layout=storage["layout"],
        extra={} if isinstance(model, Int8Model) else extra_states(model),
        lloydmax=VERSION,
        torch=torch.__version__,
    )


def ordinary(name: str, tensor: Tensor, meta: bool = False) -> Tensor:
    """The detached tensor, which may be on the meta device if ``meta``.

    Raises:
        CheckpointError: it is lazy, sparse, quantized, on the meta device, of another class, or of a dtype
            that safetensors does not have.
    """
    if is_lazy(tensor):
        raise CheckpointError(f"{name!r} is lazy; run the model once first")
    plain = tensor.detach()
    if plain.is_meta and not meta:
        raise CheckpointError(f"{name!r} is on the meta device; call model.to_empty(device=...) first")
    if type(plain) is not Tensor or not_dense(plain):
        kind = not_dense(plain) or f"a {type(plain).__name__} of another toolkit"
        raise CheckpointError(
            f"{name!r} is not an ordinary tensor, but {kind}; it cannot stand in this file: keep the model by "
            "torch.save(model.state_dict(), path)"
        )
    if plain.dtype not in DTYPES:
        raise CheckpointError(f"{name!r} is {plain.dtype}, which safetensors cannot hold")
    return plain


def check_state(model: nn.Module) -> None:
    """Refuse a model whose state dict has more than parameters, buffers and extra state of plain data.

    Raises:
        CheckpointError: a module keeps packed weights, or extra state that is not plain JSON data.
    """
    if isinstance(model, Int8Model):
        return
    for name, module in model.named_modules():
        state: dict[str, Any] = {}
        module._save_to_state_dict(state, "", True)
        known = {*own_tensors(module), "_extra_state", *(["codes"] if isinstance(module, CodesHolder) else [])}
        if not name and _RESERVED in state:
            raise CheckpointError(f"{_RESERVED!r} is a name that safetensors keeps for itself: rename the tensor")
        if extra := [key for key in state if key not in known and state[key] is not None]:
            raise CheckpointError(
                f"module {name!r} ({type(module).__name__}) keeps {extra[0]!r}, which is neither a parameter nor "
                "a buffer (int8 layers of torch.ao keep packed weights); keep the model by "
                "torch.save(model.state_dict(), path)"
            )
    extra_states(model)


def _described(name: str, codebook: Codebook) -> ParameterRecord:
    codes, centroids = codebook.codes, codebook.centroids
    low, high = (int(bound) for bound in torch.aminmax(codes)) if codes.numel() else (0, 0)
    if low < 0 or high >= codebook.k:
        raise CheckpointError(f"{name!r} has codes {low} .. {high} for {codebook.k} centroids")
    if not bool(torch.isfinite(centroids).all()):
        raise CheckpointError(f"{name!r} has NaN or infinite centroids")
    dtype = str(centroids.dtype).removeprefix("torch.")
    try:
        record = ParameterRecord(codebook.layout, dtype, even=even(codebook) is not None)
        return ParameterRecord.from_document(record.to_document())
    except CheckpointError as error:
        raise CheckpointError(f"{name!r} cannot be stored: {error}") from error
