"""The configurations of INC's own algorithms as plain data."""

from __future__ import annotations

import copy
from typing import Any

from lloydmax.errors import IntegrationError
from lloydmax.integrations.inc.host import BaseConfig


def plain_others(others: Any) -> dict[str, Any] | None:
    """Other algorithms' options as plain data, with what INC's own ``to_dict`` loses: white lists."""
    if others is None or isinstance(others, dict):
        return copy.deepcopy(others)
    if not isinstance(others, BaseConfig):
        raise IntegrationError(f"others is an INC configuration or a dict such as {{'rtn': {{...}}}}, not {others!r}")
    return {config.name: _plain_other(config) for config in getattr(others, "config_list", [others])}


def _plain_other(config: BaseConfig) -> dict[str, Any]:
    listed = config.white_list if isinstance(config.white_list, list) else []
    local = {key: _parameters(c) for key, c in config.local_config.items() if key not in listed}
    if not all(isinstance(key, str) for key in (*listed, *local)) or (listed and local):
        raise IntegrationError(
            f"the {type(config).__name__} in others has a white list of types, or one besides local configurations: "
            "list the names of its layers"
        )
    own = _parameters(config) | ({"white_list": listed} if listed else {})
    return {"global": own, "local": local} if local else own


def _parameters(config: BaseConfig) -> dict[str, Any]:
    found = copy.deepcopy(config.get_params_dict())
    return {key: value for key, value in found.items() if not key.startswith("_") and key != "non_tunable_params"}
