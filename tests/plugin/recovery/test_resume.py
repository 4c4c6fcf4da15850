"""Runs that are killed or interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch
from conftest import SmallNet
from torch import Tensor

RECIPE: dict[str, Any] = {
    "quantize": [{"layers": "all", "centroids": 3}],
    "trainable": ["all"],
    "recover": [
        {"step": "renormalize", "samples": 96},
        {"step": "distill", "epochs": 4, "batch_size": 16, "lr": 0.01, "precision": "float32", "augment": ["flip"]},
        {"step": "distill", "epochs": 2, "batch_size": 32, "lr": 0.001, "precision": "float32", "mixup": 0.3},
    ],
}


class Killed(Exception):
    pass


class Listener:
    """Counts the steps of distill, and ends the run at one of them."""

    def __init__(self, at: int | None = None, error: type[BaseException] = Killed) -> None:
        self.at, self.error, self.steps = at, error, 0

    @lloydmax.hookimpl
    def lloydmax_step(self, step: str, metrics: dict[str, float]) -> None:
        if step == "distill" and "loss" in metrics:
            self.steps += 1
            if self.steps == self.at:
                raise self.error


def run(net: SmallNet, data: Tensor, folder: Path, workdir: Path | None, listener: Listener, **more: Any) -> bytes:
    result = lloydmax.compress(
        net, RECIPE, data, progress=False, workdir=workdir, listeners=[listener], **{"seed": 3, **more}
    )
    result.save(folder / "model.safetensors")
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize(("at", "done"), [(3, 0), (8, 5), (19, 15), (23, 22)])
def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(
    small_net: SmallNet, pictures: Tensor, tmp_path: Path, at: int, done: int
) -> None:
    whole = Listener()
    wanted = run(small_net, pictures, tmp_path, None, whole)
    with pytest.raises(Killed):
        run(small_net, pictures, tmp_path, tmp_path, Listener(at))
    rest = Listener()
    assert run(small_net, pictures, tmp_path, tmp_path, rest) == wanted
    assert rest.steps == whole.steps - done
    again = Listener()
    assert run(small_net, pictures, tmp_path, tmp_path, again) == wanted and again.steps == 0


def test_another_run_in_the_same_folder_starts_anew(small_net: SmallNet, pictures: Tensor, tmp_path: Path) -> None:
    run(small_net, pictures, tmp_path, tmp_path, Listener())
    for change in ({"seed": 4}, {"data": pictures + 1}, {"net": SmallNet().eval()}):
        given = {"net": small_net, "data": pictures, **change}
        heard = Listener()
        run(given.pop("net"), given.pop("data"), tmp_path, tmp_path, heard, **given)
        assert heard.steps > 0


def test_a_damaged_state_is_not_believed(small_net: SmallNet, pictures: Tensor, tmp_path: Path) -> None:
    wanted = run(small_net, pictures, tmp_path, tmp_path, Listener())
    for state in tmp_path.glob("compress-*/*.pt"):
        state.write_bytes(state.read_bytes()[:200])
    assert run(small_net, pictures, tmp_path, tmp_path, Listener()) == wanted


def test_ctrl_c_finishes_what_was_reached(small_net: SmallNet, pictures: Tensor, tmp_path: Path) -> None:
    listener = Listener(12, KeyboardInterrupt)
    with pytest.warns(UserWarning, match="interrupted in 'distill'.*goes on from"):
        result = lloydmax.compress(
            small_net, RECIPE, pictures, progress=False, seed=3, workdir=tmp_path, listeners=[listener]
        )
    said = result.report.recovery[-1]
    assert (said["step"], said["stopped"]) == ("distill", "interrupted")
    before, after = result.report.stages[1].agreement, result.report.stages[-1].agreement
    assert before is not None and after is not None and after.mse < before.mse
    result.save(tmp_path / "usable.safetensors")
    loaded = lloydmax.load(tmp_path / "usable.safetensors", SmallNet())
    with torch.no_grad():
        assert torch.equal(loaded(pictures), result.model(pictures))
    wanted = run(small_net, pictures, tmp_path, None, Listener())
    assert run(small_net, pictures, tmp_path, tmp_path, Listener()) == wanted
