"""From an item of a user's data (with or without labels) to the inputs of a model."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from lloydmax.data.batch import Batch, map_leaves
from lloydmax.data.faults import kind_of
from lloydmax.data.image_folder import image_channels
from lloydmax.data.own_preparation import own_preparation
from lloydmax.data.padding import LABELS, Padding
from lloydmax.data.tokens import IDS, Sequences, Tokenizing
from lloydmax.errors import DataError
from lloydmax.runtime.dense import without_values

_USUAL_LABELS = ("label", "labels", "target", "targets", "y")
_HUGGING_FACE_LABELS = ("label_ids", "start_positions", "end_positions", "next_sentence_label")
LABEL_NAMES = frozenset((*_USUAL_LABELS, *_HUGGING_FACE_LABELS))
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_AXES_OF_A_PICTURE = 3
_SEQUENCES, _MAPPINGS = ("tuple", "list", "sequence"), ("dict", "mapping")
WHOLE = (
    "What cannot be divided into samples (a graph with its edges, bags with offsets, a list of pictures of different "
    "sizes) is given as a list of wholes, each what one call takes: data = [lloydmax.extend.Batch((nodes, edges), "
    "whole=True), ...]"
)
_BY_PRODUCTS = frozenset(
    ("special_tokens_mask", "offset_mapping", "length", "overflow_to_sample_mapping", "num_truncated_tokens", "idx")
)
"""What tokenizers and datasets give beside the inputs, and a ``forward`` that takes anything does not want."""
_SAMPLES = {"input_values": 1, "input_features": 2, "pixel_values": 3}
"""Axes of one sample, by the name that transformers gives an input."""
_COUNTED_FROM_PADDING = ("roberta", "xlm-roberta", "camembert", "mpnet", "longformer", "data2vec-text")
"""Whose first position is the one after the number of the padding token."""
_FEW = 3
"""Tensors of the shape of pictures that are taken to be inputs and labels; more are a list of pictures."""
SPARSE = "the data holds sparse tensors, which cannot be read row by row: give x.to_dense()"
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclasses.dataclass(frozen=True)
class Listed:
    """Items that a ``collate_fn`` gave back as they were, in a list."""

    items: Sequence[Any]


def is_label(name: object) -> bool:
    """Whether this key names labels, not inputs."""
    return str(name).lower() in LABEL_NAMES


def label_of(item: Any) -> Any:
    """The label in an item of a dataset: the last of several elements, the entry named so; ``None``: there is none."""
    if isinstance(item, Mapping):
        return next((value for key, value in item.items() if is_label(key)), None)
    return item[-1] if isinstance(item, (tuple, list)) and len(item) > 1 else None


def as_tensor(array: Any) -> Tensor:
    """A tensor of a numpy array (or of a tensor, detached).

    Raises:
        DataError: the array holds text, Python objects or another type that tensors do not have.
    """
    if isinstance(array, Tensor):
        return array.detach()
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")).reshape(array.shape)
    try:
        return torch.from_numpy(array if array.flags.writeable else array.copy())
    except TypeError as error:
        raise DataError(f"an array of type {array.dtype} cannot be a model's input: give numbers") from error


class Inputs:
    """Turns the items of a user's data into the inputs of one model, whose ``forward`` it looks at once.

    - A tensor or array is the one positional argument.
    - Of a tuple or list, the leading elements, as many as ``forward`` has required positional parameters
      (at least one), are the arguments; the rest are labels. If the first element is itself a tuple, a list
      or a mapping, that element alone holds the inputs: the arguments, or one argument where ``forward`` is
      annotated so, or takes no more. A list of pictures (tensors with three axes), for a ``forward`` that is annotated
      so or whose first convolution has their channels, and a list of items, are one argument: a whole.
    - Of a mapping, the keys that ``forward`` has as parameters are the keyword arguments. Labels are dropped,
      unless ``forward`` cannot be called without them. If no key fits, a single floating tensor is the one
      positional argument; else the mapping is, where ``forward`` takes one that is not annotated as a tensor.
    - Of texts, lists of token numbers, and mappings to these, batches are made as :class:`Sequences` says. What stands
      in padding is made the same everywhere, see :meth:`Padding.tidied`; what a decoder reads is made of ``labels``.

    Numpy arrays become tensors, and floating tensors get the dtype of the model's first floating parameter.

    Args:
        model: see above.
        tokenizer: for texts, see :class:`Tokenizing`; ``None``: there is none.
    """

    def __init__(self, model: nn.Module, tokenizer: Any = None) -> None:
        model = _unwrapped(model)
        try:
            self.signature = inspect.signature(model.forward)
        except (TypeError, ValueError):
            one_input = inspect.Parameter("input", inspect.Parameter.POSITIONAL_ONLY)
            self.signature = inspect.Signature([one_input])
        parameters = self.signature.parameters.values()
        required = [p for p in parameters if p.default is p.empty]
        self.positional = max(1, sum(p.kind in _POSITIONAL for p in required))
        self.names = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        self.required = self.names & {p.name for p in required}
        self.taken = frozenset(name for name in self.names if self.takes(name))
        self.any_name = any(p.kind is p.VAR_KEYWORD for p in parameters)
        first = next((str(p.annotation) for p in parameters if p.kind in _POSITIONAL), "")
        self.takes_sequence = _names_type(first, _SEQUENCES)
        self._takes_list = _names_type(first, ("list",))
        self.takes_mapping = _names_type(first, _MAPPINGS)
        self._takes_tensor = _names_type(first, ("tensor",))
        self.model_name = type(model).__name__
        self.image_channels, self.own_preparation = image_channels(model), own_preparation(model)
        first_conv = next((m for m in model.modules() if isinstance(m, _ConvNd)), None)
        self._picture_channels = first_conv.in_channels if isinstance(first_conv, nn.Conv2d) else None
        plain = (p for p in model.parameters() if type(p) is nn.Parameter)  # not those that are in buffers
        self.dtype = next((p.dtype for p in plain if p.dtype in _FLOATS), None)
        self.padding = Padding.of(model, list(self.signature.parameters))
        self.longest = _longest(model)
        made = None if tokenizer is None else Tokenizing(tokenizer)
        reads = made is not None or any(isinstance(module, nn.Embedding) for module in model.modules())
        self.sequences = Sequences(self.padding, IDS not in self.names, reads, made, self.longest)
        self.packs = _generates(model) or not self.padding.tells

    def __call__(self, item: Any) -> Batch:
        """The inputs in ``item``, as tensors that agree in their first axis.

        Raises:
            DataError: the item does not hold what the model needs.
        """
        return self.finish(self.choose(item))

    def choose(self, item: Any) -> Batch:
        """The part of ``item`` that is inputs, its tensors and arrays untouched."""
        if isinstance(item, Batch):
            return _checked(item)
        if self.sequences.has_many(item):
            batch = self.sequences(item)
        elif isinstance(item, (Tensor, np.ndarray)):
            batch = Batch((item,))
        elif isinstance(item, Listed):
            batch = self._listed(item.items)
        elif isinstance(item, Mapping):
            batch = self._from_mapping(item)
        elif dataclasses.is_dataclass(item) and not isinstance(item, type):
            batch = self._from_mapping({field.name: getattr(item, field.name) for field in dataclasses.fields(item)})
        elif isinstance(item, (tuple, list)) and item:
            if self._are_items(item) or self._are_pictures(item):
                batch = self._listed(item)
            elif isinstance(item[0], Mapping):
                batch = self._from_mapping(item[0])
            elif isinstance(item[0], (tuple, list)):
                batch = self._from_sequence(*item[:2])
            else:
                batch = Batch(tuple(item[: self.positional]))
        else:
            raise DataError(
                f"a batch of the data is {_indefinite(item)}: give tensors, or tuples or dicts of these. {WHOLE}"
            )
        try:
            self.signature.bind(*batch.args, **batch.kwargs)
        except TypeError as error:
            raise DataError(
                f"a batch of the data does not fit {self.model_name}.forward{self.signature}: {error}. "
                "Give the inputs in a tuple in that order, or in a dict by these names"
            ) from error
        return _checked(batch)

    def finish(self, batch: Batch) -> Batch:
        """A chosen batch with tensors for arrays, in the model's floating dtype, checked."""
        batch = Batch(
            map_leaves(batch.args, as_tensor, (Tensor, np.ndarray)),
            map_leaves(batch.kwargs, as_tensor, (Tensor, np.ndarray)),
            batch.whole,
            map_leaves(batch.beside, as_tensor, (Tensor, np.ndarray)),
        )
        shapes = [tuple(tensor.shape) for tensor in batch.tensors() if tensor.ndim]
        if not shapes:
            raise DataError(
                "a batch of the data holds no tensor whose first axis is the samples: give tensors "
                "(from a tokenizer: return_tensors='pt')"
            )
        if len({shape[0] for shape in shapes}) > 1 and not batch.whole:
            raise DataError(
                f"the inputs of a batch do not agree in their first axis, the samples: shapes {shapes}. {WHOLE}"
            )
        return self.padding.tidied(self.padding.completed(batch.map(self._cast)))

    def takes(self, name: str) -> bool:
        """Whether ``forward`` names this input (labels only if it cannot be called without them)."""
        return name in self.names and (name in self.required or not is_label(name))

    def is_sample(self, item: Any) -> bool:
        """Whether a mapping holds one sample, not a batch, by what transformers calls its inputs."""
        named = [name for name in _SAMPLES if self.takes(name)] if isinstance(item, Mapping) else []
        return any(name in item and np.ndim(item[name]) == _SAMPLES[name] for name in named)

    def _from_mapping(self, item: Mapping[Any, Any]) -> Batch:
        inputs = {key: value for key, value in item.items() if key in self.required or not is_label(key)}
        if self.takes_mapping:
            return Batch((inputs,))
        kwargs = {
            key: value
            for key, value in inputs.items()
            if self.takes(key) or (self.any_name and isinstance(value, (Tensor, np.ndarray)))
        }
        if self.names & kwargs.keys():
            kwargs = {key: value for key, value in kwargs.items() if key in self.names or key not in _BY_PRODUCTS}
        if kwargs:
            return Batch((), kwargs, beside=_labels(item) if LABELS not in kwargs else {})
        floating = [value for value in inputs.values() if _is_floating(value)]
        if len(floating) == 1:
            return Batch((floating[0],))
        if inputs and self.positional == 1 and len(self.required) < 2 and not self._takes_tensor:
            return Batch((inputs,))
        raise DataError(
            f"the keys of the data ({', '.join(map(str, item)) or 'none'}) do not name the inputs of "
            f"{self.model_name}.forward ({', '.join(self.signature.parameters) or 'none'}): rename them"
        )

    def _from_sequence(self, given: Any, labels: Any = None) -> Batch:
        """Several arguments, or one; a list of pictures, one for each label or as ``forward`` asks, is a whole."""
        one_each = isinstance(labels, (tuple, list)) and len(labels) == len(given)
        if self.positional == 1 and all(map(_is_picture, given)) and (self._takes_list or one_each):
            return Batch((given,), whole=True)
        return Batch((given,) if self._is_one_argument(given) else tuple(given))

    def _listed(self, items: Sequence[Any]) -> Batch:
        """The first element of each item, or the item itself, in one list for one call."""
        leading = [item[0] if isinstance(item, (tuple, list)) and item else item for item in items]
        if len(leading) == 1 and isinstance(leading[0], Batch):
            return leading[0]
        if self.positional != 1 or not all(isinstance(each, (Tensor, np.ndarray)) for each in leading):
            raise DataError(f"a batch of the data is a list of {len(items)} items, which are not collated. {WHOLE}")
        return Batch((leading,), whole=True)

    def _are_pictures(self, item: Sequence[Any]) -> bool:
        """Whether these are pictures, and not inputs and labels."""
        if self.positional != 1 or not all(map(_is_picture, item)):
            return False
        fitting = all(len(picture) == self._picture_channels for picture in item)
        return self._takes_list or len(item) > _FEW or (fitting and len(item) > 1)

    def _are_items(self, item: Sequence[Any]) -> bool:
        """Whether these are items with a picture and perhaps labels each, and not inputs and labels; in a tuple lie
        the pictures and the labels of ``tuple(zip(*items))``."""
        if not isinstance(item, list) or len(item) < 2 or self.positional != 1:
            return False
        if not all(isinstance(each, (tuple, list)) and each and _is_picture(each[0]) for each in item):
            return False
        return len(item) > 2 or not any(_is_picture(label) for each in item for label in each[1:])

    def _is_one_argument(self, given: Any) -> bool:
        if self.takes_sequence:
            return True
        try:
            self.signature.bind(*given)
        except TypeError:
            return self.positional == 1 and len(given) > 1 and not self._takes_tensor
        return False

    def _cast(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.dtype) if self.dtype is not None and tensor.is_floating_point() else tensor


def inputs_of(item: Any, model: nn.Module) -> Batch:
    """The inputs of ``model`` in one item of a user's data; see :class:`Inputs`.

    Raises:
        DataError: the item does not hold what the model needs.
    """
    return Inputs(model)(item)


def _labels(item: Mapping[Any, Any]) -> dict[str, Any]:
    """Labels of positions, ``(N, T)``, which are known beside the inputs; none of other kinds."""
    given = item.get(LABELS)
    if not isinstance(given, (Tensor, np.ndarray)) or given.ndim != 2:
        return {}
    return {LABELS: given} if kind_of(given) == "integers" else {}


def _longest(model: nn.Module) -> int | None:
    """The longest sequence that the configuration of a model tells."""
    config = getattr(model, "config", None)
    names = ("max_position_embeddings", "n_positions", "max_seq_len")
    found = [value for name in names if isinstance(value := getattr(config, name, None), int) and value > 1]
    offset = (
        getattr(config, "pad_token_id", None) if getattr(config, "model_type", "") in _COUNTED_FROM_PADDING else None
    )
    return None if not found else found[0] - (0 if offset is None else offset + 1)


def _generates(model: nn.Module) -> bool:
    """Whether it is a language model of transformers, without an encoder."""
    generates = getattr(model, "can_generate", None)
    if not callable(generates) or getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return False
    return bool(generates())


def _unwrapped(model: nn.Module) -> nn.Module:
    """The module whose ``forward`` names the inputs, inside what torch.compile and parallelism wrap it in."""
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    inner = getattr(model, "module" if isinstance(model, parallel) else "_orig_mod", None)
    return _unwrapped(inner) if isinstance(inner, nn.Module) else model


def _names_type(annotation: str, names: tuple[str, ...]) -> bool:
    """Whether an annotation, as text, names one of these types first: ``tuple[...]``, ``typing.List``."""
    outer = annotation.removeprefix("<class '").split("[")[0].rstrip("'>")
    return outer.rsplit(".", 1)[-1].lower() in names


def _checked(batch: Batch) -> Batch:
    """The batch, if its tensors have values and rows; a whole need not have rows."""
    for tensor in batch.tensors():
        if tensor.is_nested:
            raise DataError(
                "the data holds nested tensors, whose samples differ in size: pad them, as in x.to_padded_tensor(0.0)"
            )
        if without_values(tensor):
            raise DataError("the data holds tensors without values (on the meta device, or fake): give real ones")
        if tensor.layout != torch.strided and not batch.whole:
            raise DataError(SPARSE)
    return batch


def _is_picture(value: Any) -> bool:
    """Whether this has the axes of a picture, and is not a map of classes."""
    if not isinstance(value, (Tensor, np.ndarray)) or value.ndim != _AXES_OF_A_PICTURE:
        return False
    return not str(value.dtype).endswith("int64")


def _is_floating(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.is_floating_point()
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def _indefinite(item: Any) -> str:
    name = type(item).__name__
    return f"an empty {name}" if isinstance(item, (tuple, list)) else f"of type {name}"
