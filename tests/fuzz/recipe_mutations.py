"""Hypothesis strategies for recipes of strangers: ready ones, and those of the pages, changed as text, as bytes and as
data."""

from __future__ import annotations

import copy
import re
from decimal import Decimal
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "recipes/README.md")
TOKENS = [
    *("[", "]", "{", "}", ": ", ":", ",", ", ", "- ", "? ", "\n", "\r\n", "\r", "\t", " ", "  ", "\n\n", "#", " # x"),
    *("&a ", "*a", "*a\n", "!!str ", "!!int ", "!!binary ", "!!python/name:os.system ", "! ", "!x ", "<<: ", "=", "~"),
    *("|\n", "> \n", "'", '"', "%", "%YAML 1.1\n", "%TAG ! x\n", "---\n", "...\n", "@", "`", "\\", "null", "yes", "on"),
    *("1e3", "'1e3'", ".inf", "-.inf", ".nan", "'nan'", "0x10", "010", "1_000", "1:30", "1:30.5", "2020-01-01", "-0.0"),
    *("9" * 30, "9" * 5000, "1e999", "-1", "true", "'true'", "\\x1b", '"\\x1b[31m"', '"\\ud800"', '"\\UFFFFFFFF"'),
    *("\ufeff", "\x85", "\u2028", "\u202e", "\0", "\x07", "\x1b[31m", "é", "\U0001f600", "a" * 11_000, "[a" * 4000),
]
"""Pieces of YAML, and what was never meant to be some."""
ODD = [
    *(None, True, False, 0, 1, -1, 2, 16, 255, 65_536, 65_537, 1 << 31, 10**9, 10**12, 1 << 62, 1 << 63, 1 << 64),
    10**30,
    *(0.0, -0.0, 0.5, 1.0, 1.5, -1.0, 1e-320, 1e308, float("inf"), float("-inf"), float("nan")),
    *("", " ", "a", "all", "none", "*", "**", "?", "[", "[]", "[!", "[!]", "[a-", "[a[a[a", "*a*a*a*a*b", "0", "1"),
    "-1",
    *("1-2", "2-1", "1-999999999999", "99999999999999999999", "yes", "nan", "inf", "1e3", "16", "0x10", "true", "null"),
    *("kmeans", "uniform", "fisher", "distill", "renormalize", "align", "lagrangian", "greedy", "auto", "unquantized"),
    *("codebooks", "biases", "channel", "tensor", "group:4", "group:0", "group:999999999", "keep", "entropy"),
    "float16",
    *("logits", "1.0", "a.b.c", "weight", "bias", "Linear", "Conv2d", "lloydmax>=0.1", "lloydmax>=99", "torch; x"),
    *("x @ https://example.org/'$(x)'", "a\nb", "a\tb", "\x1b[31m", "\u202egnp", "[/red]", "\0", "ß", "a" * 300),
    *([], {}, [None], [1, 2, 4], [[]], [[1]], ["all", 1], {"a": 1}, {"bits": 3}, {"reduction": 0.5}, [True], [2, "x"]),
]
"""Values of recipes, good and bad."""
OBJECTS: list[Any] = [
    *(np.float32(0.1), np.int64(4), np.bool_(True), np.str_("channel"), np.float64("nan"), np.array(4), np.array([4])),
    *(np.datetime64("2020"), np.complex64(1), torch.tensor(4), torch.tensor([2, 4]), torch.tensor(4, device="meta")),
    *(Decimal("0.1"), Decimal("1e9999999"), Fraction(1, 3), Fraction(10**400), Path("x"), (2, 4), {2, 4}, b"x", 1j),
    *(range(3), range(10**12), 10**5000, object(), type, dict.fromkeys),
]
"""Values of no file."""
KEYS = [
    *("layers", "types", "except", "parameter", "quantizer", "importance", "centroids", "granularity", "block"),
    *("price", "zeros", "bits", "scheme", "step", "samples", "lr", "epochs", "steps", "batch_size", "augment", "loss"),
    *("align", "weight", "quantize", "recover", "search", "storage", "trainable", "requires", "seed", "name"),
    *(
        "version",
        "output",
        "classes",
        "mask",
        "activations",
        "budget",
        "method",
        "floats",
        "codes",
        "",
        "a",
        "\x1b",
        "<<",
        "1",
    ),
]


KINDS = ("put", "replace", "cut", "copy", "repeat", "end", "double", "drop", "swap", "indent")
ENCODINGS = ("utf-16", "utf-32", "utf-8-sig", "latin-1")


@cache
def seeds() -> list[str]:
    """The ready recipes, and every recipe in a page."""
    ready = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "recipes").glob("*.yaml"))]
    pages = [(ROOT / page).read_text(encoding="utf-8") for page in PAGES]
    shown = [block for page in pages for block in re.findall(r"^```yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)]
    return [*ready, *(block for block in shown if "quantize:" in block)]


@st.composite
def texts(draw: st.DrawFn) -> str:
    """Text: tokens put in, spans and lines taken out, doubled, moved, indented."""
    text = draw(st.sampled_from(seeds()))
    for _ in range(draw(st.integers(1, 4))):
        at, other = draw(st.integers(0, len(text))), draw(st.integers(0, len(text)))
        length, lines = draw(st.integers(1, 40)), text.splitlines(keepends=True) or [""]
        line = draw(st.integers(0, len(lines) - 1))
        kind = draw(st.sampled_from(KINDS))
        if kind == "put":
            text = text[:at] + draw(st.sampled_from(TOKENS)) + text[at:]
        elif kind == "replace":
            text = text[:at] + draw(st.sampled_from(TOKENS)) + text[at + length :]
        elif kind == "cut":
            text = text[:at] + text[at + length :]
        elif kind == "copy":
            text = text[:at] + text[other : other + length] + text[at:]
        elif kind == "repeat":
            text = text[:at] + draw(st.sampled_from(TOKENS[:40])) * draw(st.sampled_from([2, 60, 3010])) + text[at:]
        elif kind == "end":
            text = text[:at]
        else:
            text = "".join(_lines(kind, lines, line, draw(st.sampled_from(["", " ", "  ", "\t", "- "]))))
    return text


def _lines(kind: str, lines: list[str], line: int, space: str) -> list[str]:
    if kind == "double":
        return [*lines[: line + 1], *lines[line:]]
    if kind == "drop":
        return [*lines[:line], *lines[line + 1 :]]
    if kind == "swap":
        return [*lines[:line], *lines[line : line + 2][::-1], *lines[line + 2 :]]
    return [*lines[:line], space + lines[line].lstrip(" "), *lines[line + 1 :]]


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """Bytes of a file: those of a text, some of them changed, or in another encoding."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.sampled_from(seeds())).encode(draw(st.sampled_from(ENCODINGS)))
    data = bytearray(draw(st.sampled_from(seeds())).encode())
    for _ in range(draw(st.integers(1, 6))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


def values() -> st.SearchStrategy[Any]:
    """Any value that a dict may hold."""
    deep = st.sampled_from([2, 47, 48, 49, 50, 300]).map(_nested)
    odd = st.sampled_from(ODD).map(copy.deepcopy)
    objects = st.sampled_from(OBJECTS)
    return odd | odd | st.lists(odd, max_size=4) | objects | st.text(max_size=8) | st.floats() | st.integers() | deep


def _nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@st.composite
def mappings(draw: st.DrawFn) -> dict[str, Any]:
    """Data: values replaced, taken out, doubled, put in."""
    data: dict[str, Any] = copy.deepcopy(yaml.safe_load(draw(st.sampled_from(seeds()))))
    for _ in range(draw(st.integers(1, 4))):
        places = list(_places(data))
        holder, key = draw(st.sampled_from(places)) if places else (data, None)
        kind = draw(st.sampled_from(["replace", "replace", "drop", "double", "put"]))
        if isinstance(holder, dict) and (kind == "put" or key is None):
            holder[draw(st.sampled_from(KEYS))] = draw(values())
        elif kind == "put":
            holder.insert(key, draw(values()))
        elif kind == "drop":
            del holder[key]
        elif kind == "double" and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        else:
            holder[key] = draw(values())
    return data


def _places(value: Any, depth: int = 0) -> Any:
    """Every list or mapping in a value, with each of its keys."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys if depth < 6 else ():
        yield value, key
        yield from _places(value[key], depth + 1)
