"""The soak test, quickly: some trials of a few kinds leave nothing behind, and what is left is noticed."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import lloydmax
import pytest
import torch
from soak import Left, main, soak, table
from soak_kinds import KINDS, RECIPES
from torch import nn


@pytest.mark.parametrize("kind", ["distill", "int8", "files"])
def test_trials_leave_nothing_behind(kind: str) -> None:
    left = soak(kind, trials=6, warm_up=4)
    assert left.grew is None and left.failed > 0


def test_trials_in_a_cache_leave_no_more_than_it_may_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = lloydmax.Cache(limit=1 << 20)

    def trial(net: nn.Module, x: torch.Tensor, place: Path, hear: list[object]) -> object:
        return lloydmax.compress(net, RECIPES["kmeans"], x, progress=False, cache=cache, listeners=hear)

    monkeypatch.setitem(KINDS, "small cache", trial)
    left = soak("small cache", trials=8, warm_up=2)
    assert left.networks == 0 and left.memory < 20
    assert 0.5 * cache.limit < cache.bytes <= cache.limit


def test_what_is_left_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    held, opened = [], []

    def trial(net: nn.Module, x: torch.Tensor, place: Path, hear: list[object]) -> object:
        held.append(net)
        opened.append((place / f".lloydmax-{len(held)}.tmp").open("w"))
        return net

    monkeypatch.setitem(KINDS, "leaking", trial)
    left = soak("leaking", trials=6, warm_up=2)
    assert (left.networks, left.descriptors, left.files) == (6, 6, 6) and left.objects > 300
    assert left.grew is not None and "6 networks" in left.grew and "objects" in left.grew
    assert "| leaking | 6 |" in "\n".join(table([left]))
    assert replace(left, networks=0, descriptors=0, files=0, objects=0, memory=21.0).grew == "21.0 MiB"
    for file in opened:
        file.close()


@pytest.mark.slow
def test_the_script_tells_of_one_kind(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["soak.py", "4", "uniform", "--here", "--warm-up", "2"])
    assert main() == 0
    told = Left(**json.loads(capsys.readouterr().out))
    assert (told.kind, told.trials, told.failed, told.interrupted) == ("uniform", 4, 1, 1)
