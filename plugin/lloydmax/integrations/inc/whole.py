"""Recipes that compare whole models: those by size, and ``keep: best``. The pipeline runs as one, outside of INC's
phases, and its result takes the model's place."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from lloydmax.compress import compress
from lloydmax.data import Source
from lloydmax.integrations.inc.host import logger
from lloydmax.integrations.inc.rules import left
from lloydmax.integrations.inc.run import Run
from lloydmax.recipe.recipe import Recipe
from lloydmax.runtime.digest import model_fingerprint

REPORT = "codebook_report"
"""Attribute of the result: the :class:`lloydmax.Report`."""


def compressed(
    model: nn.Module, run: Run, source: Source | None, reference: Source | None, example_inputs: Any
) -> nn.Module:
    """The model, in place, as :func:`lloydmax.compress` makes it; its attribute ``codebook_report`` is the report.

    Args:
        model: the original.
        run: of its configuration.
        source: unlabelled inputs.
        reference: inputs of the original domain.
        example_inputs: see :func:`lloydmax.compress`.
    """
    teacher, cache = model, run.cache
    if cache is not None:  # trials have equal copies each: what is known of one holds for all
        teacher = cache.get(("original", model_fingerprint(model)), lambda: copy.deepcopy(model))
    recipe = run.recipe
    if run.config.effort is not None:
        recipe = run.config.to_recipe(teacher, source or reference)
    if run.taken:
        data = recipe.data()
        recipe = Recipe.load({**data, "quantize": [*data["quantize"], *left(run.taken)]})
    result = compress(teacher, recipe, source, reference, progress=False, example_inputs=example_inputs, cache=cache)
    for line in str(result.report).splitlines():
        logger.info("codebook: %s", line)
    student = result.model
    vars(model).clear()
    vars(model).update(vars(student))
    model.__class__ = type(student)
    vars(model)[REPORT] = result.report
    return run.dressed(model)
