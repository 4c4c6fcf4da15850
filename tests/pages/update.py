"""Writes the recipe reference of recipes/README.md anew: ``python tests/pages/update.py``."""

from __future__ import annotations

import sys

from lloydmax.hooks.registry import strategies
from lloydmax.recipe.reference import markdown
from page import ROOT, Page

REFERENCE = "recipes/README.md"
START, END = "<!-- recipe reference -->\n", "<!-- end of the recipe reference -->\n"


def updated(text: str) -> str:
    """The page with the reference of lloydmax's own strategies, whatever other plugins are installed."""
    head, start, rest = text.partition(START)
    _, end, tail = rest.partition(END)
    assert start and end, f"{REFERENCE} lacks the comments around the recipe reference"
    own = markdown(entry for entry in strategies() if entry.distribution == "lloydmax")
    return f"{head}{START}\n{own}\n{END}{tail}"


if __name__ == "__main__":
    before = Page.read(REFERENCE).text
    if (after := updated(before)) != before:
        (ROOT / REFERENCE).write_text(after, encoding="utf-8")
        print(f"{REFERENCE}: the recipe reference is written anew", file=sys.stderr)
