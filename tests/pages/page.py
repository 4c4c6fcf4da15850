"""The Markdown pages of this repository as code blocks under headings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGES = (
    "README.md",
    "recipes/README.md",
    "recipes/cookbook/detectors.md",
    "recipes/cookbook/image-classifiers.md",
    "recipes/cookbook/language-models.md",
    "recipes/cookbook/segmentation.md",
    "recipes/cookbook/sentence-embeddings.md",
    "recipes/cookbook/speech.md",
    "recipes/cookbook/tables.md",
    "recipes/cookbook/text-classifiers.md",
    "recipes/guide/choosing-data.md",
    "recipes/guide/coming-from.md",
    "recipes/guide/tested-models.md",
    "recipes/guide/troubleshooting.md",
    "plugin/README.md",
    "plugin/lloydmax/exporting/README.md",
    "plugin/lloydmax/importing/README.md",
    "plugin/lloydmax/format/README.md",
    "plugin/lloydmax/integrations/README.md",
    "strategies/README.md",
    "tests/benchmarks/README.md",
    "tests/fuzz/README.md",
    "CHANGELOG.md",
)
"""Every page whose blocks and links are checked, relative to the root."""


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        heading: that it stands under.
        language: after the fence; empty for output.
        text: between the fences.
        line: of the page, of the first line of the text, counted from 1.
        comment: the HTML comment right above it: ``slow``, or what else checks it; empty if there is none.
    """

    heading: str
    language: str
    text: str
    line: int
    comment: str

    @property
    def file(self) -> str | None:
        """The name that a first line ``# name.ext`` gives the block."""
        found = re.match(r"# ([\w.-]+\.(?:yaml|toml|py))\n", self.text)
        return found[1] if found else None

    def commands(self) -> list[str]:
        """The lines of a shell block, continued ones joined, without comments."""
        joined = self.text.replace("\\\n", " ")
        return [line for text in joined.splitlines() if (line := re.sub(r"(^|\s)#.*", "", text).strip())]


@dataclass(frozen=True)
class Page:
    """One page.

    Attributes:
        name: relative to the root.
        text: of the page.
    """

    name: str
    text: str

    @classmethod
    def read(cls, name: str) -> Page:
        """The page as it is in the working tree."""
        return cls(name, (ROOT / name).read_text(encoding="utf-8"))

    @property
    def folder(self) -> Path:
        """What the links of the page are relative to."""
        return (ROOT / self.name).parent

    @cached_property
    def prose(self) -> str:
        """The text without code blocks and comments."""
        return re.sub(r"^```.*?^```$|<!--.*?-->", "", self.text, flags=re.MULTILINE | re.DOTALL)

    @cached_property
    def blocks(self) -> list[Block]:
        """All code blocks in order."""
        found: list[Block] = []
        heading, comment, lines = "", "", self.text.splitlines()
        number = 0
        while number < len(lines):
            line = lines[number]
            number += 1
            if title := re.match(r"#+ (.+)", line):
                heading = title[1]
            elif line.startswith("```"):
                end = lines.index("```", number)
                found.append(Block(heading, line[3:].strip(), "\n".join(lines[number:end]) + "\n", number + 1, comment))
                number = end + 1
            if line.strip():
                comment = line[4:-3].strip() if line.startswith("<!--") and line.endswith("-->") else ""
        return found

    @cached_property
    def anchors(self) -> set[str]:
        """The anchors that GitHub gives the headings."""
        titles = re.findall(r"^#+ (.+)$", self.prose, flags=re.MULTILINE)
        return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}

    @cached_property
    def links(self) -> set[str]:
        """The targets of all links and pictures."""
        return set(re.findall(r"\]\(([^)\s]+)\)", self.prose))
