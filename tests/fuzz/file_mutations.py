"""Hypothesis strategies for mutations of golden files, see :mod:`file_anatomy`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from file_anatomy import Anatomy, Step, anatomy, seed
from golden_models import CASES
from hypothesis import strategies as st
from standalone_reader import TYPES

SEEDS = [name for name in CASES for _ in range(1 if name == "pieces" else 4)]
"""Golden files; less often the large one."""
ODD_TEXT = [
    *("", " ", "a", "weight", "0", "__metadata__", "lloydmax", "\0", "\n", "a\nb", "\x1b[31mred\x1b[0m", "\x9b2J"),
    *(
        "\u202egnp",
        "[bold]",
        "[/]",
        "[red]a[/blue]",
        "[link=https://example.org]",
        "\\",
        "'",
        '"',
        "${PATH}",
        "../../x",
    ),
    *("%s%n", "{0}", "\ud800", "ß", "\U0001f600", "a" * 5000, "a." * 2000, "channel", "tensor", "group:1", "group:2"),
    *("group:0", "group:01", "group:999999999", "group:9999999999", "float32", "float16", "bfloat16", "float64"),
    *("packed", "entropy", "F32", "U8"),
]
ODD_INTEGERS = [
    *(-1, 0, 1, 2, 3, 4, 8, 9, 255, 256, 257, 65_536, 1 << 24, (1 << 24) + 1, 1 << 31, 1 << 40, 1 << 62, 1 << 63),
    *(1 << 64, -(1 << 63), 10**30, 10**400),
]
ODD_FLOATS = [0.0, -0.0, 1.0, -1.0, 0.5, 1e-05, 1e-320, 1e16, 1e22, 3.4e38, 1e308]
ODD_BYTES = [
    *("00", "ff", "80", "7f", "0000807f", "0000c07f", "000080ff", "00000080", "01000000", "ffff7f7f", "007c", "007e"),
    "fffb",
]


def scalars() -> st.SearchStrategy[Any]:
    """JSON values without parts."""
    simple = [*ODD_TEXT, *ODD_INTEGERS, *ODD_FLOATS, None, True, False]
    return st.sampled_from(simple) | st.integers() | st.floats() | st.text(max_size=8)


def values() -> st.SearchStrategy[Any]:
    """JSON values."""
    few: dict[str, Any] = {"max_size": 3}
    deep = st.integers(1, 200).map(_nested)
    branches = lambda inner: st.lists(inner, **few) | st.dictionaries(texts(), inner, **few)  # noqa: E731
    return scalars() | st.recursive(scalars(), branches, max_leaves=5) | deep


def _nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def texts() -> st.SearchStrategy[str]:
    return st.sampled_from(ODD_TEXT) | st.text(max_size=8)


@st.composite
def like(draw: st.DrawFn, value: Any) -> Any:
    """A value of the same kind, near to one that is there."""
    if isinstance(value, bool) or value is None:
        return draw(st.sampled_from([True, False, None, 0, 1]))
    if isinstance(value, int):
        near = [value - 1, value + 1, 2 * value, value // 2, -value, str(value), *ODD_INTEGERS]
        return draw(st.sampled_from(near) | st.just(float(min(value, 1 << 60))))
    if isinstance(value, float):
        return draw(
            st.sampled_from([-value, 2 * value, *ODD_FLOATS]) | st.floats(allow_nan=False, allow_infinity=False)
        )
    if isinstance(value, str):
        return draw(st.sampled_from([value + "x", value[:-1], value[1:], value + "\n", value.upper()]) | texts())
    if isinstance(value, list):
        changed = [[*value, *value], value[:-1], value[::-1], [*value, 1], [1, *value], [value], [*value[:1], *value]]
        return draw(st.sampled_from(changed))
    return draw(st.sampled_from([{}, {**value, "x": 1}, list(value), dict(list(value.items())[1:])]))


@cache
def paths(name: str) -> list[list[Any]]:
    """To every value of the document of a golden file."""
    return [path for path in _paths(anatomy(name).document) if path]


def _paths(value: Any) -> Iterator[list[Any]]:
    yield []
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from ([key, *path] for path in _paths(part))


NEW_KEYS = [
    "tied",
    "floats",
    "folded",
    "constants",
    "extra",
    "activations",
    "recipe",
    "crc32",
    "header",
    "tensors",
    "x",
]
RECORD_KEYS = {
    "dtype": ["float32", "float16", "bfloat16"],
    "granularity": ["tensor", "channel", "group:2", "group:3", "group:1000"],
    "axis": [0, 1, 2],
    "block": [1, 2, 3, 4, 8, 9],
    "coding": ["packed", "entropy"],
    "even": [True, False],
    "int8": [True, False],
    "k": [1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 255, 256, 257, 300, 1 << 24],
}
"""Legal values of the description of a parameter, which may fit or not."""


OTHER: list[Step] = [
    *(["set", ["format"], 1], ["set", ["format"], 2], ["order"], ["metadata", "more", "x"], ["metadata", "", "\x1b"]),
    *(["lie", "header"], ["lie", "label"], ["replace", ":", ": "], ["replace", '"k":', '"k":1,"k":']),
    ["replace", "[", "[ "],
]


@st.composite
def steps(draw: st.DrawFn, name: str) -> Step:
    """One structural change of a golden file."""
    parts = anatomy(name)
    often = {"document": 6, "record": 3, "mapping": 2, "tensor": 4, "other": 1}
    kind = draw(st.sampled_from([kind for kind, times in often.items() for _ in range(times)]))
    if kind == "document":
        return draw(_in_document(parts, paths(name)))
    if kind == "record":
        path = ["parameters", draw(st.sampled_from(list(parts.document["parameters"])))]
        key = draw(st.sampled_from(list(RECORD_KEYS)))
        return ["set", [*path, key], draw(st.sampled_from(RECORD_KEYS[key]))]
    if kind == "mapping":
        return draw(_mapping(parts))
    if kind == "tensor":
        return draw(_tensor(parts))
    return draw(st.sampled_from(OTHER))


@st.composite
def _in_document(draw: st.DrawFn, parts: Anatomy, places: list[list[Any]]) -> Step:
    path = draw(st.sampled_from(places))
    kind = draw(st.sampled_from(["like", "like", "value", "copy", "delete", "rename", "new", "fill"]))
    if kind == "like":
        return ["set", path, draw(like(parts.at(path)))]
    if kind == "value":
        return ["set", path, draw(values())]
    if kind == "copy":
        return ["copy", path, draw(st.sampled_from(places))]
    if kind == "delete":
        return ["delete", path]
    if kind == "rename":
        return ["rename", path, draw(texts())]
    if kind == "fill":
        return ["fill", path[:-1], draw(st.sampled_from([1, 100, 20_000])), draw(values() | st.just(parts.at(path)))]
    return ["set", [*path[:-1], draw(texts() | st.sampled_from(NEW_KEYS))], draw(values())]


@st.composite
def _mapping(draw: st.DrawFn, parts: Anatomy) -> Step:
    """A further entry of one of the mappings, of names that are there or not."""
    stored = st.sampled_from([*parts.document["parameters"], *parts.data])
    names = stored | stored.map(lambda name: name.rpartition(".")[0]) | stored.map(lambda name: f"{name}2") | texts()
    key = draw(st.sampled_from(["tied", "floats", "folded", "constants", "extra", "activations"]))
    if key == "activations":
        pair = st.tuples(st.sampled_from([1.0, 0.5, 1e-30, 1e38]), st.integers(0, 255)).map(list)
        return ["set", [key], draw(st.lists(pair, max_size=6))]
    if key not in parts.document:
        return ["set", [key], {draw(names): draw(_entry(key, names))}]
    return ["set", [key, draw(names)], draw(_entry(key, names))]


def _entry(key: str, names: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    if key == "floats":
        return st.just("float32")
    if key == "constants":
        shape = st.lists(st.sampled_from([0, 1, 2, 6, 1 << 20, 1 << 40]), max_size=4)
        element = st.sampled_from([*ODD_BYTES, "0000803f", "0" * 16])
        return st.tuples(st.sampled_from(list(TYPES)), shape, element).map(list)
    return values() if key == "extra" else names


@st.composite
def _tensor(draw: st.DrawFn, parts: Anatomy) -> Step:
    name = draw(st.sampled_from(sorted(parts.data)))
    size = len(parts.data[name])
    kinds = ["write", "write", "write", "length", "field", "name", "drop", "double", "lie", "deflate"]
    kind = draw(st.sampled_from(kinds))
    if kind == "write":
        at = draw(st.integers(0, max(0, size - 1)) | st.integers(0, size // 4).map(lambda place: 4 * place))
        return ["write", name, at, draw(st.sampled_from(ODD_BYTES) | _digits())]
    if kind == "length":
        return [
            "length",
            name,
            draw(st.sampled_from([0, 1, size - 1, size + 1, 2 * size]).filter(lambda new: new >= 0)),
        ]
    if kind == "field" and draw(st.booleans()):
        return ["field", name, "dtype", draw(st.sampled_from([*TYPES, "F4", "E8M0", "f32"]))]
    if kind == "field":
        sizes = parts.row(name)[2]
        return ["field", name, "shape", draw(like(sizes) | st.lists(st.sampled_from(ODD_INTEGERS), max_size=3))]
    if kind in ("name", "double"):
        return [kind, name, draw(st.sampled_from([f"{name}2", *parts.data]) | texts())]
    if kind == "deflate":
        return [kind, name, draw(st.integers(0, 9)), draw(st.integers(0, 4))]
    return [kind, name]


def _digits() -> st.SearchStrategy[str]:
    return st.binary(min_size=1, max_size=8).map(bytes.hex)


@st.composite
def raw_steps(draw: st.DrawFn, name: str) -> Step:
    """One change of the bytes of a file, wherever."""
    length = len(seed(name))
    wherever = st.integers(0, length)
    at = wherever | wherever | wherever | st.integers(0, 9) | st.integers(max(0, length - 9), length + 9)
    kind = draw(st.sampled_from(["flip", "flip", "cut", "insert", "over", "splice"]))
    if kind == "splice":
        return [kind, draw(st.sampled_from(SEEDS)), draw(at), draw(st.integers(0, 50_000))]
    if kind == "flip":
        return [kind, draw(at), draw(st.integers(0, 7))]
    return [kind, draw(at)] if kind == "cut" else [kind, draw(at), draw(_digits())]


@st.composite
def _damage(draw: st.DrawFn, parts: Anatomy) -> list[Step]:
    """Bytes of a tensor that change, while its checksum does not."""
    name = draw(st.sampled_from(sorted(name for name, data in parts.data.items() if data)))
    size = len(parts.data[name])
    return [["write", name, draw(st.integers(0, size - 1)), draw(_digits())], ["lie", name]]


@st.composite
def mutations(draw: st.DrawFn) -> dict[str, Any]:
    """A mutation: mostly of the structure, at times of bytes, at times of both."""
    name = draw(st.sampled_from(SEEDS))
    kind = draw(st.sampled_from([*(["steps"] * 6), "damage", "raw", "both"]))
    changes = _damage(anatomy(name)) if kind == "damage" else st.lists(steps(name), min_size=1, max_size=3)
    structural = draw(changes) if kind != "raw" else []
    raw = draw(st.lists(raw_steps(name), min_size=1, max_size=2)) if kind in ("raw", "both") else []
    return {"seed": name, "steps": structural, "raw": raw}
