"""Globs mean what they mean in the standard library, in linear time."""

from __future__ import annotations

import fnmatch
import random

import pytest
from lloydmax.plan.globs import is_glob, matches
from timing import seconds_of

TRIED = [
    *("", "a", "a.b", "layer1.0.conv1", "layer3.1.conv2", "layer31.conv2", "LAYER1.0.conv1", "bn1", "fn1", "[", "a["),
    *("[]", "[!]", "]", "[a-", "m", "aab", "xaxaxb", "aaab", "ab", "aaba"),
]


def test_the_same_as_the_standard_library() -> None:
    draw = random.Random(0)
    for _ in range(10_000):
        pattern = "".join(draw.choices("ab-[]!*?.^\\&~|\n", k=draw.randint(0, 9)))
        name = "".join(draw.choices("ab-[]!.^\\\n", k=draw.randint(0, 6)))
        assert matches(pattern, name) == (pattern == name or fnmatch.fnmatchcase(name, pattern)), (pattern, name)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*", TRIED),
        ("**", TRIED),
        ("layer?.*.conv[12]", ["layer1.0.conv1", "layer3.1.conv2"]),
        ("[!b]n1", ["fn1"]),
        ("[", ["["]),
        ("a[", ["a["]),
        ("[]", ["[]"]),
        ("[!]", ["[!]"]),
        ("[]]", ["]"]),
        ("[a-", ["[a-"]),
        ("[z-a]", []),
        ("*a*a*b", ["aab", "xaxaxb", "aaab"]),
    ],
)
def test_patterns(pattern: str, names: list[str]) -> None:
    assert [name for name in TRIED if matches(pattern, name)] == names
    assert is_glob(pattern)


@pytest.mark.parametrize("piece", ["[a", "*a", "?*", "[!", "[]", "*[a-z]", "[a*", "*a?", "**", "[[", "a-[", "[]*"])
def test_no_pattern_takes_long(piece: str) -> None:
    def match_all() -> None:
        for end in ("", "b", "]", "*", "*b]"):
            pattern = piece * (10_000 // len(piece)) + end
            for name in ("a" * 100, "layer1.0.conv1.weight", "a" * 99 + "b"):
                matches(pattern, name)
            matches(piece * 20 + end, "a" * 5000)

    assert seconds_of(match_all, 1) < 1
