"""The names that docstrings refer to, such as ``:func:`lloydmax.compress```: each has to be there.

    python tests/pages/references.py        # prints the broken ones; status 1 if there are any

Nothing is imported: names are those that the sources define, so that no host has to be installed.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = (ROOT / "plugin", ROOT / "strategies")
FOREIGN = {*sys.stdlib_module_names, "numpy", "torch", "transformers"}
"""Packages whose names are not looked up."""
_ROLE = re.compile(r":(?:func|meth|class|data|attr|mod|exc):`~?([\w.]+)`")


class Module:
    """One source file: the names that it defines or imports, and those of its classes."""

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.path = name, path

    @cached_property
    def tree(self) -> ast.Module:
        """Its syntax tree."""
        return ast.parse(self.path.read_text(encoding="utf-8"))

    @cached_property
    def names(self) -> set[str]:
        """What it defines or imports at its top, within ``if`` and ``try``, too."""
        return set(_defined(self.tree.body))

    @cached_property
    def classes(self) -> dict[str, set[str]]:
        """Its classes, with the names of their bases and of what they define."""
        return {
            node.name: {*_defined(node.body), *(base.id for base in node.bases if isinstance(base, ast.Name))}
            for node in ast.walk(self.tree)
            if isinstance(node, ast.ClassDef)
        }

    def docstrings(self) -> Iterator[tuple[int, str]]:
        """The texts of its docstrings, of values, too, with the line at which each begins."""
        for node in ast.walk(self.tree):
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                yield node.lineno, node.value.value


def _defined(body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
            if node.name == "__init__":
                yield from (part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute))
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name))
        elif isinstance(node, (ast.If, ast.Try, ast.With)):
            yield from _defined(node.body)
            yield from _defined(getattr(node, "orelse", []))


def modules() -> dict[str, Module]:
    """Every module of the packages, by its dotted name."""
    found = {}
    for source in SOURCES:
        for path in sorted(source.rglob("*.py")):
            parts = path.relative_to(source).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = Module(name, path)
    return found


def broken() -> list[str]:
    """A line for each reference to a name that is not there."""
    known = modules()
    members: dict[str, set[str]] = {}
    for one in known.values():
        for name, own in one.classes.items():
            members[name] = members.get(name, set()) | own
    return [
        f"{module.path.relative_to(ROOT)}:{line}: {target}"
        for module in known.values()
        for line, text in module.docstrings()
        for target in _ROLE.findall(text)
        if not _is_there(target, module, known, members)
    ]


def _is_there(target: str, module: Module, known: dict[str, Module], members: dict[str, set[str]]) -> bool:
    *first, last = target.split(".")
    if target in known or (first and first[0] in FOREIGN):
        return True
    if first and first[-1] in members:
        return any(last in names for names in _with_bases(first[-1], members))
    if first:  # in a module, by its whole name, or by the one under which it is imported
        place = ".".join(first)
        ends = [
            one
            for name, one in known.items()
            if name == place or (name.endswith(f".{place}") and place in module.names)
        ]
        return any(last in one.names for one in ends)
    return last in module.names or any(last in names for own in module.classes for names in _with_bases(own, members))


def _with_bases(name: str, members: dict[str, set[str]], seen: frozenset[str] = frozenset()) -> Iterator[set[str]]:
    if name in members and name not in seen:
        yield members[name]
        for base in members[name]:
            yield from _with_bases(base, members, seen | {name})


if __name__ == "__main__":
    found = broken()
    print("\n".join(found))
    sys.exit(bool(found))
