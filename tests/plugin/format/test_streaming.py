"""Files that are written tensor by tensor: the bytes of those that are written at once."""

from __future__ import annotations

from pathlib import Path

import lloydmax
import pytest
from lloydmax import demo
from lloydmax.errors import CheckpointError
from lloydmax.format.parts import new_document, settings
from lloydmax.format.streaming import streamed
from lloydmax.student.held import contents
from torch import nn

STORAGES = [
    {"floats": "fixed", "codes": "arithmetic", "norms": "merged", "layout": "tight"},
    {},
    {"floats": "float16", "codes": "entropy", "norms": "merged", "layout": "compact"},
    {"floats": "bfloat16", "codes": "entropy", "codebooks": "int8"},
]


def student(storage: dict[str, str]) -> nn.Module:
    recipe = {"quantize": [{"layers": "all", "centroids": 12, "granularity": "channel"}], "storage": storage}
    return lloydmax.compress(demo.network(), recipe, progress=False).model


def write(model: nn.Module, path: Path) -> None:
    recipe, storage = settings(model, None, None)
    values, tied = contents(model)
    with streamed(path, new_document({}, tied, recipe, model, storage), storage) as file:
        for name in sorted(values, reverse=True):
            file.add(name, values[name])
        size = file.size()
    assert size == path.stat().st_size


@pytest.mark.parametrize("storage", STORAGES)
def test_the_same_bytes_in_any_order(storage: dict[str, str], tmp_path: Path) -> None:
    model = student(storage)
    write(model, tmp_path / "parts.safetensors")
    lloydmax.save(model, tmp_path / "whole.safetensors")
    assert (tmp_path / "parts.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parts.safetensors", "whole.safetensors"]


def test_a_file_without_codebooks_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no parameter has a codebook"):
        write(demo.network(), tmp_path / "plain.safetensors")
    assert not list(tmp_path.iterdir())


def test_what_fails_on_the_way_leaves_nothing(tmp_path: Path) -> None:
    model = student({})
    recipe, storage = settings(model, None, None)
    values, tied = contents(model)
    path = tmp_path / "file.safetensors"
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt), streamed(path, new_document({}, tied, recipe, model, storage), storage) as f:
        f.add(*next(iter(values.items())))
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["file.safetensors"] and path.read_text() == "before"
