"""Several INC algorithms in one call, with what INC's own composition drops."""

from __future__ import annotations

import copy
from collections import OrderedDict
from itertools import product
from typing import Any

from lloydmax.errors import IntegrationError
from lloydmax.hooks import registry
from lloydmax.integrations.inc.host import NAME, BaseConfig, ComposableConfig, config_registry


class Composed(ComposableConfig):
    """Configurations of several algorithms; where two match a layer, the later one wins.

    INC's own class heeds only white lists of names, cannot be compared, and does not expand choices.
    """

    def to_config_mapping(self, config_list: Any = None, model_info: Any = None) -> OrderedDict[Any, Any]:
        """INC's ``{(layer name, type name): configuration}``, codebooks first.

        INC's algorithms read some of their options off the last configuration, which must be one of theirs.
        """
        ours = [config for config in self.config_list if config.name == NAME]
        if len(ours) > 1:
            raise IntegrationError(f"{len(ours)} CodebookConfigs are combined: make them one, by set_local")
        mapping: dict[Any, Any] = {}
        for config in self.config_list:
            info = model_info[config.name]
            if info is None:
                raise IntegrationError(
                    f"{type(config).__name__} works on exported graphs and cannot be combined with CodebookConfig in "
                    "one call: quantize with CodebookConfig, export the result, then prepare and convert"
                )
            found = config.to_config_mapping(model_info=info)
            if not found:
                raise IntegrationError(f"{type(config).__name__} matches no layer of the model: check its white list")
            mapping |= found
        if not any(config.name == NAME for config in mapping.values()):
            raise IntegrationError(
                "the later configurations take every layer from CodebookConfig: give them white lists"
            )
        for config in ours:
            config.keep_pristine()
        return OrderedDict(sorted(mapping.items(), key=lambda item: item[1].name != NAME))

    def expand(self) -> list[Composed]:
        """One composition for every combination of the members' choices."""
        return [
            Composed([copy.deepcopy(config) for config in configs])
            for configs in product(*(config.expand() for config in self.config_list))
        ]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ComposableConfig) and self.config_list == other.config_list

    __hash__ = None  # type: ignore[assignment]


def compose(*configs: BaseConfig | dict[str, Any]) -> BaseConfig:
    """One configuration of several: ``compose({"codebook": {...}, "rtn": {...}})``, or of objects.

    Args:
        configs: configurations, or dicts of options by algorithm name; later ones win where two match a layer.

    Raises:
        IntegrationError: an algorithm that INC does not have.
    """
    registered = config_registry.get_cls_configs()["torch"]
    found: list[BaseConfig] = []
    for config in configs:
        if isinstance(config, dict):
            for name, options in config.items():
                if name not in registered:
                    hint = registry.spelling_hint(name, list(registered))
                    raise IntegrationError(f"INC has no algorithm {name!r}{hint}")
                found.append(registered[name].from_dict(options))
        else:
            found += config.config_list if isinstance(config, ComposableConfig) else [config]
    if not found:
        raise IntegrationError("nothing to compose: give configurations, or a dict of them by algorithm name")
    return found[0] if len(found) == 1 else Composed(found)
