"""YAML -> plain data: what words mean, what is refused and where, in how much time, by either parser."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from lloydmax import Recipe, RecipeError
from lloydmax.recipe.lines import MOST_BYTES
from lloydmax.recipe.parsing import parsed
from timing import seconds_of

PARSERS = [yaml.SafeLoader, *([yaml.CSafeLoader] if yaml.__with_libyaml__ else [])]
either = pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.__name__)


@either
@pytest.mark.parametrize(
    ("word", "value"),
    [
        *(("1e3", 1000.0), ("1E-3", 0.001), ("1.5e3", 1500.0), (".5", 0.5), ("+.5", 0.5), ("1.", 1.0), ("-0.0", -0.0)),
        *(("0x10", 16), ("010", 8), ("0b11", 3), ("1_000", 1000), ("+5", 5), ("-7", -7), ("0", 0), ("1e", "1e")),
        *(("~", None), ("null", None), ("", None), ("yes", True), ("OFF", False), ("True", True), ("y", "y")),
        *(("1:30", "1:30"), ("2020-01-01", "2020-01-01"), ("08", "08"), ("0x_", "0x_"), ("14-15", "14-15")),
        *(("'1e3'", "1e3"), ('"yes"', "yes"), ('"\\x41\\t"', "A\t"), ("=", "="), ("&name x", "x"), ("1.2.3", "1.2.3")),
    ],
)
def test_words(parser: Any, word: str, value: Any) -> None:
    found = parsed(f"a: {word}\n", "recipe", parser).data["a"]
    assert found == value and type(found) is type(value) and str(found) == str(value)


@either
def test_every_value_has_its_line(parser: Any) -> None:
    found = parsed("# top\na:\n  - 1\n  - {b: 2,\n     c: [3]}\nd: |\n  x\n  y\ne:\n", "recipe", parser)
    assert found.data == {"a": [1, {"b": 2, "c": [3]}], "d": "x\ny\n", "e": None}
    assert found.lines == {
        (): 2, ("a",): 3, ("a", 0): 3, ("a", 1): 4, ("a", 1, "b"): 4, ("a", 1, "c"): 5, ("a", 1, "c", 0): 5,
        ("d",): 6, ("e",): 9,
    }  # fmt: skip


@either
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: [1, .inf]\n", "recipe:2: b[2]: must be a finite number, got inf"),
        ("a: {b: .nan}\n", "recipe:1: a.b: must be a finite number, got nan"),
        ("a: 1e999\n", "recipe:1: a: must be a finite number"),
        ("a: 9223372036854775808\n", "recipe:1: a: must be a number of at most 64 bits"),
        (f"a: {'1' * 100_000}\n", "recipe:1: a: a text of 100,000 characters"),
        (f"a: {'1' * 5000}\n", "recipe:1: a: must be a number of at most 64 bits"),
        ("a: 1\nb: !!binary aGk=\n", "recipe:2: b: not valid YAML in a recipe: the tag tag:yaml.org,2002:binary"),
        ("a: !x\n  b: 1\n", "recipe:1: a: not valid YAML in a recipe: the tag !x"),
        ("a: &n x\nb:\n - *n\n", "recipe:3: b[1]: YAML aliases (*n) are not allowed"),
        ("a: &n [*n]\n", "recipe:1: a[1]: YAML aliases"),
        ("a: 1\n? [b, c]\n: 2\n", "recipe:2: the whole document: a key must be text"),
        ("a: 1\nb:\n  c: 1\n  c: 2\n", "recipe:4: b.c: written twice"),
        ("a: 1\n---\nb: 2\n", "recipe:2: the whole document: a second document"),
        ("a:\n - [b\n", "recipe:3: a[1][1]: not valid YAML"),
        ("a: 1\nb\n", "not valid YAML: could not find expected ':'"),
        ('a: 1\nb: "\\x1b[31m"\n', r"recipe:2: b: text must not hold control characters, as \x1b in"),
        ('"\\x1b": 1\n', "recipe:1: the whole document: text must not hold control characters"),
        ("a: 1\nb: [2, \x07]\n", r"]: not valid YAML: the character \x07"),
        ("a: \ud800\n", r"recipe:1: a: not valid YAML: the character \ud800"),
        ('a: "\\ud800"\n', "recipe:1: a: "),
        ('a: "\\UFFFFFFFF"\n', "recipe:1: a: not valid YAML"),
        (f"%YAML {'9' * 5000}.1\n---\na: 1\n", "recipe:1: the whole document: not valid YAML"),
        (f"a: {'x' * 10_001}\n", "recipe:1: a: a text of 10,001 characters, at most 10,000 are read"),
        (f"a: [{'1, ' * 20_000}]\n", "recipe:1: a[19999]: more than 20,000 values"),
        ("a: 1\nb: " + "[" * 3010, "recipe:2: nested more than 50 levels deep in b: so surely not a recipe"),
    ],
)
def test_what_no_recipe_has_is_refused_where_it_stands(parser: Any, text: str, said: str) -> None:
    with pytest.raises(RecipeError) as error:
        parsed(text, "recipe", parser)
    assert said in str(error.value) and str(error.value).isprintable() and len(str(error.value)) < 400


LONG = [
    *("[" * 100_000, "a: " + "[" * 1_000_000, "{a: " * 250_000, "- " * 500_000, "? " * 500_000, "[[],\n" * 200_000),
    *("x" * 1_000_000, "x " * 500_000, "# " + "x" * 1_000_000, "# x\n" * 250_000, "\n" * 1_000_000, "---\n" * 250_000),
    *('"' + "\\x41" * 250_000 + '"', "'" + "x''" * 333_000, "x" * 1_000_000 + ": 1", "a: |\n" + "  x\n" * 250_000),
    *("1:" * 500_000 + "1", "1" * 1_000_000, "0x" + "f" * 1_000_000, "1." + "1" * 1_000_000, "1_" * 500_000),
    *("-" * 1_000_000, "[" + "&a x," * 200_000, "[" + "!!a x," * 160_000, "a:\t" * 300_000, "%YAML 1.1\n" * 100_000),
    *("{" + "b: 1," * 200_000, "[" + "1," * 500_000, "".join(f"{n}: 1\n" for n in range(100_000)), "\ufeff" * 300_000),
    *("<<: {a: 1}\n" * 90_000, "a: 'x\n\n" * 140_000, "- |\n" * 250_000, "[" * 40 + "x, " * 300_000),
    ("[" * 45 + "]" * 45 + ",\n") * 11_000,
]


@pytest.mark.parametrize("text", LONG, ids=lambda text: repr(text[:6]))
def test_a_mebibyte_takes_less_than_a_second(text: str) -> None:
    assert len(text.encode()) <= MOST_BYTES

    def read() -> None:
        with pytest.raises(RecipeError, match=r"^recipe:\d+: \S"):
            Recipe.load(f"{text}\n" if text[0] != "[" else f"a: {text}")

    taken = seconds_of(read, 1)
    if yaml.__with_libyaml__:
        assert taken < 1


@pytest.mark.skipif(not yaml.__with_libyaml__, reason="one parser")
@pytest.mark.parametrize(
    "text", ["a: {b:}", "? a\n:  b\n", "a: [b, c:]", "a: [1 2", "a: b: c", "a:\n b\n c: d", "{a, b: [}"]
)
def test_both_parsers_give_the_same(text: str) -> None:
    found = []
    for parser in PARSERS:
        try:
            read = parsed(text, "recipe", parser)
            found.append((read.data, read.lines))
        except RecipeError as error:
            found.append((str(error), {}))
    assert found[0] == found[1]
