"""The recipe for whoever has none: the best known combination for a model, a size, and what data there is."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from lloydmax.codebook.layout import FLOAT_DTYPES
from lloydmax.data import Source
from lloydmax.errors import RecipeError
from lloydmax.network.buffers import why_not
from lloydmax.network.layers import SMALLEST, Layer, layers_of
from lloydmax.network.merging import mergeable
from lloydmax.network.outputs import AskedOutputs, Auto, Outputs
from lloydmax.network.parameters import unfit
from lloydmax.network.private import private
from lloydmax.network.written import written
from lloydmax.recipe.recipe import Recipe
from lloydmax.recovery.options import LoopOptions
from lloydmax.recovery.steps import open_source
from lloydmax.runtime.arguments import number
from lloydmax.runtime.modes import device_of, evaluating, own_modes
from lloydmax.runtime.seeding import seeded
from lloydmax.teacher.asking import Asked, Wanted, asked
from lloydmax.teacher.consistency import views
from lloydmax.teacher.made import possible
from lloydmax.teacher.trial import trial

_CENTROIDS, _MANY_CENTROIDS = 256, 1024  # a lookup table of Core ML has at most 256
_MANY_BITS = 7  # above it entropy-coded codes gain from more of them
_LOOK, _AT_ONCE = 32, 4
"""Inputs that are looked at, and those of one pass: with no gradient they take less memory than a training of one."""
_LOOKED_AT, _POSITIONS = 128, 1 << 14  # inputs, and positions in them, by which codes are chosen anew
_CAREFUL = {"damping": 0.3, "bias": False}
"""How far codes follow made inputs that may be unlike real ones, which go together otherwise and have other means:
a quarter of what they see is white (tests/benchmarks/careful.py compares)."""
_MATCHED, _PLACES = 64, 1 << 12  # inputs, and places of their outputs, by which means and deviations are matched
_STEPS, _BATCH = 300, 32
_CHOOSING, _SHARE = 16, 0.25
"""Inputs by which the best state of training is chosen at least, and the share of few inputs that these are at most."""
_RATE, _COARSE = 1e-3, 4  # above so many bits the learning rate falls with the distance of the centroids
_MOST_EFFORT = 1e6
_STORAGE = {"floats": "fixed", "codes": "arithmetic", "norms": "merged", "layout": "tight"}


def recipe_for(
    model: nn.Module,
    bits: float = 4.0,
    data: Any = None,
    effort: float = 1.0,
    *,
    output: str | int | None = None,
    classes: int | Auto | None = "auto",
    mask: str | None = "auto",
    kinds: Any = None,
    example_inputs: Any = None,
    tokenizer: Any = None,
) -> Recipe:
    """A recipe for this model, to run as it is or to save and edit: all large weights get entropy-coded codebooks whose
    sizes follow from one price of a bit (Chou et al. 1989), chosen so that the file has ``bits``; with data, errors are
    weighed by the Fisher information of the teacher's outputs, codes make up for each other's errors, batch norms are
    re-normalized, and then codes, centroids and all that is left learn to give these outputs, and those of every block,
    on random views.

    Args:
        model: the teacher; not changed.
        bits: size of the whole file, in bits for each parameter of the model. Codebooks have at most 256 centroids, as
            Core ML asks for, or above 7 bits 1024.
        data: unlabelled inputs, as :func:`lloydmax.compress` takes them; ``None``: they are made (``synthesize``) where
            it can be told what the model takes, and nothing is trained on them.
        effort: times the usual number of steps, 300 of 32 inputs; 0: no training, 1,000,000 at most.
        output, classes, mask, kinds: of the recipe, see there.
        example_inputs: a tensor, tuple or dict with the shapes, dtypes, and if they are real ones means and
            deviations of the inputs that are made; :func:`lloydmax.compress` needs them too where there are several.
            Default: what the first layers ask for.
        tokenizer: for data that are texts, see :func:`lloydmax.compress`.

    Raises:
        RecipeError: ``bits`` is not a finite number above 0, ``effort`` not one of 0 to 1,000,000, or the model has no
            parameters to compress.
        DataError: unusable data.
    """
    bits = number("bits", bits, RecipeError, above=True)
    effort = number("effort", effort, RecipeError, most=_MOST_EFFORT)
    asked = AskedOutputs(output, classes, mask, kinds)
    said = {"output": asked.output, "classes": classes, "mask": mask, "kinds": kinds}
    model = private(model)
    with own_modes(), seeded(0, model):
        centroids = _MANY_CENTROIDS if bits > _MANY_BITS else _CENTROIDS
        rules = _rules(model, centroids)
        if not rules:
            raise RecipeError(
                f"{type(model).__name__} has no layer with at least {SMALLEST} weights: nothing to compress"
            )
        recipe: dict[str, Any] = {"version": 1, "name": f"{type(model).__name__}-{bits:g}bits", "bits": bits}
        recipe |= {key: value for key, value in said.items() if value != getattr(AskedOutputs, key)}
        source = open_source(data, model, None, 0, tokenizer=tokenizer)
        steps: list[dict[str, Any]] = []
        found = _asked(model, example_inputs) if source is None else None
        recipe |= {} if found is None else {"synthesize": _synthesize(model, found)}
        if source is not None or found is not None:
            rules = [rule | {"importance": "fisher"} for rule in rules]
            norms = any(isinstance(m, _BatchNorm) and m.track_running_stats for m in model.modules())
            matched = {"step": "match_moments", "samples": _MATCHED, "rows": _PLACES}
            steps = [{"step": "renormalize", "mode": "fast", "relative": True} if norms else matched]
            careful = _CAREFUL if found is not None and not norms and not _is_lifelike(found) else {}
            steps.insert(0, {"step": "reconstruct", "samples": _LOOKED_AT, "rows": _POSITIONS} | careful)
            if effort and source is not None:
                rate = _RATE * min(1.0, 2 ** (_COARSE - min(bits, math.log2(centroids))))
                steps.append(_training(model, source, asked, max(1, round(_STEPS * effort)), rate))
            recipe |= {"keep": "best"}
        recipe |= {"quantize": rules, "trainable": ["all"], "recover": steps}
        return Recipe.load(recipe | {"storage": _STORAGE})


def plain_recipe(model: nn.Module, bits: float = 4.0) -> Recipe:
    """What :func:`recipe_for` proposes without its steps, and without any inputs: for models that are not run. Batch
    norms stay as they are.

    Raises:
        RecipeError: as there.
    """
    bits = number("bits", bits, RecipeError, above=True)
    with own_modes():
        model = private(model, runs=False)
        rules, norms = _rules(model, _MANY_CENTROIDS if bits > _MANY_BITS else _CENTROIDS), mergeable(model)
    if not rules:
        raise RecipeError(f"{type(model).__name__} has no layer with at least {SMALLEST} weights: nothing to compress")
    recipe = {"version": 1, "name": f"{type(model).__name__}-{bits:g}bits", "bits": bits, "quantize": rules}
    return Recipe.load(recipe | {"storage": _STORAGE | ({"norms": "kept"} if norms else {})})


def _asked(model: nn.Module, example_inputs: Any) -> Asked | None:
    """The inputs that can be made; ``None``: none can be, or they are vectors whose size and mean nothing tells."""
    found = asked(model, example_inputs)
    if found is None and example_inputs is not None:
        warnings.warn(
            f"no inputs can be made from example_inputs: {type(model).__name__} does not run with inputs of their "
            "shapes, or nothing in them can be made anew; the recipe makes none",
            stacklevel=3,
        )
    return found


def _synthesize(model: nn.Module, found: Asked) -> dict[str, Any]:
    """What the recipe says of inputs that are made."""
    form = found.only
    made: dict[str, Any] = {"samples": Wanted.samples}
    kind = possible(model, found)[0]
    made |= {"kind": kind} if kind != Wanted.kind else {}
    if form is None:
        return made
    told: dict[str, Any] = {"shape": list(form.shape), "mean": form.mean, "deviation": form.deviation}
    if form.profile is not None:
        told |= {"means": list(form.profile.means), "deviations": list(form.profile.deviations)}
    told |= {"below": None if form.below is None else int(form.below.min())}
    return made | {key: value for key, value in told.items() if value is not None}


def _is_lifelike(found: Asked) -> bool:
    """Whether made inputs are known to be like real ones: words, and pictures in colours."""
    return all(form.below is not None or (form.pictures and form.width > 1) for form in found.forms)


def _rules(model: nn.Module, centroids: int) -> list[dict[str, Any]]:
    """All weights of a known layout or in large buffers, and every other large parameter or buffer by name."""
    layers = layers_of(model)
    rules: list[dict[str, Any]] = []
    if any(layer.meant(leaf) for layer in layers for leaf in layer.weights()):
        rules.append({"layers": "all", "centroids": centroids})
    others: dict[str, list[str]] = {}
    unusable, writes = unfit(model), written(model)
    for layer in layers:
        for leaf, held in layer.weights().items():
            if id(held) not in unusable and _is_large(layer, leaf, held, writes):
                others.setdefault(leaf, []).append(layer.name)
    return rules + [
        {"layers": names, "parameter": leaf, "centroids": centroids} for leaf, names in sorted(others.items())
    ]


def _is_large(layer: Layer, leaf: str, held: Tensor, writes: Collection[str]) -> bool:
    if layer.norm or layer.routes or layer.meant(leaf) or is_lazy(held):
        return False
    if leaf in layer.module._buffers and (leaf in writes or why_not(held) is not None):
        return False
    return held.dtype in FLOAT_DTYPES and held.dim() > 1 and held.numel() >= SMALLEST


def _training(model: nn.Module, source: Source, asked: AskedOutputs, steps: int, rate: float) -> dict[str, Any]:
    outputs, batch = replace(trial(model, source, asked), at_most=_AT_ONCE), source.first(_LOOK).to(device_of(model))
    with evaluating(model):
        few = next(part for _, part in outputs.parts(torch.arange(len(batch)), batch))
        found = outputs.of(few.run(model), few)
    step: dict[str, Any] = {"step": "distill", "loss": _loss(outputs, found), "features": 10.0}
    step |= {"codes": "learn", "codes_lr": rate, "lr": rate, "relative_lr": True, "optimizer": "adam"}
    step |= {"steps": steps, "batch_size": _BATCH}
    share = min(_SHARE, round(_CHOOSING / len(source), 3))
    step |= {"held_out": share} if share > LoopOptions.model_fields["held_out"].default else {}
    return step | views(model, outputs, batch)


def _loss(outputs: Outputs, found: list[Tensor]) -> str:
    """What suits the outputs: scores of classes, embeddings of length 1, or anything else."""
    if all(leaf.decides for leaf in outputs.leaves):
        return "kl"
    axes = outputs.class_axes(found)
    lengths = [o.float().norm(dim=axis) for o, axis in zip(found, axes, strict=True) if axis is not None]
    if len(lengths) == len(found) and all(bool(((length - 1).abs() < 1e-3).all()) for length in lengths):
        return "cosine"
    return "auto"
