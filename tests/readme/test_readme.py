"""Every block of README.md runs, every link leads somewhere, the recipe reference is that of the code."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lloydmax
import pytest
from click.testing import CliRunner
from lloydmax import cli
from lloydmax.runtime import text
from page import README, ROOT, Section, anchors, links, sections
from surroundings import names, write_files
from update import updated

PAGE = README.read_text(encoding="utf-8")
SECTIONS = [section for section in sections(PAGE) if section.blocks]
EXAMPLE = ROOT / "tests" / "example_plugin"
DETAIL = {"Intel Neural Compressor in detail", "torch.ao.quantization and torchao in detail"}
RESNET = {"My own model", *DETAIL}
SLOW = {"Try it", "My own model", "Choosing the centroids", *DETAIL}
OPTIONAL = ("neural_compressor", "torchao", "optuna")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def _cases() -> list[Any]:
    return [pytest.param(s, id=s.title, marks=[pytest.mark.slow] if s.title in SLOW else []) for s in SECTIONS]


@pytest.mark.parametrize("section", _cases())
def test_blocks_run(section: Section, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imported = set(re.findall(r"^(?:import|from) .*", "".join(block.text for block in section.blocks), re.MULTILINE))
    for package in OPTIONAL:
        if any(re.search(rf"\b{package}\b", line) and f"integrations.{package}" not in line for line in imported):
            pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    for block in (block for each in SECTIONS for block in each.blocks):
        if block.file is not None and block.language == "yaml":
            Path(block.file).write_text(block.text, encoding="utf-8")
    if any("photos/" in block.text for block in section.blocks):
        write_files(tmp_path)
    network = "resnet18" if section.title in RESNET else "demo"
    space: dict[str, Any] = {}
    output = ""
    for block in section.blocks:
        if block.file is not None and (EXAMPLE / block.file).exists():
            assert block.text == (EXAMPLE / block.file).read_text(encoding="utf-8"), f"README.md:{block.line}"
        elif block.language == "python":
            space |= names(network)
            exec(compile("\n" * (block.line - 1) + block.text, str(README), "exec"), space)
        elif block.language == "yaml":
            recipe = lloydmax.Recipe.load(block.text)
            first = recipe.resolved({where: values[0] for where, values in recipe.choices().items()})
            lloydmax.plan(names(network)["model"], first)
        elif block.language == "bash" and block.comment != "test command":
            output = "".join(_run(command) for command in block.commands())
        elif block.language == "" and not block.comment.startswith("compared by"):
            assert shape(output) == shape(block.text), f"README.md:{block.line}"
        else:
            assert block.comment, f"README.md:{block.line}: nothing checks this block"


def _run(command: str) -> str:
    """Run a ``lloydmax`` command in this process; what makes environments is left to CI's test command."""
    program, *arguments = shlex.split(command.removeprefix(".venv/bin/"))
    if program in ("python3", "pip"):
        return ""
    if program == "mkdir":
        Path(*arguments).mkdir()
        return ""
    assert program == "lloydmax", command
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 0, f"{command}\n{result.output}\n{result.exception!r}"
    return result.stdout


def shape(text: str) -> str:
    """Text without its figures, and without what depends on their width."""
    return re.sub(r"[━─\s]+", " ", re.sub(r"\d+([.,]\d+)*", "9", text)).strip()


def test_the_demos_table_looks_like_the_page() -> None:
    stages = [SimpleNamespace(name=name, score=0.9) for name in ("", "compressed", "renormalize", "distill")]
    report: Any = SimpleNamespace(stages=stages, bytes=SimpleNamespace(original=2.12e6, file=141.38e3))
    block = next(block for section in SECTIONS if section.title == "Try it" for block in section.blocks[1:])
    assert shape(block.text).startswith(shape(text.render(text.demo_table(report))))


def test_every_block_has_a_language_that_is_checked() -> None:
    assert {block.language for section in SECTIONS for block in section.blocks} <= {
        "python",
        "bash",
        "yaml",
        "toml",
        "",
    }


def test_links_lead_somewhere() -> None:
    for link in links(PAGE):
        if link.startswith("#"):
            assert link[1:] in anchors(PAGE), link
        elif not link.startswith("https://"):
            assert (ROOT / link).exists(), link


def test_scripts_that_are_named_exist() -> None:
    for path in re.findall(r"`(?:python )?((?:tests|plugin|strategies|recipes)/[\w./]+)`", PAGE):
        assert (ROOT / path).exists(), path


def test_the_recipe_reference_is_up_to_date() -> None:
    assert updated(PAGE) == PAGE, "run: python tests/readme/update.py"
