"""What a stranger's file may cost and say: limits that follow from its size, and text that is always printable."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forging import change, forge, model, net, refused
from lloydmax.checkpoint import inspect, load, save, verify
from lloydmax.codebook.codebook import Codebook
from lloydmax.errors import CheckpointError
from lloydmax.student.attachment import attach
from timing import seconds_of
from torch import nn

WEIGHT = ("parameters", "0.weight")
NASTY = "\x1b[31m[/red][bold]\u202egnp\r\n\x07\ud800:smile:" + "x" * 5_000


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.safetensors"
    save(model(), path, {"name": "x", "lr": 1e-3})
    return path


def all_of(*lies: Any) -> Any:
    return lambda document: [lie(document) for lie in lies] and None


def test_the_decoded_size_counts_what_the_model_will_hold(tmp_path: Path) -> None:
    done = nn.Sequential(nn.Linear(3, 4), nn.Linear(3, 4, bias=False)).half()
    done[1].weight = done[0].weight
    attach(done, "0.weight", Codebook(torch.arange(5.0).half(), torch.zeros(4, 3, dtype=torch.uint8)))
    save(done, tmp_path / "a")
    found = inspect(tmp_path / "a")
    assert found.decoded == 2 * (12 + 5 + 4) and found.original == 2 * (12 + 4)
    assert found.to_dict()["decoded"] == 42 and "42 B decoded" in str(found)


@pytest.mark.parametrize("use", [inspect, verify, lambda path, limit: load(path, net(), limit)])
def test_a_limit(small: Path, use: Any) -> None:
    decoded = inspect(small).decoded
    use(small, decoded)
    for limit, words in (
        (decoded - 1, "above the limit"),
        (True, "not a number"),
        (-1, "not a number"),
        ("1", "not a"),
    ):
        with pytest.raises(CheckpointError, match=words):
            use(small, limit)


def even_lie(path: Path, k: int) -> None:
    codes = torch.zeros(-(-12 * (k - 1).bit_length() // 8), dtype=torch.uint8)
    lie = all_of(change(*WEIGHT, "k", to=k), change(*WEIGHT, "even", to=True))
    forge(path, lie, {"0.weight.codebook": torch.tensor([1e-3, 0.0]), "0.weight.codes": codes})


def test_many_even_centroids_need_a_limit(small: Path) -> None:
    even_lie(small, 1 << 24)
    tracemalloc.start()
    try:
        assert verify(small).decoded > 1 << 26
        with pytest.raises(CheckpointError, match="give a limit"):
            load(small, net())
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
    finally:
        tracemalloc.stop()
    even_lie(small, 1 << 18)
    assert load(small, net())[0].codebooks["weight"].centroids.numel() == 1 << 18


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("scale", [float("inf"), float("nan"), 3e38, 7e4])
def test_centroids_are_finite_in_the_dtype_of_the_model(small: Path, dtype: str, scale: float) -> None:
    lie = all_of(change(*WEIGHT, "even", to=True), change(*WEIGHT, "dtype", to=dtype))
    forge(small, lie if dtype == "float16" else change(*WEIGHT, "even", to=True),
          {"0.weight.codebook": torch.tensor([scale, 1.0])})  # fmt: skip
    if (dtype, scale) == ("float32", 7e4):
        verify(small)
    else:
        inspect(small)
        with pytest.raises(CheckpointError, match="NaN or infinite"):
            verify(small)
        fresh = net()
        fresh[0].weight.data = fresh[0].weight.data.to(getattr(torch, dtype))
        with pytest.raises(CheckpointError, match="NaN or infinite"):
            load(small, fresh)
        assert type(fresh[0]) is nn.Linear


@pytest.mark.parametrize(
    "lie",
    [
        change("tied", to={f"n{i}": "0.weight" for i in range(8_300)}),
        change("recipe", to={"x": [[]] * 70_000}),
        change("recipe", to={"x": "x" * 4_300_000}),
        change("activations", to=[[0.1, 3]] * 50_000),
        change("folded", to={f"n{i}": "1" for i in range(140_000)}),
    ],
)
def test_a_small_file_has_a_small_document(small: Path, lie: Any) -> None:
    forge(small, lie)
    assert seconds_of(lambda: refused(small, "refused in a file of its size"), 3 * 0.84) < 3 * 0.84


def test_a_limit_lifts_the_others(small: Path) -> None:
    forge(small, change("recipe", to={"x": [[]] * 70_000}))
    for use in (inspect, verify, lambda path, limit: load(path, net(), limit)):
        use(small, 1 << 24)


def test_a_model_of_many_small_tensors_loads(tmp_path: Path) -> None:
    def build() -> nn.Module:
        made = net()
        made.more = nn.ParameterList(torch.zeros(()) for _ in range(8_300))
        return made

    done = build()
    attach(done, "0.weight", Codebook(torch.arange(5.0), torch.zeros(4, 3, dtype=torch.uint8)))
    save(done, tmp_path / "a")
    with pytest.raises(CheckpointError, match="tensors and names"):
        verify(tmp_path / "a")
    load(tmp_path / "a", build())


def test_deep_documents(small: Path) -> None:
    deep: Any = 1
    for _ in range(101):
        deep = [deep]
    forge(small, change("recipe", to={"x": deep}))
    refused(small, "nested")
    with pytest.raises(CheckpointError, match="nested"):
        save(model(), small, {"x": deep})


@pytest.mark.parametrize(
    "lie",
    [
        change(NASTY, to=1),
        change("tied", to={NASTY: "nowhere"}),
        change("tied", to={"a": NASTY}),
        change("floats", to={NASTY: "float32"}),
        change("floats", to={"1.weight": NASTY}),
        change("parameters", NASTY, to={"shape": [1], "k": 1}),
        change(*WEIGHT, "granularity", to=NASTY),
        change("format", to=NASTY),
    ],
)
def test_messages_are_printable(small: Path, lie: Any) -> None:
    forge(small, lie)
    for use in (inspect, verify, lambda path: load(path, net())):
        with pytest.raises(CheckpointError) as caught:
            use(small)
        assert str(caught.value).isprintable() and len(str(caught.value)) < 2_000


@pytest.mark.parametrize("key", ["folded", "tied"])
def test_messages_about_the_model_are_printable(small: Path, key: str) -> None:
    forge(small, change(key, to={NASTY: "0.weight"}))
    verify(small)
    with pytest.raises(CheckpointError) as caught:
        load(small, net())
    assert str(caught.value).isprintable()


def test_tables_are_printable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    name = NASTY.replace("\ud800", "").replace(".", "")
    done = nn.Sequential()
    done.register_module(name, nn.Linear(3, 4))
    attach(done, f"{name}.weight", Codebook(torch.arange(5.0), torch.zeros(4, 3, dtype=torch.uint8)))
    path = tmp_path / "a[red]"
    save(done, path)
    forge(path, all_of(change("lloydmax", to=NASTY), change("torch", to="[/red]")))
    text = str(inspect(path))
    assert all(line.isprintable() for line in text.split("\n")) and "[/red][bold]" in text and ":smile:" in text
    assert len(text) < 10_000


def test_one_spelling_of_the_format(small: Path) -> None:
    forge(small, change("constants", to={"more": ["F32", [1], "00000000"]}))
    refused(small, "needs format 2, but says 1")
    save(model(), small)
    forge(small, change("format", to=2))
    refused(small, "needs format 1, but says 2")


def test_infinities_of_plain_tensors_are_named(small: Path) -> None:
    assert verify(small).not_finite == () and inspect(small).not_finite is None
    forge(small, tensors={"1.bias": torch.tensor([0.0, float("inf"), 1.0, float("nan")])})
    assert verify(small).not_finite == ("1.bias",)
    assert load(small, net())[1].bias.isinf().any()


def test_nan_is_not_narrowed(tmp_path: Path) -> None:
    done = model()
    with torch.no_grad():
        done[1].bias.copy_(torch.tensor(np.array([0, 0x7FC00000, 0, 0], np.uint32).view(np.float32)))
    save(done, tmp_path / "a", storage={"floats": "float16"})
    assert {item.name: item.stored for item in inspect(tmp_path / "a").tensors}["1.bias"] == "float32"


def test_reading_does_not_believe_the_number_of_codes(small: Path) -> None:
    forge(
        small,
        tensors={"0.weight.codes": torch.zeros(1 << 18, dtype=torch.uint8)},
        change=change(*WEIGHT, "coding", to="entropy"),
    )
    refused(small, "bytes, not 5")
