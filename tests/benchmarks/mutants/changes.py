"""Small changes of a source file, as the operators of cosmic-ray make them."""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cosmic_ray.plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code

Span = tuple[tuple[int, int], tuple[int, int]]
_FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


@dataclass(frozen=True)
class Change:
    """One change of one file.

    Attributes:
        file: path below the root.
        line: where it is, from 1.
        column: from 0.
        operator: of cosmic-ray.
        occurrence: which of the places where the operator applies.
        lines: of the statement that it is in, without the statements within that.
        at_import: whether the statement runs when the module is imported.
    """

    file: str
    line: int
    column: int
    operator: str
    occurrence: int
    lines: tuple[int, ...]
    at_import: bool

    @property
    def place(self) -> tuple[str, int, int, str]:
        """The same for all changes of one kind at one place: every operator for one ``+``, for example."""
        return self.file, self.line, self.column, self.operator.removeprefix("core/").split("_")[0]

    def applied(self, root: Path) -> str:
        """The source with the change."""
        operator = cosmic_ray.plugins.get_operator(self.operator)()
        changed = mutate_code((root / self.file).read_text(encoding="utf-8"), operator, self.occurrence)
        assert changed is not None, self
        return changed

    def shown(self, root: Path) -> str:
        """The lines that differ, before and after."""
        before = (root / self.file).read_text(encoding="utf-8").splitlines()
        after = self.applied(root).splitlines()
        start = next((n for n, pair in enumerate(zip(before, after, strict=False)) if pair[0] != pair[1]), len(after))
        end = 0
        while end < min(len(before), len(after)) - start and before[-1 - end] == after[-1 - end]:
            end += 1
        old, new = (" ".join(line.strip() for line in some[start : len(some) - end]) for some in (before, after))
        return f"{old}  ->  {new}"


def changes(root: Path, file: str) -> Iterator[Change]:
    """All changes of a file, but for those of annotations and ``TYPE_CHECKING`` blocks, which do nothing."""
    source = (root / file).read_text(encoding="utf-8")
    tree, nodes = ast.parse(source), list(ast_nodes(get_ast(source)))
    idle, statements = _idle(tree), _statements(tree)
    rows = source.splitlines()
    for name in cosmic_ray.plugins.operator_names():
        kind = cosmic_ray.plugins.get_operator(name)
        if kind.arguments():
            continue
        positions = (position for node in nodes for position in kind().mutation_positions(node))
        for occurrence, ((line, column), _) in enumerate(positions):
            at = line, len(rows[line - 1][:column].encode())
            if any(start <= at < end for start, end in idle):
                continue
            lines, at_import = statements.get(line, ((line,), True))
            yield Change(file, line, column, name, occurrence, lines, at_import)


def sampled(found: list[Change], count: int | None, seed: int) -> list[Change]:
    """At most one change of each :attr:`Change.place`, so many of them, drawn with the seed; ``None``: all changes."""
    if count is None:
        return found
    draw = random.Random(seed)
    shuffled = draw.sample(found, len(found))
    one = list({change.place: change for change in shuffled}.values())
    return one[:count]


def _idle(tree: ast.Module) -> list[Span]:
    """Where a change does nothing."""
    found: list[ast.AST] = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.arg, ast.AnnAssign)) and node.annotation is not None:
            found.append(node.annotation)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.returns is not None:
            found.append(node.returns)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            found.append(node)
    return [_span(node) for node in found]


def _span(node: Any) -> Span:
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def _statements(tree: ast.Module) -> dict[int, tuple[tuple[int, ...], bool]]:
    """For each line: the lines of the innermost statement on it, and whether that runs at import."""
    found: dict[int, tuple[tuple[int, ...], bool]] = {}

    def visit(node: ast.AST, at_import: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.stmt, ast.ExceptHandler, ast.match_case)):
                body = [n for name in ("body", "orelse", "finalbody", "handlers", "cases") for n in _list(child, name)]
                start = min([getattr(child, "lineno", body[0].lineno if body else 0)]
                            + [d.lineno for d in getattr(child, "decorator_list", [])])  # fmt: skip
                end = body[0].lineno - 1 if body else child.end_lineno  # type: ignore[union-attr]
                lines = tuple(range(start, max(start, end or start) + 1))
                found.update(dict.fromkeys(lines, (lines, at_import)))
            visit(child, at_import and not isinstance(child, _FUNCTION))

    visit(tree, True)
    return found


def _list(node: ast.AST, name: str) -> list[ast.stmt]:
    value = getattr(node, name, None)
    return value if isinstance(value, list) else []
