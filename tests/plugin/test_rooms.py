"""The rooms of the house: an import goes down their list only, wherever it stands, and plugins have one door."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parent.parent.parent
HOUSE, STRATEGIES = ROOT / "plugin" / "lloydmax", ROOT / "strategies" / "lloydmax_strategies"
ROOMS = [
    *("__main__", "__init__"),
    *(
        "cli",
        "integrations",
        "demo",
        "extend",
        "moved",
        "compare",
        "compress",
        "pipeline",
        "checkpoint",
        "defaults",
        "report",
        "exporting",
        "importing",
    ),
    *("choosing", "recovery", "fitting", "plan", "format", "recipe", "student", "teacher", "progress"),
    *("hooks", "network", "codebook", "data", "native", "runtime", "errors"),
]
"""From the top down: a room may import from the rooms after it."""
MOST_ENTRIES = 34
MOST_LINES = 400
NAMELESS = ("util", "helper", "common", "misc")
DOORS = {"lloydmax", "lloydmax.extend"}
"""All that a plugin imports of the house; its own package aside."""


@pytest.fixture(scope="module")
def imports() -> grimp.ImportGraph:
    """Every import of both packages: at module level, in functions and under ``TYPE_CHECKING``."""
    return grimp.build_graph("lloydmax", "lloydmax_strategies", exclude_type_checking_imports=False, cache_dir=None)


def _arrows(graph: grimp.ImportGraph, package: str) -> Iterator[tuple[str, str]]:
    for module in sorted(graph.modules):
        if module == package or module.startswith(f"{package}."):
            yield from ((module, other) for other in sorted(graph.find_modules_directly_imported_by(module)))


def _room(module: str) -> str:
    _, _, inner = module.partition(".")
    return inner.partition(".")[0] or "__init__"


def _file(module: str) -> str:
    base = ROOT / ("strategies" if module.startswith("lloydmax_strategies") else "plugin")
    path = base.joinpath(*module.split("."))
    return str((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).relative_to(ROOT))


def test_every_room_is_on_the_list() -> None:
    found = {path.stem for path in HOUSE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert found == set(ROOMS)


def test_imports_go_down_the_list_of_rooms(imports: grimp.ImportGraph) -> None:
    up = [
        f"{_file(module)} imports {_file(other)}, a room above it"
        for module, other in _arrows(imports, "lloydmax")
        if _room(module) != _room(other) and ROOMS.index(_room(other)) < ROOMS.index(_room(module))
    ]
    assert not up, "\n".join(up)


def test_no_modules_import_each_other_in_a_circle(imports: grimp.ImportGraph) -> None:
    circles = []
    for module, other in _arrows(imports, "lloydmax"):
        back = imports.find_shortest_chain(other, module)
        if back is not None:
            circles.append(" imports ".join(map(_file, (module, *back))))
    assert not circles, "\n".join(circles)


def test_the_house_does_not_know_its_plugins(imports: grimp.ImportGraph) -> None:
    known = [
        f"{_file(module)} imports {_file(other)}"
        for module, other in _arrows(imports, "lloydmax")
        if other.startswith("lloydmax_strategies")
    ]
    assert not known, "\n".join(known)


def test_strategies_use_the_one_door(imports: grimp.ImportGraph) -> None:
    past = [
        f"{_file(module)} imports {_file(other)}: use lloydmax.extend"
        for module, other in _arrows(imports, "lloydmax_strategies")
        if not other.startswith("lloydmax_strategies") and other not in DOORS
    ]
    assert not past, "\n".join(past)


def test_the_top_of_the_house_fits_one_look() -> None:
    entries = [path for path in HOUSE.iterdir() if path.name != "__pycache__"]
    assert len(entries) <= MOST_ENTRIES


@pytest.mark.parametrize("folder", [HOUSE, STRATEGIES, ROOT / "tests"], ids=lambda folder: folder.name)
def test_no_module_is_long_or_nameless(folder: Path) -> None:
    files = [path for path in folder.rglob("*.py") if ".venv" not in path.parts]
    lines = {str(path): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {path: count for path, count in lines.items() if count > MOST_LINES} == {}
    assert [str(path) for path in files if any(word in path.stem for word in NAMELESS)] == []
