"""Modules of 0.1 by their old paths: they work for one more version, and tell where a name is now.

An import of an old module gives an empty one; a name that is asked of it is looked for in the modules that have its
names now. A path that is a room or another module today has the old names beside its own.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED = {
    "batch_norm": "network.batch_norm",
    "cache": "runtime.cache runtime.digest network.parameters",
    "channels": "network.channels",
    "checks": "recipe.checks recipe.choices recipe.sections",
    "choosing.allocation": "hooks.units",
    "choosing.budget": "recipe.search",
    "choosing.rates": "fitting.candidates",
    "choosing.sweep": "choosing.sweeping choosing.rows",
    "codebook": "codebook.codebook codebook.layout codebook.weight fitting.codebook",
    "compact": "format.compact",
    "compress": "recovery.preparation",
    "contents": "student.held format.parts",
    "data.fitness": "teacher.fitness",
    "data.spooled": "data.kept",
    "data.synthesis": "teacher.synthesis",
    "distributed": "runtime.processes",
    "document": "recipe.lines recipe.reading",
    "entries": "format.tensor_table",
    "envelope": "codebook.cheapest",
    "fileformat": "format.document",
    "fit": "fitting.fit",
    "folding": "network.folding",
    "graph": "network.graph",
    "hookspecs": "hooks.hookspecs",
    "inspection": "format.inspection",
    "int8": "codebook.integers",
    "integer": "student.int8.model student.int8.graph student.int8.weights student.int8.fx.qconfigs codebook.grid",
    "integrations.torch_ao.fx": "student.int8.fx.backend",
    "integrations.torch_ao.host": "student.int8.fx.host",
    "jsonlog": "progress.jsonlog",
    "layers": "student.layers",
    "meta": "network.meta",
    "models": "cli.models",
    "norms": "network.merging",
    "outputs": "network.outputs network.trees teacher.agreement teacher.kept teacher.fisher",
    "packing": "format.packing",
    "plan": "plan.plan",
    "planned": "plan.parameter",
    "plugins": "hooks.registry hooks.options",
    "progress": "progress.bars",
    "reader": "format.reader",
    "recipe": "recipe.recipe recipe.sections",
    "recovery": "recovery.steps",
    "reference": "recipe.reference",
    "report.history": "progress.history",
    "report.report": "report.figures",
    "resume": "recovery.resume runtime.state",
    "rounding": "format.rounding",
    "running": "student.kernels",
    "schema": "recipe.schema runtime.files",
    "seeding": "runtime.seeding",
    "selection": "plan.selection network.layers",
    "sizes": "format.sizes",
    "stored": "format.record",
    "strategy": "extend hooks.protocols hooks.events",
    "student": "student.attachment network.parameters",
    "tables": "runtime.text plan.table report.terminal demo.table teacher.fitness_table",
    "textfile": "runtime.files",
    "thresholds": "student.thresholds",
    "trainable": "plan.trainable",
}
"""Old module -> the modules that have its names now, in the order in which they are asked; all below ``lloydmax``."""

RENAMED = {
    ("choosing.rates", "priced"): "chosen",
    ("document", "Document"): "LinedData",
    ("document", "read_document"): "read_lined",
    ("envelope", "envelope"): "cheapest",
    ("integer", "IntegerModel"): "Int8Model",
    ("outputs", "Yardstick"): "Comparison",
    ("plugins", "nearest"): "spelling_hint",
    ("resume", "Progress"): "KeptSteps",
    ("stored", "Parameter"): "ParameterRecord",
}
"""Names that are others now."""


def keep_old_paths() -> None:
    """Make the old modules importable, and let the modules that are loaded have the names that were theirs."""
    if _finder in sys.meta_path:
        return
    sys.meta_path.append(_finder)
    for old in ("", *MOVED):
        if (module := sys.modules.get(_full(old))) is not None:
            _Old(old).give_to(module)


class _Finder(MetaPathFinder, Loader):
    """Asked where no other finder knows a module: knows those that are gone."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        """A module without a file."""
        old = fullname.removeprefix("lloydmax.")
        return ModuleSpec(fullname, self) if fullname.startswith("lloydmax.") and old in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        """It has nothing of its own."""
        _Old(module.__name__.removeprefix("lloydmax.")).give_to(module)


_finder = _Finder()


class _Old:
    """The names of an old module; under the name ``""`` the old modules themselves, as attributes of the package."""

    def __init__(self, name: str) -> None:
        self.name = name

    def give_to(self, module: ModuleType) -> None:
        """Let this module have the names from now on."""
        if getattr(module, "__file__", None) is None:
            module.__all__ = list(self.names())  # type: ignore[attr-defined]
        setattr(module, "__getattr__", self.find)  # noqa: B010

    def names(self) -> Iterator[str]:
        """What an import of everything gives: what its homes define themselves."""
        old = {now: name for (module, name), now in RENAMED.items() if module == self.name}
        for home in map(_full, MOVED.get(self.name, "").split()):
            for name, found in vars(import_module(home)).items():
                if not name.startswith("_") and getattr(found, "__module__", None) == home:
                    yield old.get(name, name)

    def find(self, name: str) -> Any:
        """The thing of this name; a module's ``__getattr__``."""
        inner = f"{self.name}.{name}".removeprefix(".")
        if inner in MOVED:
            return import_module(_full(inner))
        renamed = RENAMED.get((self.name, name), name)
        for home in MOVED.get(self.name, "").split() if not name.startswith("_") else ():
            if (found := vars(import_module(_full(home))).get(renamed)) is not None:
                doors = (door for door in ("", "extend") if vars(import_module(_full(door))).get(renamed) is found)
                now = f"{_full(next(doors, home))}.{renamed}"
                warnings.warn(
                    f"{_full(inner)} is {now} now; the old path goes away in the next version",
                    DeprecationWarning,
                    stacklevel=2,
                )
                return found
        raise AttributeError(f"module {_full(self.name)!r} has no attribute {name!r}")


def _full(name: str) -> str:
    return f"lloydmax.{name}".removesuffix(".")
