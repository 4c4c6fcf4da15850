"""``CodebookConfig``: a lloydmax recipe in the form of an INC configuration."""

from __future__ import annotations

import copy
import json
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import yaml
from torch import nn

from lloydmax.codebook.layout import code_bits
from lloydmax.data import Source
from lloydmax.errors import IntegrationError, RecipeError
from lloydmax.integrations.computed import refuse_computed
from lloydmax.integrations.inc.choices import choices, refuse_many
from lloydmax.integrations.inc.composition import Composed, adopt
from lloydmax.integrations.inc.fields import DEFAULTS, RULE, WHOLE
from lloydmax.integrations.inc.host import DEFAULT_WHITE_LIST, NAME, BaseConfig, ComposableConfig, ProcessorType, asking
from lloydmax.integrations.inc.layer import LayerConfig
from lloydmax.integrations.inc.names import key_of
from lloydmax.integrations.inc.others import plain_others
from lloydmax.integrations.inc.reading import from_json, from_yaml
from lloydmax.integrations.inc.rules import as_list, assembled, recipe_of, rules_for
from lloydmax.integrations.inc.static import refuse_graphs
from lloydmax.integrations.inc.tuning import Trials
from lloydmax.integrations.inc.words import asked, translated
from lloydmax.plan.plan import Plan, quiet_plan
from lloydmax.recipe.recipe import Recipe
from lloydmax.runtime.files import write_text

RUN = "_codebook_run"
"""Attribute of a prepared model: the compression in progress."""


class CodebookConfig(BaseConfig):
    """K-means codebooks, and recovery without labels, for INC's ``quantize``, ``prepare`` and ``autotune``.

    ``CodebookConfig(bits=4, data=loader)`` is the best that is known for a size: what :func:`lloydmax.recipe_for` does.

    Args:
        centroids: of each weight's codebook, from 1. ``None``: what ``recipe`` says.
        bias_centroids: of each bias's codebook; ``None``: biases stay as they are (locally: as globally).
        granularity: what shares a codebook: ``tensor``, ``channel`` or ``group:N``.
        quantizer: a registered quantizer; ``none`` leaves the weights as they are.
        importance: a registered importance; needs data in ``quantize``.
        trainable: what recovery may train, as in a recipe: one word or a list of them.
        recover: recovery steps, as in a recipe: a name, ``{"step": name, ...}``, or a list of these.
        storage: as in a recipe: ``{"floats": ..., "codes": ...}``.
        seed: of all randomness.
        others: INC's own algorithms for the rest of the model, run afterwards: a configuration or a dict such as
            ``{"rtn": {"bits": 8}}``.
        recipe: a recipe (path, text, dict, ...) whose rules come before this configuration's own.
        white_list: layer names (see :meth:`set_local`) and module types to restrict it to.
        bits: without ``data`` and ``effort``: of a code, so that there are ``2**bits`` centroids. With one of them: of
            the whole file for each parameter of the model, which decides everything else.
        data: unlabelled inputs, as :func:`lloydmax.compress` takes them; also those of ``run_args`` and ``run_fn``.
        effort: times the usual training, see :func:`lloydmax.recipe_for`; 1 where there are data.
        quant_lm_head: ``False``: leave the heads of language models as they are, as INC's algorithms do by themselves.
        options: further options of the quantizer, or INC's own words: ``dtype="int4"`` or ``"fp32"``,
            ``group_size=-1`` ... Those that mean nothing for codebooks are refused, with what to write.

    A list in place of one value of ``centroids``, ``bits``, ``effort``, ``bias_centroids``, ``granularity``, an option
    of the quantizer or of a recovery step is a choice for ``autotune``.

    Raises:
        RecipeError: an unknown key, with the nearest spelling, or a value out of range.
    """

    name = NAME
    params_list: list[str] = []  # noqa: RUF012 (INC's own protocol)
    supported_configs: list[Any] = []  # noqa: RUF012

    def __init__(
        self,
        centroids: int | list[int] | None = 16,
        bias_centroids: int | list[int] | None = None,
        granularity: str | list[str] = "tensor",
        quantizer: str = "kmeans",
        importance: str | None = None,
        trainable: str | list[str] | None = "unquantized",
        recover: Any = None,
        storage: dict[str, str] | None = None,
        seed: int | None = 0,
        others: Any = None,
        recipe: Any = None,
        white_list: Any = DEFAULT_WHITE_LIST,
        bits: float | list[float] | None = None,
        data: Any = None,
        effort: float | list[float] | None = None,
        quant_lm_head: bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__(white_list=white_list)
        given = {"centroids": centroids, "bias_centroids": bias_centroids, "granularity": granularity}
        given |= {"quantizer": quantizer, "importance": importance}
        self.bits, self.effort, words = asked(bits, data, effort, {**given, "recover": recover, "recipe": recipe})
        given |= translated(words | options, given)
        for field in RULE:
            setattr(self, field, given.pop(field))
        self.options = given
        self.data, self.quant_lm_head = data, quant_lm_head
        self.trainable, self.recover, self.storage, self.seed = trainable, recover, storage, seed
        self.others = plain_others(others)
        self.recipe = None if recipe is None else Recipe.load(recipe).data()
        self.trials: Trials | None = None
        self.planned: Plan | None = None
        self._info: list[tuple[str, str]] = []
        self._bits: dict[str, int] = {}
        if isinstance(white_list, (list, tuple)):
            self._white_list = [key_of(item) for item in white_list]
        elif white_list != DEFAULT_WHITE_LIST:
            raise IntegrationError(
                f"white_list is {DEFAULT_WHITE_LIST!r} or a list of names and module types, not {white_list!r}"
            )
        self._recipe()

    # from and to recipes

    @classmethod
    def from_recipe(cls, recipe: Any, **changes: Any) -> CodebookConfig:
        """A configuration that does what a recipe says.

        Args:
            recipe: anything that :meth:`lloydmax.Recipe.load` takes.
            changes: arguments of :class:`CodebookConfig` to set besides, such as ``others``.
        """
        nothing = {"centroids": None, "trainable": None, "seed": None}
        return cls(**{**nothing, **changes, "recipe": recipe})

    def to_recipe(self, model: nn.Module | None = None, data: Source | None = None) -> Recipe:
        """The recipe that this configuration stands for (``others`` is not part of it).

        Args:
            model: where given, patterns are resolved to the names of its layers.
            data: unlabelled inputs, with ``bits`` and ``effort``; default: the configuration's own.

        Raises:
            RecipeError: a pattern that matches no layer, or that no recipe can express without the model.
        """
        return recipe_of(self, model, self.data if data is None else data)

    def _recipe(self) -> Recipe:
        """What there is to check and to choose without a model."""
        base = self.recipe or {"version": 1, "name": NAME}
        if self.effort is not None:
            base = base | {"quantize": [{"layers": "all"}]}
        return assembled(self, copy.deepcopy(base), rules_for(self, ["all"]))

    # plain data

    def to_dict(self) -> dict[str, Any]:
        """The configuration as JSON-able data; :meth:`from_dict` gives it back whole, but for ``data``."""
        whole = self._values(WHOLE) | {"white_list": self._white_list}
        own = {**self._values(RULE), **self.options, **{k: v for k, v in whole.items() if v != DEFAULTS[k]}}
        if not self.local_config:
            return own
        local = {key: {**c._values(RULE), **c.options} for key, c in self.local_config.items()}
        return {"global": own, "local": local}

    def _values(self, names: Sequence[str]) -> dict[str, Any]:
        return {name: copy.deepcopy(getattr(self, name)) for name in names}

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any]) -> CodebookConfig:
        """Read what :meth:`to_dict` gives: flat, or with the keys ``global`` and ``local``; ``{"codebook": ...}``, too.

        Raises:
            RecipeError: unknown keys or wrong values.
        """
        given = dict(config_dict)
        if set(given) == {NAME}:
            given = dict(given[NAME])
        data = given.pop("data", None)
        given = copy.deepcopy(given)
        flat = {key: value for key, value in given.items() if key not in ("global", "local")}
        config = cls(**{**given.get("global", {}), **flat, "data": data})
        if "global" not in given and not flat and given.get("local"):
            config._white_list = []
        for key, local in given.get("local", {}).items():
            config.set_local(key, cls(**local))
        return config

    @classmethod
    def from_json_file(cls, filename: str) -> CodebookConfig:
        """Read a file that ``to_json_file`` wrote."""
        return cls.from_dict(from_json(filename))

    @classmethod
    def from_yaml_file(cls, filename: str) -> CodebookConfig:
        """Read a file that :meth:`to_yaml_file` wrote."""
        return cls.from_dict(from_yaml(filename))

    def to_yaml_file(self, filename: str) -> None:
        """Write :meth:`to_dict` as YAML."""
        write_text(filename, yaml.safe_dump(self.to_dict(), sort_keys=False))

    def to_json_file(self, filename: str) -> None:
        """Write :meth:`to_dict` as JSON."""
        write_text(filename, self.to_json_string())

    def to_json_string(self, use_diff: bool = False) -> str:
        """The configuration as JSON; ``use_diff`` has no effect."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def __eq__(self, other: object) -> bool:
        """Compared by content; a trial of a tuning set equals only itself, so that INC skips none of them."""
        if not isinstance(other, CodebookConfig):
            return False
        if self.trials is not None or other.trials is not None:
            return self is other
        return self.to_dict() == other.to_dict() and self.data is other.data

    __hash__ = None  # type: ignore[assignment]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "trials": None, "planned": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> CodebookConfig:
        twin = type(self).from_dict(self.to_dict())
        twin.trials, twin.data = self.trials, self.data
        return twin

    # local configurations

    @property
    def global_config(self) -> CodebookConfig | None:
        """This configuration, if it is for all layers."""
        return self if self._white_list == DEFAULT_WHITE_LIST else None

    def set_local(self, operator_name_or_list: Any, config: BaseConfig) -> CodebookConfig:
        """Another configuration for some layers; names win over types, later names over earlier ones.

        Args:
            operator_name_or_list: a layer's name, a regular expression that matches full names, or as in INC one that
                matches how names begin (``"layer1"``: all in it); a module type or its name; or a list.
            config: its rule counts: centroids, granularity and the other options of the quantizer.

        Raises:
            IntegrationError: the configuration is another algorithm's, or sets what only a whole model can have.
        """
        if not isinstance(config, CodebookConfig):
            raise IntegrationError(
                f"set_local of CodebookConfig takes a CodebookConfig, not a {type(config).__name__}: combine "
                "algorithms by compose(...); leave a layer as it is by CodebookConfig(dtype='fp32')"
            )
        whole = [name for name in WHOLE if getattr(config, name) != DEFAULTS[name]]
        if whole or config.local_config or config._white_list != DEFAULT_WHITE_LIST:
            raise IntegrationError(
                f"{', '.join(whole) or 'a white list'} cannot be set for single layers: set it on the "
                "configuration that set_local is called on"
            )
        for key in map(key_of, as_list(operator_name_or_list)):
            self.local_config[key] = config
        return self

    def __add__(self, other: BaseConfig) -> BaseConfig:
        """The two combined: algorithms become a composition; of two codebook configurations, the first takes the
        local ones of the second."""
        if not isinstance(other, CodebookConfig):
            return Composed([self, *(other.config_list if isinstance(other, ComposableConfig) else [other])])
        if other == self:
            raise IntegrationError(
                "a CodebookConfig is added to an equal one. INC reads only the first entry of a dict of several "
                "algorithms: use lloydmax.integrations.inc.compose({...})"
            )
        if other.global_config is not None:
            raise IntegrationError("only one of two added CodebookConfigs can be for all layers: give a white_list")
        twin = copy.deepcopy(self)
        for key in other._white_list if isinstance(other._white_list, list) else []:
            rule: dict[str, Any] = {**other._values(RULE), **other.options}
            twin.set_local(key, CodebookConfig(**rule))
        for key, config in other.local_config.items():
            twin.set_local(key, config)
        return twin

    @property
    def config_list(self) -> list[BaseConfig]:
        """Only compositions have one. INC's looks for it in its members: the moment to make it one of ours.

        Raises:
            AttributeError: always.
        """
        adopt(asking(ComposableConfig))
        raise AttributeError("config_list")

    # tuning

    def expand(self) -> list[CodebookConfig]:
        """One configuration for every combination of choices, global and local; equal ones once.

        Raises:
            RecipeError: there are too many to try.
        """
        places = choices(self.to_dict(), self._recipe())
        refuse_many(places)
        trials: list[CodebookConfig] = []
        for values in product(*places.values()):
            data = self.to_dict()
            for where, value in zip(places, values, strict=True):
                inner: Any = data
                for part in where[:-1]:
                    inner = inner[part]
                inner[where[-1]] = value
            trial = CodebookConfig.from_dict({**data, "data": self.data})
            if all(trial.to_dict() != known.to_dict() for known in trials):
                trials.append(trial)
        shared = Trials(self)
        for trial in trials:
            trial.trials = shared
        return trials

    @classmethod
    def get_config_set_for_tuning(cls) -> CodebookConfig:
        """What INC's ``get_all_config_set`` tries of codebooks."""
        return cls(centroids=[256, 32, 16])

    @classmethod
    def get_predefined_configs(cls) -> dict[ProcessorType, CodebookConfig]:
        """The default for each kind of processor, as INC's own configurations have them: the same for all."""
        return {kind: cls() for kind in ProcessorType}

    @classmethod
    def register_supported_configs(cls) -> None:
        """INC's protocol; nothing to add."""

    def __iter__(self) -> Iterator[CodebookConfig]:
        """Itself alone: INC iterates over the single configuration of ``TuningConfig(config_set=config)``."""
        yield self

    # INC's view of a model

    def plan(self, model: nn.Module, example_inputs: Any = None) -> Plan:
        """What this configuration means for a model; see :func:`lloydmax.plan`. ``quantize`` warns of what it skips.

        With ``bits`` and ``effort``, the number of centroids is only the largest that there may be.
        """
        plan = quiet_plan(model, recipe_of(self, model, runs=False), example_inputs)
        if not plan.parameters:
            raise RecipeError(f"the configuration leaves every layer of {type(model).__name__} as it is")
        refuse_computed(model, plan, "Intel Neural Compressor")
        return plan

    def get_model_info(self, model: Any, *args: Any, **kwargs: Any) -> list[tuple[str, str]]:
        """``[(layer name, type name)]`` of the layers that get codebooks; the same before and after ``prepare``."""
        refuse_graphs(model)
        adopt(asking(ComposableConfig))
        run = vars(model).get(RUN)
        found = self.planned = run.plan if run is not None else self.plan(model)
        self._bits, self._info = {}, []
        for p in found.parameters.values():
            for name in (p.name, *p.tied):
                layer = name.rpartition(".")[0]
                if layer not in self._bits:
                    self._info.append((layer, p.layer))
                self._bits[layer] = max(self._bits.get(layer, 0), code_bits(p.centroids))
        return self._info

    def to_config_mapping(
        self, config_list: Any = None, model_info: list[tuple[str, str]] | None = None
    ) -> OrderedDict[tuple[str, str], LayerConfig]:
        """INC's ``{(layer name, type name): configuration}``."""
        info = model_info or self._info
        return OrderedDict((key, LayerConfig(self._bits.get(key[0], 8), self)) for key in info)
