"""The tensors of a folder as a model of transformers has them in memory: renamed, and what it fuses (the experts of a
layer, for one) joined, by transformers' own rules."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from lloydmax.integrations.transformers.host import (
    WeightConverter,
    WeightRenaming,
    get_model_conversion_mapping,
    rename_source_key,
)
from lloydmax.runtime.mapped import Mapped


def converted(
    model: Any, tensors: Mapping[str, Tensor], joined: Mapped, let_go: Callable[[], None]
) -> dict[str, Tensor]:
    """The same tensors under the names of the model.

    Args:
        model: of transformers, without memory.
        tensors: under the names of a folder; what has no other form in the model is taken as it is.
        joined: where what is made of several tensors lies, one after the other.
        let_go: called once some were read.
    """
    wanted = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    by_pattern = {pattern: rule for rule in converters for pattern in rule.source_patterns}
    prefix, found, open_rules = model.base_model_prefix, dict[str, Tensor](), dict[str, Any]()
    for name in sorted(tensors, key=_natural):
        own, pattern = rename_source_key(name, renamings, converters, prefix, wanted)
        if own not in wanted and name in wanted:
            own, pattern = name, None
        if pattern is None:
            found[own] = tensors[name]
            continue
        rule = open_rules.setdefault(own, copy.deepcopy(by_pattern[pattern]))
        rule.add_tensor(own, name, pattern, tensors[name])
    for own, rule in open_rules.items():
        made = rule.convert(own, model=model, config=model.config)
        for name, value in made.items():
            found[name] = _kept(value[0] if isinstance(value, list) else value, joined)
        del made
        joined.let_go()
        let_go()
    return found


def _natural(name: str) -> list[tuple[bool, int | str]]:
    """By numbers, not by their digits: the tenth expert comes after the second."""
    return [(not part.isdigit(), int(part) if part.isdigit() else part) for part in name.split(".")]


def _kept(value: Tensor, joined: Mapped) -> Tensor:
    place = joined.take(value.nbytes).view(value.dtype).view(value.shape)
    return place.copy_(value)
