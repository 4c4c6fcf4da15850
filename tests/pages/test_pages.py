"""Every block of every page runs as written, every link leads somewhere, the recipe reference is that of the code.

A Python block runs on the names that it defines itself, in an empty folder that has the page's recipes (the YAML
blocks that start with ``# name.yaml``). A shell block runs through click, and what is printed has the shape of the
block without a language that follows it. ``<!-- slow -->`` above a block leaves it to ``-m slow``.
"""

from __future__ import annotations

import pkgutil
import re
import shlex
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lloydmax
import pytest
from click.testing import CliRunner
from lloydmax import demo
from lloydmax_command import main
from page import PAGES, ROOT, Block, Page
from photos import write_files
from small_models import write_models
from update import REFERENCE, updated

EXAMPLE = ROOT / "tests" / "example_plugin"
ALL = [Page.read(name) for name in PAGES]
HOUSE = ROOT / "plugin"
MOST_LINES = 450
"""Of README.md: what a person reads in one sitting."""
LONGEST_LINE = 125
"""Of README.md, but for tables and blocks."""
NEEDS = {
    "neural_compressor": r"neural_compressor",
    "torchao": r"\btorchao\.",
    "transformers": r"my-model|\btransformers\b",
    "sentence_transformers": r"\bsentence_transformers\b",
    "peft": r"\bpeft\b",
    "optuna": r"\boptuna\b",
    "ray": r"\bray\b",
    "coremltools": r"\bcoremltools\.",
    "onnxruntime": r"\.onnx\b",
}
"""What a block must mention to need an optional package."""

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def _cases(*languages: str) -> list[Any]:
    cases, seen = [], dict[str, int]()
    for page in ALL:
        for number, block in enumerate(page.blocks):
            if block.language not in languages:
                continue
            name = f"{page.name}: {block.heading}"
            seen[name] = seen.get(name, 0) + 1
            marks = [pytest.mark.slow] if block.comment == "slow" else []
            cases.append(pytest.param(page, number, id=f"{name} {seen[name]}", marks=marks))
    return cases


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("page", "number"), _cases("python"))
def test_python_runs(page: Page, number: int, folder: Path) -> None:
    block = page.blocks[number]
    _is_of_the_example(page, block)
    _prepare(page, block, folder)
    code = compile("\n" * (block.line - 1) + block.text, page.name, "exec")
    exec(code, {"__name__": "__main__"})


@pytest.mark.parametrize(("page", "number"), _cases("bash"))
def test_commands_run(page: Page, number: int, folder: Path) -> None:
    block, following = page.blocks[number], page.blocks[number + 1 : number + 2]
    if block.comment == "test command":  # CI runs it
        return
    _prepare(page, block, folder)
    output = "".join(_run(command) for command in block.commands())
    for shown in following:
        if shown.language == "" and shown.heading == block.heading and not shown.comment:
            assert shape(output) == shape(shown.text), f"{page.name}:{shown.line}"


@pytest.mark.parametrize(("page", "number"), _cases("yaml"))
def test_recipes_are_valid(page: Page, number: int) -> None:
    block = page.blocks[number]
    if _is_of_the_example(page, block):
        return
    recipe = lloydmax.Recipe.load(block.text)
    (drawn,) = recipe.space().draw(1)
    lloydmax.plan(demo.network(), recipe.resolved(drawn))


@pytest.mark.parametrize(("page", "number"), _cases("toml"))
def test_toml_is_valid(page: Page, number: int) -> None:
    block = page.blocks[number]
    if not _is_of_the_example(page, block):
        tomllib.loads(block.text)


def _is_of_the_example(page: Page, block: Block) -> bool:
    """Whether a block shows a file of the example plugin; then it must be that file."""
    if block.file is None or not (EXAMPLE / block.file).exists():
        return False
    assert block.text == (EXAMPLE / block.file).read_text(encoding="utf-8"), f"{page.name}:{block.line}"
    return True


def _prepare(page: Page, block: Block, folder: Path) -> None:
    for package, mention in NEEDS.items():
        if re.search(mention, block.text):
            pytest.importorskip(package)
    for other in page.blocks:
        if other.file is not None and other.language == "yaml":
            (folder / other.file).write_text(other.text, encoding="utf-8")
    if "photos/" in block.text:
        write_files(folder)
    if "my-model" in block.text or "my-sentences" in block.text:
        write_models(folder)


def _run(command: str) -> str:
    """Run a ``lloydmax`` command in this process; what makes environments is left to CI's test command."""
    words = shlex.split(command)
    program, *arguments = [word.removeprefix(".venv/bin/") for word in words if not word.startswith("OMP_NUM_THREADS=")]
    if program in ("python3", "pip"):
        return ""
    if program == "mkdir":
        Path(*arguments).mkdir()
        return ""
    if program == "python" or program.startswith(".ci/"):  # what a contributor runs: its files exist
        assert all((ROOT / word).exists() for word in [program, *arguments] if "/" in word), command
        return ""
    assert program == "lloydmax", command
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, f"{command}\n{result.output}\n{result.exception!r}"
    return result.stdout


def shape(text: str) -> str:
    """Text without its figures, and without what depends on their width."""
    return re.sub(r"[━─\s]+", " ", re.sub(r"\d+([.,]\d+)*", "9", text)).strip()


def test_the_demos_output_looks_like_the_page() -> None:
    stages = [SimpleNamespace(name=name, score=0.9) for name in ("", "compressed", "renormalize", "distill")]
    sizes = SimpleNamespace(original=2.12e6, file=141.38e3)
    report: Any = SimpleNamespace(stages=stages, bytes=sizes, seconds={"fit": 40.0})
    file, written, page = (Path("lloydmax-demo", name) for name in ("model.safetensors", "report.json", "report.html"))
    made = demo.DemoResult(report, file, written, True, page)
    block = next(block for block in ALL[0].blocks if block.heading == "Try it" and not block.language)
    assert shape(block.text) == shape(str(made))


@pytest.mark.parametrize("page", ALL, ids=PAGES)
def test_every_block_is_checked(page: Page) -> None:
    for before, block in zip([None, *page.blocks], page.blocks, strict=False):
        where = f"{page.name}:{block.line}"
        assert block.language in {"python", "bash", "yaml", "toml", ""}, where
        if block.language == "":
            follows = before is not None and before.language == "bash" and before.heading == block.heading
            assert block.comment.startswith(("compared by", "a drawing")) or follows, f"{where}: nothing checks it"


@pytest.mark.parametrize("page", ALL, ids=PAGES)
def test_links_lead_somewhere(page: Page) -> None:
    anchors = {(ROOT / other.name).resolve(): other.anchors for other in ALL}
    for link in page.links:
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.folder / path if path else ROOT / page.name).resolve()
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors.get(target, ()), f"{page.name}: {link}"


@pytest.mark.parametrize("page", ALL, ids=PAGES)
def test_scripts_that_are_named_exist(page: Page) -> None:
    for path in re.findall(r"`(?:python )?((?:tests|plugin|strategies|recipes)/[\w./]+)`", page.text):
        assert (ROOT / path).exists(), f"{page.name}: {path}"


def test_the_readme_is_one_sittings_reading() -> None:
    assert len(ALL[0].text.splitlines()) <= MOST_LINES


def test_the_readmes_prose_fits_an_editor() -> None:
    prose = re.sub(r"^```.*?^```$", "", ALL[0].text, flags=re.MULTILINE | re.DOTALL)
    assert not [line for line in prose.splitlines() if len(line) > LONGEST_LINE and not line.startswith("|")]


def test_the_recipe_reference_is_up_to_date() -> None:
    text = Page.read(REFERENCE).text
    assert updated(text) == text, "run: python tests/pages/update.py"


def test_the_messages_that_are_explained_are_those_of_the_code() -> None:
    """Literals that stand one after the other, or with values between, count as one text."""
    sources = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("plugin", "strategies")
        for path in (ROOT / folder).rglob("*.py")
    )
    said = re.sub(r'"\s*f?"', "", sources)
    messages = re.findall(r"^\| `([^`]+)` \|", Page.read("recipes/guide/troubleshooting.md").text, re.MULTILINE)
    parts = [part.strip() for message in messages for part in message.split("...") if part.strip()]
    assert len(messages) > 15
    assert not [part for part in parts if part not in said]


def test_the_functions_of_the_walks_exist() -> None:
    _, _, walks = Page.read("plugin/README.md").text.partition("## Two walks")
    names = re.findall(r"`(lloydmax(?:\.\w+)+)`", walks)
    assert len(names) >= 12
    for name in names:
        if name.startswith("lloydmax.integrations.inc"):
            pytest.importorskip("neural_compressor")
        assert pkgutil.resolve_name(_with_colon(name)) is not None


def _with_colon(name: str) -> str:
    """``package.module:Class.method``, since ``lloydmax.plan`` is a package and a function."""
    parts = name.split(".")
    depth = next(
        end for end in range(len(parts) - 1, 0, -1) if (HOUSE.joinpath(*parts[:end]).with_suffix(".py")).is_file()
    )
    return ".".join(parts[:depth]) + ":" + ".".join(parts[depth:])
