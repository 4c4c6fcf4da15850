"""Several INC algorithms in one call, with what INC's own composition drops."""

from __future__ import annotations

import copy
from collections import OrderedDict
from itertools import product
from typing import Any

from lloydmax.errors import IntegrationError
from lloydmax.hooks import registry
from lloydmax.integrations.inc.host import NAME, BaseConfig, ComposableConfig, config_registry
from lloydmax.integrations.inc.layer import LayerConfig
from lloydmax.integrations.inc.others import layers_taken, refuse_graph_algorithm


class Composed(ComposableConfig):
    """Codebooks, and configurations of INC's own algorithms for other layers; where two match one, the later wins.

    Codebooks come first, on the original, whatever the order: the others are run on the result. INC's own class heeds
    only white lists of names, cannot be compared, and does not expand choices; where a ``CodebookConfig`` is in one, it
    becomes this class.
    """

    def get_model_info(self, model: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The layers that each configuration may be for, by its name.

        Raises:
            IntegrationError: an algorithm that cannot be combined; two codebook configurations.
        """
        if (count := [config.name for config in self.config_list].count(NAME)) > 1:
            raise IntegrationError(f"{count} CodebookConfigs are combined: make them one, by set_local")
        for config in self.config_list:
            refuse_graph_algorithm(config)
        return {config.name: config.get_model_info(model) for config in self.config_list}

    def to_config_mapping(self, config_list: Any = None, model_info: Any = None) -> OrderedDict[Any, Any]:
        """INC's ``{(layer name, type name): configuration}``, of the layers with codebooks; their entries have the
        other configurations."""
        (ours,) = (config for config in self.config_list if config.name == NAME)
        mapping = dict(ours.to_config_mapping(model_info=model_info[NAME]))
        before, after = _parted(self.config_list, ours)
        names = {name for name, _ in mapping}
        for config in before:
            if (wanted := layers_taken(config, model_info[config.name])) and wanted <= names:
                raise IntegrationError(
                    f"CodebookConfig takes every layer from the {type(config).__name__} before it: give white lists"
                )
        taken = frozenset[str]().union(*(layers_taken(config, model_info[config.name]) for config in after))
        if names <= taken:
            raise IntegrationError(
                "the later configurations take every layer from CodebookConfig: give them white lists"
            )
        others = (*before, *after)
        left = {key: leaf for key, leaf in mapping.items() if key[0] not in taken}
        return OrderedDict((key, LayerConfig(leaf.bits, leaf.root, others, taken)) for key, leaf in left.items())

    def expand(self) -> list[Composed]:
        """One composition for every combination of the members' choices."""
        return [
            Composed([copy.deepcopy(config) for config in configs])
            for configs in product(*(config.expand() for config in self.config_list))
        ]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ComposableConfig) and self.config_list == other.config_list

    __hash__ = None  # type: ignore[assignment]


def _parted(configs: list[BaseConfig], ours: BaseConfig) -> tuple[list[BaseConfig], list[BaseConfig]]:
    place = next(number for number, config in enumerate(configs) if config is ours)
    return configs[:place], configs[place + 1 :]


def adopt(composition: ComposableConfig | None) -> None:
    """Make INC's composition, in place, one that keeps what INC's drops."""
    if composition is None or isinstance(composition, Composed):
        return
    object.__setattr__(composition, "__class__", Composed)  # INC's own sets it on the members, too


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
