"""The reference of recipes as Markdown."""

from __future__ import annotations

from typing import Literal

from lloydmax.hooks import registry
from lloydmax.recipe import reference
from pydantic import BaseModel, Field


class Shared(BaseModel):
    """Options of both.

    More about them.
    """

    lr: float = Field(default=0.5, gt=0, le=1, description="learning rate | of all.")


class One(Shared):
    """The first."""

    size: int = Field(ge=1, le=1 << 24, description="how many")
    kind: Literal["a", "b"] | None = "a"
    parts: list[Shared] = []
    names: list[str] = []
    same: bool = True


def test_a_table_has_types_ranges_and_defaults() -> None:
    assert reference._table(One).splitlines() == [
        "| field | value | default | meaning |",
        "|---|---|---|---|",
        "| `lr` | number > 0, ≤ 1 | `0.5` | learning rate \\| of all |",
        "| `size` | integer ≥ 1, ≤ 2^24 | required | how many |",
        "| `kind` | `a`, `b` | `a` |  |",
        "| `parts` | list of sections | `[]` |  |",
        "| `names` | list of text | `[]` |  |",
        "| `same` | `true`, `false` | `true` |  |",
    ]


def test_options_of_several_strategies_have_one_block() -> None:
    page = reference.markdown(registry.strategies())
    assert page.startswith("| field | value | default | meaning |\n") and page.endswith("</details>\n")
    assert "<details><summary><code>storage</code>: " in page and "<summary><code>search.budget</code>" in page
    for entry in registry.strategies():
        assert page.count(f"<summary>{entry.kind} <code>{entry.name}</code>: ") == 1, entry
    assert "All " in page and "Also " in page and "(below)." in page and "No options." in page
    assert page.count("| `batch_size` |") < sum("batch_size" in e.options.model_fields for e in registry.strategies())
    assert page.count("<details>") == page.count("</details>") and "```" not in page and ":class:" not in page


def test_sentences_go_on_in_small_letters_but_not_abbreviations() -> None:
    assert reference._lower("The first.") == "the first" and reference._lower("INC takes it.") == "INC takes it"
