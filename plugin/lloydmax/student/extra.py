"""Extra state: what modules keep beside parameters and buffers, by ``get_extra_state``."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from torch import nn

from lloydmax.errors import CheckpointError


def extra_states(model: nn.Module) -> dict[str, Any]:
    """The extra state of every module that has some, by name of the module.

    Raises:
        CheckpointError: one is not plain JSON data (dicts with text as keys, lists, text, finite numbers, booleans,
            ``None``), or could not be given back.
    """
    found = {}
    for name, module in model.named_modules():
        if type(module).get_extra_state is nn.Module.get_extra_state:
            continue
        state = module.get_extra_state()
        if state is None:
            continue
        if type(module).set_extra_state is nn.Module.set_extra_state:
            raise CheckpointError(
                f"module {name!r} ({type(module).__name__}) has get_extra_state, but not set_extra_state"
            )
        found[name] = _plain(name, module, state)
    return found


def set_extra_states(model: nn.Module, states: Mapping[str, Any]) -> None:
    """Give the modules of a model, in place, extra state that :func:`extra_states` found.

    Raises:
        CheckpointError: a module is missing, takes no extra state, or refuses it.
    """
    modules = dict(model.named_modules())
    for name, state in states.items():
        module = modules.get(name)
        if module is None or type(module).set_extra_state is nn.Module.set_extra_state:
            raise CheckpointError(
                f"belongs to another model: it holds extra state of module {name!r}, which takes none in this model"
            )
        try:
            module.set_extra_state(copy.deepcopy(state))
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise CheckpointError(f"module {name!r} refuses its extra state: {reason}") from error


def _plain(name: str, module: nn.Module, state: Any) -> Any:
    try:
        same = json.loads(json.dumps(state, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        same, reason = None, str(error)
    else:
        reason = "tuples, or keys that are not text"
        if same == state:
            return same
    raise CheckpointError(
        f"module {name!r} ({type(module).__name__}) keeps extra state that is not plain JSON data ({reason}): let "
        "get_extra_state give dicts with text as keys, lists, text and numbers, or keep the model by "
        "torch.save(model.state_dict(), path)"
    )
