"""Runs in several threads at once."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from lloydmax import compress
from torch import nn


def _model(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 5)).eval()


def test_two_threads_give_the_bytes_of_one_after_the_other(tmp_path: Path) -> None:
    data = torch.randn(256, 16, generator=torch.Generator().manual_seed(0))
    step = {"step": "distill", "epochs": 4, "batch_size": 16, "mixup": 0.5}
    recipe = {"quantize": [{"layers": "all", "centroids": 4}], "recover": [step], "trainable": ["all"]}

    def run(number: int, folder: Path, errors: list[BaseException]) -> None:
        try:
            compress(_models[number], recipe, data, progress=False, seed=number).save(folder / f"{number}.safetensors")
        except BaseException as error:
            errors.append(error)

    _models = [_model(0), _model(1)]
    before, random = copy.deepcopy([m.state_dict() for m in _models]), torch.get_rng_state()
    errors: list[BaseException] = []
    for folder in ("alone", "together"):
        (tmp_path / folder).mkdir()
    for number in (0, 1):
        run(number, tmp_path / "alone", errors)
    for _ in range(3):
        threads = [threading.Thread(target=run, args=(n, tmp_path / "together", errors)) for n in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        for name in ("0.safetensors", "1.safetensors"):
            assert (tmp_path / "together" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    assert torch.equal(torch.get_rng_state(), random), "no global state is left behind"
    for model, state in zip(_models, before, strict=True):
        assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
