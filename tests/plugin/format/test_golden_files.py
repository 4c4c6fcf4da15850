"""Golden files load for ever, bit for bit, and the stand-alone reader, which knows nothing of torch, agrees."""

from __future__ import annotations

import itertools
import json
import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import lloydmax
import pytest
import standalone_arithmetic
import standalone_reader
import torch
from golden_files import GOLDEN, digests, expected, write
from golden_models import CASES, ENTROPY, FLOATS, Case, Rule
from torch import nn

ALONE = """
import os, runpy, sys
sys.modules.update(torch=None, lloydmax=None)
del sys.argv[0]
sys.path.append(os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], {}, "__main__")
"""
INT8 = "x86" in torch.backends.quantized.supported_engines
"""Whether the kernels of the golden files on int8 run here."""


def read_alone(paths: list[Path]) -> list[dict[str, Any]]:
    """What the stand-alone reader makes of files, in a process in which torch and lloydmax cannot be imported."""
    command = [sys.executable, "-c", ALONE, standalone_reader.__file__, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout).values())


def golden(name: str) -> Path:
    return GOLDEN / f"{name}.safetensors"


def test_every_golden_file_has_a_case_and_an_expectation() -> None:
    kept = {path.name for path in GOLDEN.iterdir()}
    assert kept == {f"{name}.{end}" for name in CASES for end in ("safetensors", "json")}
    assert sum(path.stat().st_size for path in GOLDEN.iterdir()) < 300_000


def test_the_golden_files_are_of_every_kind() -> None:
    found = [lloydmax.inspect(golden(name)) for name in CASES]
    parameters = [item for file in found for item in file.parameters]
    assert {(item.coding, item.granularity) for item in parameters} >= {
        (coding, granularity) for coding in ("packed", "entropy") for granularity in ("tensor", "channel", "group:3")
    }
    codings = {(item.coding, item.dtype) for item in parameters}
    assert codings == set(itertools.product(("packed", "entropy", "arithmetic"), FLOATS))
    assert {1, 2, 3, 256, 257, 70_000} <= {item.k for item in parameters}
    assert {item.stored for item in parameters} == {"float32", "float16", "int8", "steps"}
    assert any(item.block > 1 and item.coding == "entropy" for item in parameters)
    assert {file.format for file in found} == {1, 2, 3}


@pytest.mark.parametrize("name", CASES)
def test_a_golden_file_loads_for_ever_and_saves_again(name: str, tmp_path: Path) -> None:
    held = lloydmax.verify(golden(name))
    if name.startswith("int8-activations") and not INT8:  # the weights are compared below all the same
        return
    loaded = lloydmax.load(golden(name), CASES[name].fresh())
    assert digests(loaded) == expected(name)
    lloydmax.save(loaded, tmp_path / "again.safetensors")
    assert lloydmax.inspect(tmp_path / "again.safetensors").storage == held.storage
    assert standalone_reader.digests(tmp_path / "again.safetensors") == expected(name)


def test_the_stand_alone_reader_reads_every_golden_file() -> None:
    for name, found in zip(CASES, read_alone([golden(name) for name in CASES]), strict=True):
        assert found == expected(name), name


LAYOUTS = list(itertools.product(("tensor", "channel", "group:3"), (0, 1), (1, 8), (1, 2, 3, 7, 16, 257)))


def combinations() -> list[Case]:
    """Every storage and dtype of a model; together, every layout of a codebook in each dtype."""
    options = [("float32", "float16", "bfloat16"), ("packed", "entropy"), ("named", "compact"), ("kept", "merged")]
    newer = [("float32", "fixed"), ("packed", "entropy", "arithmetic"), ("tight",), ("kept",)]
    keys = ("floats", "codes", "layout", "norms", "codebooks")
    chosen = [*itertools.product(*options, ("float", "int8")), *itertools.product(*newer, ("float", "int8"))]
    storages = [dict(zip(keys, values, strict=True)) for values in chosen]
    models = [("float32", storage) for storage in storages]
    models += [(dtype, item) for dtype in ("float16", "bfloat16") for item in storages if item["floats"] == "float32"]
    chance, cases, left = random.Random(0), [], {dtype: list[Any]() for dtype in FLOATS}
    for dtype, storage in models:
        rules = {}
        for number in range(6):
            left[dtype] = left[dtype] or chance.sample(LAYOUTS, len(LAYOUTS))
            granularity, axis, block, k = left[dtype].pop()
            even = number % 3 == 0 and block == 1 and k >= 3
            rules[f"{number}.weight"] = Rule(k, granularity, axis, block, even, zeros=not even and k > 2)
        cases.append(Case(stack, rules, storage, dtype=dtype))
    return cases


def stack() -> nn.Module:
    """Convolutions, of which the last two share their weight with the first ones; a norm."""
    layers = [nn.Conv2d(4 + number % 2 * 4, 8, 2, bias=False) for number in range(8)]
    layers[6].weight, layers[7].weight = layers[0].weight, layers[1].weight
    return nn.Sequential(*layers, nn.BatchNorm1d(3))


def test_the_stand_alone_reader_reads_every_combination(tmp_path: Path) -> None:
    cases = combinations()
    paths = [tmp_path / f"{number}.safetensors" for number in range(len(cases))]
    written = [write(case, path) for case, path in zip(cases, paths, strict=True)]
    for case, path, found, before in zip(cases, paths, read_alone(paths), written, strict=True):
        assert found == before == digests(lloydmax.load(path, case.fresh())), (case.dtype, case.storage)
    kinds = {
        (case.dtype, item.k, item.granularity, item.axis, item.block, item.coding)
        for case, path in zip(cases, paths, strict=True)
        for item in lloydmax.inspect(path).parameters
    }
    assert len({kind[:5] for kind in kinds}) == len(FLOATS) * len(LAYOUTS)
    assert {kind[5] for kind in kinds} == {"packed", "entropy", "arithmetic"}


def test_codes_of_more_than_16_bits_and_pieces(tmp_path: Path) -> None:
    assert math.prod((1025, 257)) > 1 << 18
    cases = [
        Case(lambda: nn.Linear(257, 1025), {"weight": Rule(k, skew=9)}, {**ENTROPY, "layout": layout})
        for k, layout in ((65_537, "named"), (200_000, "compact"))
    ]
    paths = [tmp_path / f"{number}" for number in range(len(cases))]
    written = [write(case, path) for case, path in zip(cases, paths, strict=True)]
    assert [lloydmax.inspect(path).parameters[0].coding for path in paths] == ["entropy"] * 2
    assert written == read_alone(paths) == [digests(lloydmax.load(path, nn.Linear(257, 1025))) for path in paths]


def test_the_stand_alone_reader_is_short_and_needs_little() -> None:
    files = [Path(module.__file__) for module in (standalone_reader, standalone_arithmetic)]
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    assert len(lines) < 450
    imported = {line.split()[1].split(".")[0] for line in lines if line.startswith(("import ", "from "))}
    assert imported - set(sys.stdlib_module_names) == {"numpy", "safetensors", "standalone_arithmetic"}
