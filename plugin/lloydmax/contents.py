"""What a model holds, compressed or not, and what a file keeps of it.

A tensor is known by the name that it has in the original, uncompressed architecture, whatever holds it now.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from lloydmax.codebook import Codebook
from lloydmax.entries import DTYPES, Entry
from lloydmax.errors import CheckpointError
from lloydmax.fileformat import DEFAULT_STORAGE, Document
from lloydmax.folding import folded
from lloydmax.integer import IntegerModel, even
from lloydmax.layers import CodebookLayer, CodebookTensor, CodesHolder
from lloydmax.stored import FLOATS, Parameter
from lloydmax.student import CodebookWeight

if TYPE_CHECKING:
    from lloydmax.recipe import Storage

_TOLERANCE = {torch.float16: 2.0**-10, torch.bfloat16: 2.0**-8}


def contents(model: nn.Module) -> tuple[dict[str, Tensor | Codebook], dict[str, str]]:
    """Everything that a file keeps of a model.

    Returns:
        Each parameter and persistent buffer under its first name (not copied), compressed ones as
        :class:`~lloydmax.Codebook`; and the further names of tied ones -> their first name.
    """
    values: dict[str, Tensor | Codebook] = {}
    tied: dict[str, str] = {}
    first: dict[int, str] = {}
    for name, value in _held(model):
        key = id(value.codes if isinstance(value, Codebook) else value)
        known = first.setdefault(key, name)
        if known != name and _same(values[known], value):
            tied[name] = known
        else:
            values[name] = value
    return values, tied


def _held(model: nn.Module) -> Iterator[tuple[str, Tensor | Codebook]]:
    if isinstance(model, IntegerModel):
        yield from model.held()
        return
    for prefix, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, CodesHolder) or _holds_codes(module):
            continue
        dot = f"{prefix}." if prefix else ""
        if parametrize.is_parametrized(module):
            for leaf, held in module.parametrizations.items():
                if _holds_codes(held):
                    yield dot + leaf, held[0].holding(held.original)
        if isinstance(module, CodebookLayer):
            for leaf, tensor in module.codebooks.items():
                assert isinstance(tensor, CodebookTensor)
                yield dot + leaf, tensor.codebook()
        for leaf, plain in _own(module).items():
            yield dot + leaf, plain


def _own(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers of the module itself."""
    fleeting = module._non_persistent_buffers_set
    buffers = {name: buffer for name, buffer in module._buffers.items() if name not in fleeting}
    return {name: tensor for name, tensor in {**module._parameters, **buffers}.items() if tensor is not None}


def _holds_codes(module: nn.Module) -> bool:
    return isinstance(module, parametrize.ParametrizationList) and isinstance(module[0], CodebookWeight)


def _same(first: Tensor | Codebook, second: Tensor | Codebook) -> bool:
    if isinstance(first, Codebook) and isinstance(second, Codebook):
        layouts = [(book.granularity, book.axis, book.block, book.shape) for book in (first, second)]
        return layouts[0] == layouts[1] and torch.equal(first.centroids, second.centroids)
    return first is second


def remember(model: nn.Module, recipe: dict[str, Any] | None, storage: dict[str, str]) -> None:
    """Attach recipe and storage to a model as plain data, which copies and pickles keep."""
    model._lloydmax = {"recipe": recipe, "storage": storage}  # type: ignore[assignment]


def storage_options(storage: Storage | Mapping[str, str] | None) -> dict[str, str]:
    """Storage options as plain data, with the defaults filled in.

    Raises:
        CheckpointError: an unknown option or value.
    """
    given = storage if isinstance(storage, Mapping) else {} if storage is None else storage.model_dump()
    chosen = {**DEFAULT_STORAGE, **given}
    if set(chosen) != set(DEFAULT_STORAGE) or chosen["floats"] not in FLOATS:
        raise CheckpointError(f"storage {chosen}: floats is one of {', '.join(FLOATS)}")
    if chosen["codes"] not in ("packed", "entropy"):
        raise CheckpointError(f"storage {chosen}: codes is 'packed' or 'entropy'")
    return chosen


def settings(
    model: nn.Module, recipe: Mapping[str, Any] | None, storage: Storage | Mapping[str, str] | None
) -> tuple[dict[str, Any] | None, dict[str, str]]:
    """Recipe and storage options: those given, else what the model remembers."""
    remembered: Mapping[str, Any] = getattr(model, "_lloydmax", None) or {}
    kept = remembered.get("recipe") if recipe is None else dict(recipe)
    return kept, storage_options(remembered.get("storage") if storage is None else storage)


def fits(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Whether a float32 tensor may be rounded to float16 or bfloat16.

    Nothing overflows, and the rounding error is at most 2**-10 (bfloat16: 2**-8) of each value when all are
    positive (such as variances), else of the largest magnitude.
    """
    if tensor.numel() == 0:
        return True
    wide = tensor.detach()
    error = (wide.to(dtype).to(wide.dtype) - wide).abs()
    scale = wide if bool((wide > 0).all()) else wide.abs().amax()
    return bool(torch.isfinite(error).all()) and bool((error <= _TOLERANCE[dtype] * scale).all())


@torch.no_grad()
def round_floats(model: nn.Module, storage: Storage | Mapping[str, str] | None = None) -> None:
    """Round the float32 values of a model, in place, to what a file with this storage holds.

    Afterwards :func:`~lloydmax.save` uses the narrower dtype wherever it fits, and still loses nothing.

    Args:
        model: with or without codebooks; dtypes stay as they are.
        storage: its ``floats`` count; absent, what the model remembers.

    Raises:
        CheckpointError: unknown storage options.
    """
    _, chosen = settings(model, None, storage)
    for _, value in _held(model):
        tensor, dtype = target(value, chosen)
        if tensor.dtype != dtype and narrows(tensor, dtype):
            tensor.copy_(tensor.to(dtype))
    for module in model.modules():
        if isinstance(module, CodesHolder):
            module.set_cache(module.cached)


def narrows(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Whether ``dtype`` is a narrower one that the values fit."""
    return dtype.itemsize < tensor.dtype.itemsize and fits(tensor, dtype)


def target(value: Tensor | Codebook, storage: Mapping[str, str]) -> tuple[Tensor, torch.dtype]:
    """The tensor, or the centroids, and the dtype in which a file keeps them if they fit."""
    floats = FLOATS[storage["floats"]]
    if not isinstance(value, Codebook):
        return value, floats if value.dtype == torch.float32 else value.dtype
    if even(value) is not None:
        return value.centroids, value.centroids.dtype
    dtype = value.centroids.dtype
    if dtype == torch.bfloat16:
        return value.centroids, torch.float32
    return value.centroids, torch.float16 if torch.float16 in (dtype, floats) else torch.float32


def _exact(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in ``dtype`` if that loses not a single bit, else as it is."""
    other = tensor.to(dtype)
    if dtype.itemsize >= tensor.dtype.itemsize:
        return other
    back = other.to(tensor.dtype)
    return other if torch.equal(back.view(torch.int32), tensor.view(torch.int32)) else tensor


@dataclass(frozen=True)
class Parts:
    """A compressed model as a file will hold it.

    Attributes:
        document: the metadata, checksums missing, all codes packed.
        plain: all tensors but the codes, under their names and in their dtypes in the file (not copied).
        codebooks: the compressed parameters by name.
    """

    document: Document
    plain: dict[str, Tensor]
    codebooks: dict[str, Codebook]

    def entries(self, entropy: Mapping[str, int] | None = None) -> list[Entry]:
        """The table of tensors; ``entropy`` has the lengths of entropy-coded streams, the others are packed."""
        lengths = entropy or {}
        streams = [
            Entry(f"{name}.codes", "U8", (lengths.get(name, parameter.packed_bytes),))
            for name, parameter in self.document.parameters.items()
        ]
        return [Entry.of(name, tensor) for name, tensor in self.plain.items()] + streams

    def documented(self, entropy: Collection[str]) -> Document:
        """The document when the codes of these parameters are entropy coded."""
        parameters = {
            name: replace(parameter, coding="entropy") if name in entropy else parameter
            for name, parameter in self.document.parameters.items()
        }
        return replace(self.document, parameters=parameters)


def take_apart(model: nn.Module, recipe: dict[str, Any] | None, storage: Mapping[str, str]) -> Parts:
    """Describe a compressed model as a file.

    Raises:
        CheckpointError: the model holds no codebooks, a broken one, or a tensor that no file can hold.
    """
    values, tied = contents(model)
    document = new_document({}, tied, recipe, model)
    parts = Parts(document, {}, {})
    for name, value in values.items():
        tensor, dtype = target(value, storage)
        stored = _exact(ordinary(name, tensor), dtype)
        if isinstance(value, Codebook):
            document.parameters[name] = _described(name, value)
            parts.codebooks[name] = value
            rows = even(value)
            if rows is not None:
                stored = rows.view(document.parameters[name].codebook_shape)
            parts.plain[f"{name}.codebook"] = stored
        else:
            if stored.dtype != tensor.dtype:
                document.floats[name] = "float32"
            parts.plain[name] = stored
    if not parts.codebooks:
        raise CheckpointError("the model holds no codebooks; compress it first")
    return parts


def new_document(
    parameters: dict[str, Parameter], tied: dict[str, str], recipe: dict[str, Any] | None, model: nn.Module
) -> Document:
    """A document with the versions of this installation and the structure of the model."""
    return Document(
        parameters,
        tied=tied,
        recipe=recipe,
        folded=dict(model.folded if isinstance(model, IntegerModel) else folded(model)),
        activations=model.activations if isinstance(model, IntegerModel) else None,
        lloydmax=_version(),
        torch=torch.__version__,
    )


def ordinary(name: str, tensor: Tensor) -> Tensor:
    """The detached tensor.

    Raises:
        CheckpointError: it is lazy, sparse, quantized, on the meta device, of another class, or of a dtype
            that safetensors does not have.
    """
    if is_lazy(tensor):
        raise CheckpointError(f"{name!r} is lazy; run the model once first")
    plain = tensor.detach()
    if plain.is_meta:
        raise CheckpointError(f"{name!r} is on the meta device; call model.to_empty(device=...) first")
    if type(plain) is not Tensor or plain.layout != torch.strided or plain.is_quantized:
        raise CheckpointError(
            f"{name!r} is no ordinary tensor ({type(plain).__name__}, {plain.layout}); a tensor of another toolkit "
            "has no place in this file: keep the model by torch.save(model.state_dict(), path)"
        )
    if plain.dtype not in DTYPES:
        raise CheckpointError(f"{name!r} is {plain.dtype}, which safetensors cannot hold")
    return plain


def check_state(model: nn.Module) -> None:
    """Refuse a model whose state dict has more than parameters and buffers.

    Raises:
        CheckpointError: a module keeps packed weights or extra state.
    """
    if isinstance(model, IntegerModel):
        return
    for name, module in model.named_modules():
        state: dict[str, Any] = {}
        module._save_to_state_dict(state, "", True)
        if extra := [key for key in state if key not in _own(module) and state[key] is not None]:
            raise CheckpointError(
                f"module {name!r} ({type(module).__name__}) keeps {extra[0]!r}, which is no parameter or buffer "
                "(int8 layers of torch.ao keep packed weights); keep the model by torch.save(model.state_dict(), path)"
            )


def _described(name: str, codebook: Codebook) -> Parameter:
    codes, centroids = codebook.codes, codebook.centroids
    low, high = (int(bound) for bound in torch.aminmax(codes)) if codes.numel() else (0, 0)
    if low < 0 or high >= codebook.k:
        raise CheckpointError(f"{name!r} has codes {low} .. {high} for {codebook.k} centroids")
    if not bool(torch.isfinite(centroids).all()):
        raise CheckpointError(f"{name!r} has NaN or infinite centroids")
    dtype = str(centroids.dtype).removeprefix("torch.")
    evenly = even(codebook) is not None
    found = Parameter(
        codebook.shape, codebook.k, dtype, codebook.granularity, codebook.axis, even=evenly, block=codebook.block
    )
    try:
        return Parameter.from_document(found.to_document())
    except CheckpointError as error:
        raise CheckpointError(f"{name!r} cannot be stored: {error}") from error


@functools.cache
def _version() -> str:
    try:
        return importlib.metadata.version("lloydmax")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
