"""What inputs a model takes: told by examples, or by asking its first layers and trying."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from lloydmax.data.batch import Batch, map_leaves
from lloydmax.data.inputs import Inputs
from lloydmax.data.natural import Form
from lloydmax.data.profile import Profile, only_shapes, profile_of
from lloydmax.errors import ModelError
from lloydmax.network.guard import guarded
from lloydmax.network.trees import output_tensors
from lloydmax.runtime.modes import device_of, evaluating
from lloydmax.teacher.forms import BYTES, channels, forms, numbered

_SAMPLES, _TELLING, _PLACES = 3, 16, 1 << 10
"""Of a trial; of one that tells columns apart, and up to how many places it has so many."""
_WIDE = 7
"""Sides of the smallest map that a convolution should see: less is nothing but edges."""
_VAIN, _HEAVY = 3, 1 << 26
"""Sizes that are tried after one that fits, and values within the network, from which on no larger size is tried."""
_WEIGHTS = 256
"""Of a model, for each place of a profile."""
_NAMED = ("input_ids", "pixel_values", "input_values", "input_features")
"""What the inputs of some libraries are called."""
_DECODER = "decoder_input_ids"


@dataclass(frozen=True)
class Asked:
    """What a model takes.

    Attributes:
        template: the arguments of a call, with forms where values are to be made; tensors stay as they are.
    """

    template: Batch

    @property
    def forms(self) -> list[Form]:
        """What is to be made."""
        found: list[Form] = []
        self.filled(found.append)
        return found

    @property
    def only(self) -> Form | None:
        """The form of the only input, where there is one."""
        args, kwargs = self.template.args, self.template.kwargs
        return args[0] if len(args) == 1 and not kwargs and isinstance(args[0], Form) else None

    def filled(self, make: Callable[[Form], Any], samples: int | None = None) -> Batch:
        """The arguments with what ``make`` gives for each form; of tensors that stay, so many rows."""

        def fill(leaf: Any) -> Any:
            if isinstance(leaf, Form):
                return make(leaf)
            return leaf if samples is None or not leaf.ndim else leaf[torch.arange(samples) % len(leaf)]

        args, kwargs = (map_leaves(part, fill, (Form, Tensor)) for part in (self.template.args, self.template.kwargs))
        return Batch(args, kwargs)

    def with_form(self, one: Form, other: Form) -> Asked:
        """The same with another form in place of one."""
        return Asked(self.filled(lambda form: other if form is one else form))


Kind = Literal["natural", "matched", "noise", "written"]


@dataclass(frozen=True)
class Wanted:
    """What a recipe says of the inputs.

    Attributes:
        samples: at most; fewer where they are large.
        kind: ``natural``: pictures of things, sounds with harmonics, words as often as in texts; ``noise``: few
            things on regions, noise with the spectrum of sounds, words that are all as likely. ``matched``: pictures of
            things, moved until the batch norms get the statistics that they keep, ``written``: by the model itself;
            where it has no such norms, or is no language model, ``natural``.
        shape: of one sample of the only input; ``None``: not told.
        below: whole numbers, less than this.
        mean, deviation: of real numbers.
        profile: of real numbers, in place of these.
    """

    samples: int = 64
    kind: Kind = "natural"
    shape: tuple[int, ...] | None = None
    below: int | None = None
    mean: float | None = None
    deviation: float | None = None
    profile: Profile | None = None


def asked(model: nn.Module, example_inputs: Any = None, wanted: Wanted | None = None) -> Asked | None:
    """What inputs a model takes; ``None``: that cannot be told.

    Args:
        model: run on a few samples of noise, in evaluation mode.
        example_inputs: a tensor, tuple or dict. Floating tensors, and whole numbers that are not all the same, a range
            or a mask, are made anew; the others stay as they are.
        wanted: what a recipe says; a shape goes before the examples.
    """
    if wanted is not None and wanted.shape is not None:
        found = _of_recipe(model, wanted, wanted.shape)
    elif example_inputs is not None:
        found = _of_examples(model, example_inputs)
    else:
        found = next(filter(None, (_best(model, tries) for tries in _candidates(model))), None)
    return None if found is None else _words(model, found)


def _words(model: nn.Module, found: Asked) -> Asked:
    """The same without the tokens that a configuration in the manner of transformers names: beginnings, ends, pads."""
    config = getattr(model, "config", None)
    places = vars(config) if hasattr(config, "__dict__") else {}
    named = [value for name, value in places.items() if name.endswith("_token_id")]
    numbers = {one for value in named for one in (value if isinstance(value, (list, tuple)) else [value])}
    for form in {id(form): form for form in found.forms}.values():
        if form.below is not None and not form.below.dim():
            most = int(form.below)
            left_out = tuple(sorted(one for one in numbers if isinstance(one, int) and 0 <= one < most))
            if left_out and 2 * len(left_out) < most:
                found = found.with_form(form, replace(form, without=left_out))
    return found


def _best(model: nn.Module, tries: Sequence[Asked]) -> Asked | None:
    """The first that fits and is large enough; the largest that fits where none is."""
    best, vain = None, 0
    for tried in tries:
        seen = _seen(model, tried)
        if seen.runs:
            best, vain = tried, 0
        vain += not seen.runs and best is not None
        if (seen.runs and seen.least >= _WIDE) or vain == _VAIN or seen.values > _HEAVY:
            break
    return best


def _of_recipe(model: nn.Module, wanted: Wanted, shape: tuple[int, ...]) -> Asked | None:
    tables = [module.num_embeddings for module in model.modules() if isinstance(module, nn.Embedding)]
    real = Form(shape, channels(model, shape), mean=wanted.mean, deviation=wanted.deviation, profile=wanted.profile)
    numbers = numbered(wanted.below or min(tables, default=BYTES), shape)
    short = replace(numbers, dtype=torch.int32)
    for form in [numbers, short] if wanted.below is not None else [real, numbers, short]:
        for way in _ways(model):
            found = Asked(way(form))
            if _seen(model, found).runs:
                return _ranged(model, found) or found
    return None


def _of_examples(model: nn.Module, example_inputs: Any) -> Asked | None:
    given = example_inputs if isinstance(example_inputs, (tuple, list)) else (example_inputs,)
    examples = Batch((), dict(example_inputs)) if isinstance(example_inputs, dict) else Batch(tuple(given))
    tensors = [tensor for tensor in examples.tensors() if tensor.ndim]
    if not tensors or len({len(tensor) for tensor in tensors}) > 1:
        return None
    examples = examples.map(lambda tensor: tensor.detach().cpu())
    telling = [t for t in examples.tensors() if t.ndim and not t.is_floating_point() and not _is_plain(t)]
    told = {**{f"{number}": value for number, value in enumerate(examples.args)}, **examples.kwargs}
    weights = sum(parameter.numel() for parameter in model.parameters())
    masks = {id(value) for name, value in told.items() if "mask" in name and isinstance(value, Tensor)}

    def form(tensor: Tensor) -> Any:
        if not tensor.ndim or tensor.is_complex() or tensor.dtype == torch.bool or id(tensor) in masks:
            return tensor
        if tensor.is_floating_point():
            form = Form(tuple(tensor.shape[1:]), channels(model, tuple(tensor.shape[1:])), dtype=tensor.dtype)
            return _like(form, tensor, weights)
        if telling and not any(tensor is each for each in telling):
            return tensor
        return Form(tuple(tensor.shape[1:]), None, tensor.max().clamp(min=0) + 1, tensor.dtype)

    args, kwargs = (map_leaves(part, form) for part in (examples.args, examples.kwargs))
    found = Asked(Batch(args, kwargs))
    if not found.forms:
        return None
    wider = _ranged(model, found)
    tries = [found] if wider is None else [wider, found]
    return next((each for each in tries if _seen(model, each).runs), None)


def _like(form: Form, examples: Tensor, weights: int) -> Form:
    """The form with what examples tell of their values. Profiles are of what has no colours, and so short that a recipe
    with them is small beside the weights."""
    if only_shapes(examples):
        return form
    coloured = form.pictures and form.width > 1
    if not coloured and (profile := profile_of(examples, weights // _WEIGHTS)) is not None:
        return replace(form, profile=profile)
    deviation, mean = torch.std_mean(examples.double(), correction=0)
    return replace(form, mean=float(mean), deviation=float(deviation))


def _is_plain(numbers: Tensor) -> bool:
    """Whether whole numbers are all the same, or count up in each sample: masks, types, positions."""
    flat = numbers.reshape(len(numbers), -1)
    counting = torch.arange(flat.shape[1]) + flat[:, :1]
    return bool((flat == flat[0, 0]).all()) or (flat.shape[1] > 1 and bool((flat == counting).all()))


def _candidates(model: nn.Module) -> Iterator[list[Asked]]:
    """Lists of inputs that may fit, the smallest first; of the first list with any that fits, the first that is large
    enough is taken."""
    for tried in forms(model):
        for way in _ways(model):
            yield [_ranged(model, found, trim=True) or found for found in (Asked(way(form)) for form in tried)]


def _ways(model: nn.Module) -> list[Callable[[Form], Batch]]:
    """How a model may be called with one thing."""
    inputs = Inputs(model)
    if any("mask" in name for name in inputs.required):
        return []
    named = next((name for name in _NAMED if name in inputs.names), None)
    if named is None or inputs.positional > 1:
        return [lambda form: Batch((form,) * inputs.positional)]
    several = [[named], [named, _DECODER]] if _DECODER in inputs.names else [[named]]
    return [lambda form, names=names: Batch((), dict.fromkeys(names, form)) for names in several]  # type: ignore[misc]


@dataclass
class _Seen:
    """What a trial shows.

    Attributes:
        runs: whether the model takes the inputs, and gives finite values.
        least: the shortest side of what reaches a convolution; as large as it should be where there are none.
        values: that reached convolutions.
    """

    runs: bool = False
    least: int = _WIDE
    values: int = 0


def _seen(model: nn.Module, tried: Asked) -> _Seen:
    seen, sides = _Seen(), []

    def look(module: nn.Module, args: Any) -> None:
        seen.values += args[0].numel() * module.out_channels // module.in_channels
        if max(module.kernel_size) > 1:  # type: ignore[arg-type]
            sides.append(min(side for side in args[0].shape[2:]))

    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, _ConvNd) and not isinstance(module, _ConvTransposeNd):
                stack.callback(module.register_forward_pre_hook(look).remove)
        seen.runs = _runs(model, _noise(tried))
    seen.least = min(sides, default=_WIDE)
    return seen


def _noise(tried: Asked, samples: int = _SAMPLES) -> Batch:
    """Values that cost nothing: what fits is asked, not what is likely."""
    generator = Generator().manual_seed(0)

    def draw(form: Form) -> Tensor:
        if form.below is None:
            return torch.randn((samples, *form.shape), generator=generator).to(form.dtype)
        return (torch.rand((samples, *form.shape), generator=generator) * form.below).to(form.dtype)

    return tried.filled(draw, samples)


def _runs(model: nn.Module, batch: Batch) -> bool:
    """Whether a model takes these inputs, and gives finite values for them."""
    try:
        with evaluating(model), torch.no_grad():
            given = guarded(model, lambda: Inputs(model).finish(batch).to(device_of(model)).run(model))
            outputs = output_tensors(given, None)
    except (ModelError, torch.OutOfMemoryError):
        raise
    except Exception:
        return False
    ends = [torch.stack(torch.aminmax(output)) for output in outputs if output.numel()]
    return bool(outputs) and all(bool(torch.isfinite(each).all()) for each in ends)


def _ranged(model: nn.Module, tried: Asked, trim: bool = False) -> Asked | None:
    """The same with whole numbers as large as the tables take that they reach; ``None``: not told.

    With ``trim``, without the columns behind the last one that a table of its own reads.
    """
    numbers = [form for form in tried.forms if form.below is not None]
    if not numbers:
        return None
    samples = max(_SAMPLES, min(_TELLING, _PLACES // max(math.prod(form.shape) for form in numbers)))
    batch = Inputs(model).padding.tidied(_noise(tried, samples))
    values = [t for t in batch.tensors() if not t.is_floating_point()]
    heard: list[tuple[Tensor, int]] = []

    def hear(module: Any, args: Any) -> None:
        if args and isinstance(args[0], Tensor):
            heard.append((args[0].detach().cpu(), module.num_embeddings))

    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
                stack.callback(module.register_forward_pre_hook(hear).remove)
        if not _runs(model, batch):
            return None
    found = tried
    for form, made in zip(numbers, [v for v in values if v.ndim], strict=False):
        below = _below(form, made, heard)
        if below is not None:
            shape = tuple(below.shape) if below.dim() and trim else form.shape
            below = below if not below.dim() or trim else torch.cat([below, _all(form)[len(below) :]])
            found = found.with_form(form, replace(form, shape=shape, below=below))
    return None if found is tried else found


def _below(form: Form, made: Tensor, heard: Sequence[tuple[Tensor, int]]) -> Tensor | None:
    """The smallest table that these numbers, or each column of them, are looked up in."""
    whole = [size for seen, size in heard if seen.shape == made.shape and bool((seen == made).all())]
    if whole:
        return torch.tensor(min(whole))
    if made.dim() != 2:
        return None
    columns = [
        [size for seen, size in heard if seen.numel() == len(made) and bool((seen.flatten() == column).all())]
        for column in made.unbind(1)
    ]
    while columns and not columns[-1]:
        columns.pop()
    known = _all(form).tolist()
    return torch.tensor([min(sizes) if sizes else known[at] for at, sizes in enumerate(columns)]) if columns else None


def _all(form: Form) -> Tensor:
    assert form.below is not None
    return form.below.expand(form.shape)
