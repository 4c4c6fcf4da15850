"""Recipes: what is read, what is refused and how it is said, round trips, the schema."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lloydmax import Recipe, RecipeError
from timing import seconds_of

GOOD = """\
version: 1
name: test
quantize:
  - {layers: 1-2, centroids: 32}
  - layers: ["fc", "layer?.*"]
    types: [Linear]
    except: ["*.downsample.*"]
    centroids: [16, 32]
    granularity: group:4
trainable: [unquantized, codebooks]
recover:
  - {step: renormalize, samples: 10}
  - {step: distill, lr: 1e-3, augment: [flip]}
storage: {floats: float16}
seed: 3
"""


def test_reads_text_path_and_dict_alike(tmp_path: Path) -> None:
    path = tmp_path / "good.yaml"
    path.write_text(GOOD)
    from_text, from_path = Recipe.load(GOOD), Recipe.load(path)
    assert from_text.data() == from_path.data() == Recipe.load(str(path)).data()
    assert Recipe.load(from_text.data()).data() == from_text.data()
    assert Recipe.load(from_text) is from_text
    assert from_text.quantize[1].except_ == ["*.downsample.*"]
    assert from_text.quantize[1].options == {"centroids": [16, 32], "granularity": "group:4"}


def test_save_and_load_keep_everything(tmp_path: Path) -> None:
    recipe = Recipe.load(GOOD)
    recipe.save(tmp_path / "copy.yaml")
    assert Recipe.load(tmp_path / "copy.yaml").data() == recipe.data()
    assert [p.name for p in tmp_path.iterdir()] == ["copy.yaml"]


@contextlib.contextmanager
def full_disk(most: int) -> Iterator[None]:
    """No file may become larger than so many bytes."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path, recipe = tmp_path / "kept.yaml", Recipe.load(GOOD)
    recipe.save(path)
    before = path.read_bytes()
    longer = Recipe.load({**recipe.data(), "name": "longer" * 30})
    with full_disk(len(before) // 2), pytest.raises(OSError, match="too large"):
        longer.save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    with full_disk(len(before) // 2), pytest.raises(OSError, match="too large"):
        longer.save(tmp_path / "new.yaml")
    assert list(tmp_path.iterdir()) == [path], "half a recipe is none"
    longer.save(path)
    assert Recipe.load(path).name == "longer" * 30


def test_a_reader_never_sees_half_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "shared.yaml"
    recipes = [Recipe.load({"name": letter * 200, "quantize": [{"layers": ["x" * 5000]}]}) for letter in "ab"]
    recipes[0].save(path)
    seen, done = set(), threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(path.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(100):
        recipes[number % 2].save(path)
    done.set()
    reader.join()
    assert {Recipe.load(text).name[0] for text in seen} <= {"a", "b"} and len({len(text) for text in seen}) == 1


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
def test_a_saved_recipe_has_ordinary_permissions(tmp_path: Path) -> None:
    umask = os.umask(0o027)
    try:
        Recipe.load(GOOD).save(tmp_path / "a.yaml")
    finally:
        os.umask(umask)
    assert (tmp_path / "a.yaml").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("centroids: 32", "centroid: 32"), ["recipe:4", "quantize[1].centroid", "did you mean 'centroids'"]),
        (("centroids: 32", "centroids: 0"), ["recipe:4", "quantize[1].centroids", "greater than or equal to 1"]),
        (("centroids: [16, 32]", "centroids: [16, -1]"), ["recipe:8", "centroids"]),
        (("granularity: group:4", "granularity: group:0"), ["recipe:9", "granularity", "group:N"]),
        (("trainable:", "trainabel:"), ["recipe:10", "did you mean 'trainable'"]),
        (("step: renormalize", "step: renormalise"), ["recipe:12", "did you mean 'renormalize'"]),
        (("samples: 10", "sample: 10"), ["recipe:12", "did you mean 'samples'"]),
        (("lr: 1e-3", "lr: -1"), ["recipe:13", "recover[2].lr"]),
        (("augment: [flip]", "augment: [flop]"), ["recipe:13", "augment", "flip"]),
        (("float16", "float15"), ["recipe:14", "storage.floats", "float15"]),
        (("version: 1", "version: 2"), ["recipe:1", "version"]),
        (("seed: 3", "seed: -3"), ["recipe:15", "seed"]),
        (("{layers: 1-2, centroids: 32}", "{centroids: 32}"), ["recipe:4", "quantize[1].layers", "is missing"]),
        (("centroids: 32}", "centroids: 32, quantizer: kmean}"), ["recipe:4", "did you mean 'kmeans'"]),
        (("name: test", "name: test\nname: again"), ["recipe:3", "written twice"]),
        (("name: test", "name: [unclosed"), ["recipe:", "not valid YAML"]),
        (("name: test", "name: !!python/name:os.system x"), ["not valid YAML"]),
        (("name: test", "name: &a x\nrequires: [*a]"), ["aliases"]),
        (("seed: 3", "requires: ['lloydmax>=99']"), ["recipe:15", "lloydmax>=99", "pip install"]),
        (("seed: 3", "requires: [no-such-distribution]"), ["not installed", "pip install"]),
    ],
)
def test_mistakes_are_told_with_line_field_and_hint(change: tuple[str, str], expected: list[str]) -> None:
    text = GOOD.replace(*change)
    assert text != GOOD
    with pytest.raises(RecipeError) as error:
        Recipe.load(text)
    for part in expected:
        assert part in str(error.value), str(error.value)


def test_every_problem_is_listed() -> None:
    with pytest.raises(RecipeError) as error:
        Recipe.load(GOOD.replace("samples: 10", "samples: 1").replace("lr: 1e-3", "lr: x"))
    assert len(str(error.value).splitlines()) == 2


def test_file_errors(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="No such file"):
        Recipe.load(tmp_path / "missing.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="UTF-8"):
        Recipe.load(tmp_path / "binary.yaml")
    with pytest.raises(RecipeError, match="mapping"):
        Recipe.load("- just\n- a list\n")


@pytest.mark.parametrize("nested", ["[" * 6000, "{a: " * 6000, "\n" + "- " * 6000, "[" * 6000 + "]" * 6000])
def test_deep_nesting_is_refused_at_once_with_its_line(nested: str) -> None:
    def read() -> None:
        with pytest.raises(RecipeError, match=r"^recipe:\d+: nested more than 50 levels"):
            Recipe.load("a: " + nested + "\n")

    assert seconds_of(read, 1) < 1


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(RecipeError):
        Recipe.load(text + "\n")


def test_schema_knows_the_plugins() -> None:
    schema = Recipe.json_schema()
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    data = Recipe.load(GOOD).data()
    validator.validate(data)
    for broken in (
        data | {"recover": [{"step": "distill", "learning_rate": 1}]},
        data | {"recover": [{"step": "nothing"}]},
        data | {"quantize": [{"layers": "all", "centroid": 3}]},
        data | {"quantize": [{"layers": "all", "centroids": "many"}]},
        data | {"extra": 1},
    ):
        with pytest.raises(jsonschema.ValidationError):
            validator.validate(broken)


def test_the_schema_names_every_strategy_where_it_may_stand() -> None:
    defs = Recipe.json_schema()["$defs"]
    quantizers, steps = (
        defs[part]["properties"][key]["enum"] for part, key in (("Rule", "quantizer"), ("Step", "step"))
    )
    assert {"kmeans", "uniform"} < set(quantizers) and quantizers.count("none") == 1 and quantizers[-1] == "none"
    assert {"distill", "align", "renormalize"} < set(steps) and "none" not in steps


def test_very_many_problems_are_not_all_told() -> None:
    def read() -> None:
        for text in (
            "quantize: []\n" + "".join(f"key{n}: 1\n" for n in range(15_000)),
            "quantize:\n" + "- layers: 1.5\n" * 9000,
        ):
            with pytest.raises(RecipeError) as error:
                Recipe.load(text)
            lines = str(error.value).split("\n")
            assert len(lines) == 21 and lines[-1] == "recipe:1: the whole document: more problems than these"
        with pytest.raises(RecipeError) as error:
            Recipe.load("quantize:\n" + "- {layers: all, quantizer: kmean}\n" * 6000)
        assert len(str(error.value).split("\n")) == 21

    assert seconds_of(read, 2) < 2


def test_each_value_of_a_choice_is_told_where_it_stands() -> None:
    text = "quantize:\n- layers: all\n  price: -1\n  centroids:\n  - 2\n  - yes\n  - 4\n  - 0\n"
    with pytest.raises(RecipeError) as error:
        Recipe.load(text)
    assert [line.partition(": must")[0] for line in str(error.value).split("\n")] == [
        "recipe:3: quantize[1].price", "recipe:8: quantize[1].centroids[4]",
    ]  # fmt: skip
    with pytest.raises(RecipeError, match=r"^recipe:6: quantize\[1\].centroids\[2\]: must be a number, got True$"):
        Recipe.load(text.replace("  price: -1\n", "\n").replace("- 0", "- 1"))
    with pytest.raises(RecipeError, match=r"^recipe:1: quantize\[1\].centroids: a list of more than 1,000 values$"):
        Recipe.load(f"quantize: [{{layers: all, centroids: [{'2, ' * 1001}]}}]\n")
    lists = f"augment: [{'flip, ' * 999}flip], lr: [{'1, ' * 999}1]"
    long = "quantize: [{layers: all}]\nrecover:\n" + f"- {{step: distill, {lists}}}\n" * 9
    assert seconds_of(lambda: Recipe.load(long), 1) < 1


@pytest.mark.parametrize(
    ("requires", "said"),
    [
        ("x @ https://example.org/'$(touch x)'", "is not a requirement"),
        ("x(", "is not a requirement such as 'lloydmax>=0.1'"),
        ("x; " + "(" * 3000, "is not a requirement"),
        ("no-such===a'`x`", r"run: pip install 'no-such===a'\''`x`'"),
        ("a" * 9000, "is not installed"),
    ],
)
def test_a_requirement_is_told_in_one_line_that_is_safe_to_copy(requires: str, said: str) -> None:
    with pytest.raises(RecipeError) as error:
        Recipe.load({"quantize": [{"layers": "all"}], "requires": [requires]})
    assert str(error.value).startswith("recipe: requires[1]: ") and said in str(error.value)
    assert str(error.value).isprintable() and len(str(error.value)) < 500
    with pytest.raises(RecipeError, match="at most 100 items"):
        Recipe.load({"quantize": [{"layers": "all"}], "requires": ["no-such-distribution"] * 101})


def test_a_name_is_one_line() -> None:
    for name in ("a\nb", "a\tb", "a\u2028b"):
        with pytest.raises(RecipeError, match="^recipe: name: must be one line of text$"):
            Recipe.load({"name": name, "quantize": [{"layers": "all"}]})
    assert Recipe.load("name: '[/red] é \U0001f600'\nquantize: [{layers: all}]\n").name == "[/red] é \U0001f600"
    with pytest.raises(RecipeError, match=r"^recipe:1: name: must be a valid string, got True; put text that looks"):
        Recipe.load("name: yes\nquantize: [{layers: all}]\n")


def test_what_is_null_is_saved(tmp_path: Path) -> None:
    recipe = Recipe.load({"quantize": [{"layers": "all"}], "classes": None, "mask": None})
    recipe.save(tmp_path / "kept.yaml")
    assert Recipe.load(tmp_path / "kept.yaml").data() == recipe.data()
    assert Recipe.load(tmp_path / "kept.yaml").classes is None


def test_a_recipe_that_is_made_of_another_keeps_its_lines() -> None:
    recipe = Recipe.load(
        "name: x\nquantize:\n- layers: all\n  centroids: [2, 4]\n- {layers: no, centroids: 2}\n".replace("no", "'no'")
    )
    decided = recipe.resolved({"quantize[1].centroids": 4})
    assert decided.at("quantize", 1, "layers") == "recipe:5: quantize[2].layers"
    with pytest.raises(RecipeError, match=r"^recipe:4: quantize\[1\].centroids: must be"):
        recipe.changed({"quantize": [{"layers": "all", "centroids": 0}]})
