"""README.md as sections of code blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
README = ROOT / "README.md"


@dataclass(frozen=True)
class Block:
    """One fenced block: its language ("" for output), text, line of its first line (from 1), comment above it."""

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
class Section:
    """What stands under a heading of the second or third level."""

    title: str
    blocks: list[Block] = field(default_factory=list)


def sections(text: str) -> list[Section]:
    """The sections of a Markdown page in order."""
    found, comment, lines = [Section("")], "", text.splitlines()
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        if heading := re.match(r"###? (.+)", line):
            found.append(Section(heading[1]))
        elif line.startswith("```"):
            end = lines.index("```", number)
            body = "\n".join(lines[number:end]) + "\n"
            found[-1].blocks.append(Block(line[3:].strip(), body, number + 1, comment))
            number = end + 1
        if line.strip():
            comment = line[4:-3].strip() if line.startswith("<!--") and line.endswith("-->") else ""
    return found


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", prose, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def links(text: str) -> set[str]:
    """The targets of all links and pictures of a page."""
    prose = re.sub(r"^```.*?^```$|<!--.*?-->", "", text, flags=re.MULTILINE | re.DOTALL)
    return set(re.findall(r"\]\(([^)\s]+)\)", prose))
