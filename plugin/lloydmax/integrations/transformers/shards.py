"""A transformers folder compressed from its files, one parameter after the other: the model is never held."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lloydmax.defaults import plain_recipe
from lloydmax.errors import IntegrationError, RecipeError
from lloydmax.fitting.streamed import fitted, priced
from lloydmax.format.folder import IN_FOLDER
from lloydmax.format.parts import new_document, storage_options
from lloydmax.format.streaming import streamed
from lloydmax.hooks.events import Events
from lloydmax.integrations.transformers.converted import converted
from lloydmax.integrations.transformers.folder import compressed_beside, is_compressed
from lloydmax.integrations.transformers.mapped import MappedWeights, fill
from lloydmax.integrations.transformers.skeleton import skeleton
from lloydmax.network.merging import mergeable
from lloydmax.network.parameters import weight_of
from lloydmax.network.private import private
from lloydmax.plan.plan import Plan
from lloydmax.plan.plan import plan as make_plan
from lloydmax.recipe.recipe import Recipe
from lloydmax.recovery.steps import running
from lloydmax.runtime.files import path_of, shown
from lloydmax.runtime.folders import new_folder
from lloydmax.runtime.mapped import Mapped
from lloydmax.runtime.modes import own_modes
from lloydmax.runtime.seeding import check_seed
from lloydmax.student.held import contents

_LESS, _MOST_LESS = 2e-3, 5e-3
"""Share of the size that is left free where the file came out too large, and where it is taken as it comes."""


@dataclass(frozen=True)
class CompressedFolder:
    """What :func:`compress_folder` made.

    Attributes:
        path: the folder.
        original: bytes of the weights before.
        file: bytes of the compressed file.
        plan: what was planned, with the price of a bit in every parameter's options.
    """

    path: Path
    original: int
    file: int
    plan: Plan


class _TooLarge(Exception):
    """The file has more bytes than asked for."""


def compress_folder(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    recipe: Any = None,
    *,
    bits: float | None = None,
    progress: bool = True,
    listeners: Sequence[object] = (),
) -> CompressedFolder:
    """Compress the model in a transformers folder without inputs and without training, from its files to another
    folder, which ``from_pretrained`` takes. Memory is needed for the codes of the largest parameter and for samples of
    the others; the file is the same as that of the model in memory with the same codebooks. What a folder has in parts
    that the model holds as one (the experts of a layer) is joined in a temporary file beside ``out``.

    Args:
        path: of the folder, with ``config.json`` and weights, safetensors or ``pytorch_model.bin``, in one file or in
            shards.
        out: of the new folder, which must not exist, or be empty.
        recipe: anything that :meth:`lloydmax.Recipe.load` takes, without what needs inputs.
        bits: in place of a recipe: size of the file, in bits for each parameter.
        progress: show progress on stderr.
        listeners: as for :func:`lloydmax.compress`.

    Raises:
        IntegrationError: the folder holds no such model, or a compressed one; both or neither of recipe and bits.
        RecipeError: the recipe needs inputs or training. BudgetError: ``bits`` that nothing can reach. OutputError: the
            folder cannot be written. FitError: no codebook can be fitted to a parameter.
    """
    source = path_of(path, IntegrationError)
    if (recipe is None) == (bits is None):
        raise IntegrationError("compress_folder takes bits, such as bits=3, or a recipe, one of the two")
    if is_compressed(source):
        raise IntegrationError(f"{shown(path)}: holds a compressed model: give the folder of the original")
    with own_modes(), new_folder(out) as folder, closing(Mapped(folder.parent, "joined")) as joined:
        weights, model = MappedWeights(source), skeleton(source)

        def let_go() -> None:
            weights.let_go()
            joined.let_go()

        if unused := fill(model, converted(model, weights.tensors, joined, let_go)):
            warnings.warn(
                f"{shown(path)}: {type(model).__name__} has no place for {len(unused)} tensors, which are left out, "
                f"such as {unused[0]}",
                stacklevel=2,
            )
        tree = private(model, runs=False)
        made = plain_recipe(tree, bits) if bits is not None else Recipe.load(recipe)
        _refuse(made, tree)
        with running(tree, check_seed(made.seed), progress, listeners) as events:
            plan = make_plan(tree, made)
            let_go()
            plan, size = _written(folder / IN_FOLDER, tree, plan, events, let_go)
        compressed_beside(source, folder, {} if bits is None else {"bits": bits})
    return CompressedFolder(Path(out), plan.original_bytes, size, plan)


def _refuse(recipe: Recipe, model: nn.Module) -> None:
    """Refuse a recipe with more than codebooks, and a model whose layers depend on each other in the file."""
    steps = [step.step for step in recipe.recover]
    if steps or recipe.activations is not None or any(rule.importance for rule in recipe.quantize):
        what = f"the step {steps[0]!r}" if steps else "what is in it"
        raise RecipeError(
            f"{recipe.at('recover' if steps else 'quantize')}: {what} needs the whole model and inputs: leave it out, "
            "or compress the model in memory"
        )
    if recipe.storage.norms == "merged" and (norms := mergeable(model)):
        raise RecipeError(
            f"{recipe.at('storage')}: norms: merged, and {next(iter(norms))!r} is a batch norm, which is not merged "
            "from files: write norms: kept"
        )


def _written(path: Path, model: nn.Module, plan: Plan, events: Events, let_go: Callable[[], None]) -> tuple[Plan, int]:
    """Write the file, in the size that the recipe names; the plan as it became, and the bytes."""
    if plan.recipe.bits is None:
        return plan, _fitted(path, model, plan, events, let_go)
    less = 0.0
    while True:
        asked = priced(model, plan, less, events, let_go)
        try:
            most = plan.predicted_bytes if less < _MOST_LESS else None
            return asked, _fitted(path, model, asked, events, let_go, most)
        except _TooLarge:
            less += _LESS


def _own(value: Tensor) -> Tensor:
    """A copy, a parameter where it is one."""
    copy = value.detach().clone()
    return nn.Parameter(copy, requires_grad=False) if isinstance(value, nn.Parameter) else copy


def _fitted(
    path: Path, model: nn.Module, plan: Plan, events: Events, let_go: Callable[[], None], most: int | None = None
) -> int:
    """The same at the prices of a plan.

    Raises:
        _TooLarge: the file would have more than ``most`` bytes.
    """
    values, tied = contents(model)
    storage = storage_options(plan.recipe.storage)
    document = new_document({}, tied, plan.recipe.data(), model, storage)
    with streamed(path, document, storage, plan.predicted_bytes) as file:
        done, total = 0, len(plan.parameters)
        with events.stage("fit", total=total):
            for name, value in values.items():
                if (p := plan.parameters.get(name)) is None:
                    file.add(name, _own(value))  # type: ignore[arg-type]
                    continue
                codebook, done = fitted(p, weight_of(model, name)), done + 1
                file.add(name, codebook)
                let_go()
                events.fitted(name, codebook, done, total)
        if most is not None and file.size() > most:
            raise _TooLarge
    return path.stat().st_size
