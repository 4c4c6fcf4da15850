"""Globs, in time that grows with the length of pattern and name, whatever they are."""

from __future__ import annotations

import functools
import re

_KEPT = 1024
"""Patterns that stay compiled."""


def is_glob(pattern: str) -> bool:
    """Whether a pattern has anything that a name can fit without being the same."""
    return any(mark in pattern for mark in "*?[")


def matches(pattern: str, name: str) -> bool:
    """Whether a name is the pattern, or fits it as a glob.

    ``*`` is any text, dots included; ``?`` one character; ``[abc]`` and ``[a-c]`` one of these, ``[!abc]`` another one;
    a ``[`` that nothing closes is itself. Case counts.
    """
    if name == pattern or not is_glob(pattern):
        return name == pattern
    pieces, least = _pieces(pattern)
    return least <= len(name) and _compiled(pieces).fullmatch(name) is not None


@functools.lru_cache(maxsize=_KEPT)
def _pieces(pattern: str) -> tuple[tuple[str, ...], int]:
    """What stands between the stars of a pattern, as regular expressions, and the characters that they need."""
    pieces, least, at = [""], 0, 0
    while at < len(pattern):
        char, at = pattern[at], at + 1
        least += char != "*"
        if char == "*":
            pieces.append("")
        elif char == "?":
            pieces[-1] += "."
        elif char == "[" and (end := pattern.find("]", at + 1 + (pattern[at : at + 1] == "!"))) > 0:
            pieces[-1] += _one_of(pattern[at:end])
            at = end + 1
        else:
            pieces[-1] += re.escape(char)
    return (pieces[0], *filter(None, pieces[1:-1]), *pieces[1:][-1:]), least


@functools.lru_cache(maxsize=_KEPT)
def _compiled(pieces: tuple[str, ...]) -> re.Pattern[str]:
    """The first fit of what stands between two stars is as good as any other, so that none is ever given back: each is
    an atomic group."""
    first, *rest = pieces
    if not rest:
        return re.compile(first, re.DOTALL)
    *middle, last = rest
    return re.compile(first + "".join(f"(?>.*?{piece})" for piece in middle) + ".*" + last, re.DOTALL)


def _one_of(inside: str) -> str:
    """What stands in brackets, as a set of a regular expression."""
    negated = inside.startswith("!")
    inside, found, at = inside.removeprefix("!"), "", 0
    while at < len(inside):
        low, high = inside[at], inside[at + 2] if inside[at + 1 : at + 2] == "-" and at + 2 < len(inside) else None
        if high is None or low <= high:
            found += re.escape(low) + ("" if high is None else f"-{re.escape(high)}")
        at += 1 if high is None else 3
    if not found:
        return "." if negated else "(?!)"
    return f"[^{found}]" if negated else f"[{found}]"
