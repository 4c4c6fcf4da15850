"""Writes the generated part of README.md anew: ``python tests/readme/update.py``."""

from __future__ import annotations

import sys

from lloydmax.hooks.registry import strategies
from lloydmax.recipe.reference import markdown
from page import README

START, END = "<!-- recipe reference -->\n", "<!-- end of the recipe reference -->\n"


def updated(text: str) -> str:
    """The page with the reference of lloydmax's own strategies, whatever other plugins are installed."""
    head, _, rest = text.partition(START)
    _, _, tail = rest.partition(END)
    own = markdown(entry for entry in strategies() if entry.distribution == "lloydmax")
    return f"{head}{START}\n{own}\n{END}{tail}"


if __name__ == "__main__":
    before = README.read_text(encoding="utf-8")
    if (after := updated(before)) != before:
        README.write_text(after, encoding="utf-8")
        print("README.md: the recipe reference is written anew", file=sys.stderr)
