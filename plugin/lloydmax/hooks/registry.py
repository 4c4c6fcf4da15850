"""The plugin manager: who offers which quantizer, recovery step, importance or search method.

The built-in strategies are entry points of the group ``lloydmax`` like any third party's.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Any

import pluggy
from pydantic import BaseModel

from lloydmax.errors import LloydmaxError, PluginError
from lloydmax.hooks import hookspecs
from lloydmax.hooks.options import Refused, accepted, spelling_hint
from lloydmax.runtime.text import quoted

REGISTRIES = {
    "quantizer": "lloydmax_quantizers",
    "step": "lloydmax_recovery_steps",
    "importance": "lloydmax_importances",
    "search method": "lloydmax_search_methods",
}


@dataclass(frozen=True)
class Registered:
    """One registered strategy: its ``kind`` (a key of :data:`REGISTRIES`), ``name``, class and plugin."""

    kind: str
    name: str
    cls: type
    plugin: str
    distribution: str

    @property
    def options(self) -> type[BaseModel]:
        """The pydantic model of its options."""
        options: type[BaseModel] = self.cls.Options  # type: ignore[attr-defined]
        return options


@functools.cache
def manager() -> pluggy.PluginManager:
    """The one plugin manager of this process; entry points are loaded when it is first asked for.

    Raises:
        PluginError: a plugin cannot be imported, or has a hook that does not exist.
    """
    pm = pluggy.PluginManager("lloydmax")
    pm.add_hookspecs(hookspecs)
    try:
        pm.load_setuptools_entrypoints("lloydmax")
        pm.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(hook_problem(pm, error)) from error
    except Exception as error:
        raise PluginError(f"a plugin of the entry-point group 'lloydmax' cannot be loaded: {error!r}") from error
    return pm


def register(plugin: object, name: str | None = None) -> str:
    """Add a plugin object or module by hand (for notebooks and tests); returns its name.

    Raises:
        PluginError: a misspelt hook, wrong arguments, or a name that another plugin has registered; the plugin, or one
            of this name, is registered already.
    """
    pm = manager()
    known = pm.get_name(plugin) or (name if name and pm.has_plugin(name) else None)
    if known is not None:
        raise PluginError(f"a plugin {known!r} is registered already; remove that one first: unregister(plugin)")
    try:
        registered = pm.register(plugin, name)
        pm.check_pending()
        _strategies.cache_clear()
        _strategies()
    except (pluggy.PluginValidationError, PluginError, ValueError) as error:
        text = hook_problem(pm, error) if isinstance(error, pluggy.PluginValidationError) else str(error)
        if pm.is_registered(plugin):
            unregister(plugin)
        raise PluginError(text) from error
    if registered is None:
        raise PluginError(f"plugin {name!r} is blocked")
    return registered


def unregister(plugin: object) -> None:
    """Remove a plugin that :func:`register` added.

    Raises:
        PluginError: it is not registered.
    """
    if not manager().is_registered(plugin):
        raise PluginError(f"{plugin!r} is not registered")
    manager().unregister(plugin)
    _strategies.cache_clear()


def strategies() -> list[Registered]:
    """Everything that the installed plugins offer, by kind and name.

    Raises:
        PluginError: a name registered twice (both plugins are named), or a class without ``Options``.
    """
    return list(_strategies().values())


@functools.cache
def _strategies() -> dict[tuple[str, str], Registered]:
    pm = manager()
    origin = {id(plugin): dist.project_name for plugin, dist in pm.list_plugin_distinfo()}
    found: dict[tuple[str, str], Registered] = {}
    for kind, hook in REGISTRIES.items():
        for implementation in getattr(pm.hook, hook).get_hookimpls():
            plugin = implementation.plugin_name
            for name, cls in (implementation.function() or {}).items():
                if not (isinstance(cls, type) and issubclass(getattr(cls, "Options", object), BaseModel)):
                    raise PluginError(f"plugin {plugin!r}: {kind} {name!r} needs a class attribute Options (pydantic)")
                if (other := found.get((kind, name))) is not None:
                    first, second = sorted((other.plugin, plugin))
                    raise PluginError(f"{kind} {name!r} is registered by two plugins: {first!r} and {second!r}")
                source = origin.get(id(implementation.plugin), "registered in this process")
                found[kind, name] = Registered(kind, name, cls, plugin, source)
    return dict(sorted(found.items()))


def find(kind: str, name: str, error: type[LloydmaxError] = PluginError) -> Registered:
    """The strategy of this kind and name; ``error`` with the nearest spelling when there is none."""
    if not isinstance(name, str):
        raise error(f"the name of a {kind} is text, not of type {type(name).__name__}")
    registered = _strategies()
    if (entry := registered.get((kind, name))) is not None:
        return entry
    names = [entry.name for entry in registered.values() if entry.kind == kind]
    raise error(f"no {kind} is called {quoted(name)}{spelling_hint(name, names)}")


def make(kind: str, name: str, options: dict[str, Any] | BaseModel, error: type[LloydmaxError] = PluginError) -> Any:
    """Build the strategy of this kind and name with validated options.

    Raises:
        error: no such name, or options that its ``Options`` model refuses.
    """
    entry = find(kind, name, error)
    if isinstance(options, BaseModel):
        return entry.cls(options)
    try:
        return entry.cls(accepted(entry.options, options))
    except Refused as refused:
        raise error(f"{kind} {name!r}: {refused}") from None


def hook_problem(pm: pluggy.PluginManager, error: pluggy.PluginValidationError) -> str:
    """What pluggy found wrong with a plugin, with the nearest spelling of an unknown hook."""
    given = pm.get_name(error.plugin)
    plugin = type(error.plugin).__qualname__ if given in (None, str(id(error.plugin))) else given
    if unknown := re.match(r"unknown hook '(\w+)'", str(error)):
        known = [name for name in vars(hookspecs) if name.startswith("lloydmax_")]
        return f"plugin {plugin!r}: no hook is called {unknown[1]!r}{spelling_hint(unknown[1], known)}"
    return f"plugin {plugin!r}: {error}"
