"""Runs that are killed or interrupted."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lloydmax
import numpy as np
import pytest
import torch
from conftest import SmallNet
from lloydmax.data import unlabelled
from lloydmax.recovery.resume import KeptSteps, Traces, identity
from lloydmax.runtime import state
from lloydmax.runtime.modes import own_modes
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

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


def run(
    net: nn.Module, data: Any, folder: Path, workdir: Path | None, listener: Listener, recipe: Any = None, **more: Any
) -> tuple[bytes, Any]:
    """The bytes of the file, and the report without times."""
    given = {"seed": 3, "progress": False, "workdir": workdir, "listeners": [listener], **more}
    result = lloydmax.compress(net, recipe or RECIPE, data, **given)
    result.save(folder / "model.safetensors")
    report = {key: value for key, value in result.report.to_dict().items() if key != "seconds"}
    return (folder / "model.safetensors").read_bytes(), report


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
    other, last = SmallNet().eval(), pictures.clone()
    last[-1, 0, 0, 0] += 1
    for change in ({"seed": 4}, {"data": last}, {"net": other}, {"recipe": {**RECIPE, "classes": 1}}):
        given = {"net": small_net, "data": pictures, **change}
        heard = Listener()
        run(given.pop("net"), given.pop("data"), tmp_path, tmp_path, heard, **given)
        assert heard.steps > 0


def _identity(net: nn.Module, data: Any, recipe: Any = None, given: Any = (), reference: Any = None) -> bytes:
    sources = [None if one is None else unlabelled(one, net) for one in (data, reference)]
    return identity(net, lloydmax.Recipe.load(recipe or RECIPE), sources, given)


class Drawing(Dataset[Tensor]):
    def __init__(self, pictures: Tensor, strength: float) -> None:
        self.pictures, self.strength, self.reads = pictures, strength, 0

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Tensor:
        return self.pictures[index] + self.strength * torch.rand(3, 12, 12)


class Counting(Drawing):
    def __getitem__(self, index: int) -> Tensor:
        self.reads += 1
        return self.pictures[index] * self.strength


class Shifted(Counting):
    def __getitem__(self, index: int) -> Tensor:
        return self.pictures[index] * self.strength + (index == 95)


def test_all_that_changes_a_result_tells_runs_apart(small_net: SmallNet, pictures: Tensor, tmp_path: Path) -> None:
    def changed(at: int) -> Tensor:
        other = pictures.clone()
        other.view(-1)[at] += 1
        return other

    def pairs(data: Tensor, **loading: Any) -> DataLoader[Any]:
        return DataLoader(TensorDataset(data, torch.arange(96)), batch_size=8, **loading)

    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(3):
        Image.fromarray(np.full((12, 12, 3), 40 * number, np.uint8)).save(photos / f"{number}.png")
    data: list[Any] = [
        pictures, changed(0), changed(-1), changed(pictures.numel() // 2), pictures[:95],
        pictures.double(), str(photos),
        list(pictures.split(8)), list(pictures.split(16)), pairs(pictures), pairs(changed(-1)),
        pairs(pictures, sampler=range(95, -1, -1)), Drawing(pictures, 0.1), Drawing(pictures, 0.2),
        Drawing(changed(50), 0.1), Counting(pictures, 1.0), Counting(pictures, 2.0), Shifted(pictures, 1.0),
    ]  # fmt: skip
    found = [_identity(small_net, one) for one in data]
    assert len(set(found)) == len(found)
    assert found == [_identity(small_net, one) for one in data]
    base = found[0]
    os.utime(photos / "1.png", ns=(1, 1))
    assert _identity(small_net, str(photos)) not in found
    assert _identity(small_net, pictures, reference=pictures) != base
    assert _identity(small_net, pictures, given=[torch.ones(1)]) != _identity(
        small_net, pictures, given=[torch.zeros(1)]
    )
    for more in ({"trainable": ["codebooks"]}, {"storage": {"floats": "float16"}}, {"mask": None}, {"seed": 1}):
        assert _identity(small_net, pictures, {**RECIPE, **more}) != base


def test_the_machine_and_versions_tell_runs_apart_but_not_the_callers_modes(
    small_net: SmallNet, pictures: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = _identity(small_net, pictures)
    precision, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    try:
        torch.set_default_dtype(torch.float64)
        with own_modes(), torch.no_grad():
            assert _identity(small_net, pictures) == base
        torch.set_default_dtype(torch.float32)
        torch.set_float32_matmul_precision("medium")
        assert _identity(small_net, pictures) != base
        torch.set_float32_matmul_precision(precision)
        torch.set_num_threads(threads + 1)
        assert _identity(small_net, pictures) != base
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_float32_matmul_precision(precision)
        torch.set_num_threads(threads)
    monkeypatch.setattr(torch, "__version__", "3.0")
    assert _identity(small_net, pictures) != base


NEW_PRECISIONS = """
import lloydmax, torch
from lloydmax.runtime.machine import arithmetic
net, recipe = torch.nn.Linear(4, 2).eval(), {"quantize": [{"layers": "all", "centroids": 2}]}
backends, told = torch.backends, [arithmetic(torch.device("cpu"))]
for part, value in (
    (backends.cuda.matmul, "tf32"), (backends.cudnn.conv, "ieee"), (backends.mkldnn.matmul, "bf16"),
    (backends.mkldnn, "bf16"), (backends, "tf32"),
):
    part.fp32_precision = value
    lloydmax.compress(net, recipe, torch.randn(8, 4), progress=False, workdir=".")
    told.append(arithmetic(torch.device("cpu")))
assert all(one != other for one, other in zip(told, told[1:])), told
"""


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch has no such setting")
def test_the_precision_of_every_backend_counts(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", NEW_PRECISIONS], cwd=tmp_path, check=True)


@pytest.mark.parametrize("at", [3, 19])
def test_a_damaged_or_foreign_state_is_told_set_aside_and_made_again(
    small_net: SmallNet, pictures: Tensor, tmp_path: Path, at: int
) -> None:
    wanted = run(small_net, pictures, tmp_path, None, Listener())
    with pytest.raises(Killed):
        run(small_net, pictures, tmp_path, tmp_path, Listener(at))
    states = sorted(tmp_path.glob("compress-*/*.state"))
    assert states
    for number, path in enumerate(states):
        torch.save({"student": {}}, path) if number else path.write_bytes(path.read_bytes()[:200])
    with pytest.warns(UserWarning, match="set aside") as told:
        assert run(small_net, pictures, tmp_path, tmp_path, Listener()) == wanted
    assert sum("set aside" in str(warning.message) for warning in told) == len(states)
    names = {path.name for path in tmp_path.glob("compress-*/*")}
    assert names == {"step1.state", "step2.state", "step3.state", *(f"{path.name}.damaged" for path in states)}
    again = Listener()
    assert run(small_net, pictures, tmp_path, tmp_path, again) == wanted and not again.steps


def _changed(part: dict[str, Any], key: str, value: Any) -> None:
    part["step"][key] = value(part["step"][key])


FOREIGN: dict[str, Callable[[dict[str, Any]], object]] = {
    "empty": dict.clear,
    "nothing": lambda part: part.update(step=None),
    "no traces": lambda part: part.pop("traces"),
    "no holders": lambda part: part["traces"].update(held=[]),
    "no random states": lambda part: part["traces"]["random"].update(python=[1]),
    "fewer tensors": lambda part: part["step"]["live"].pop(),
    "other shapes": lambda part: _changed(part, "live", lambda live: [torch.zeros(1) for _ in live]),
    "other best": lambda part: _changed(part, "kept", lambda kept: [torch.zeros(1) for _ in kept]),
    "no optimizer": lambda part: part["step"].pop("more"),
    "no generator": lambda part: _changed(part, "generator", lambda _: torch.zeros(3, dtype=torch.uint8)),
    "many steps": lambda part: _changed(part, "done", lambda _: 10**12),
    "no agreement": lambda part: _changed(part, "best", lambda _: {"mse": "x"}),
    "no number": lambda part: _changed(part, "parts", lambda _: {"loss": None}),
}


def test_a_step_under_way_that_kept_something_else_is_set_aside(
    small_net: SmallNet, pictures: Tensor, tmp_path: Path
) -> None:
    wanted = run(small_net, pictures, tmp_path, None, Listener())
    with pytest.raises(Killed):
        run(small_net, pictures, tmp_path, tmp_path / "killed", Listener(19))
    for name, change in FOREIGN.items():
        work = tmp_path / name
        shutil.copytree(tmp_path / "killed", work)
        (file,) = work.glob("*/*-part.state")
        part = state.read(file)
        change(part)
        state.write(file, part)
        with pytest.warns(UserWarning, match="set aside") as told:
            assert run(small_net, pictures, tmp_path, work, Listener()) == wanted, name
        said = [str(one.message) for one in told if "set aside" in str(one.message)]
        assert len(said) == 1 and "does not fit this run" in said[0] and len(said[0].splitlines()) == 1


def test_a_state_of_another_student_is_set_aside(tmp_path: Path) -> None:
    net, other = nn.Linear(2, 2), nn.Linear(3, 3)
    before = [parameter.detach().clone() for parameter in net.parameters()]
    for student in (other, net):
        kept = KeptSteps(tmp_path, b"1", Traces([]))
        with kept.alone(), warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            assert kept.step(1, student, lambda: {"made": 1}) == {"made": 1}
        assert len(told) == (student is net)
    assert all(map(torch.equal, net.parameters(), before))


def test_of_two_runs_in_one_workdir_one_waits(small_net: SmallNet, pictures: Tensor, tmp_path: Path) -> None:
    heard = [Listener(), Listener()]
    with warnings.catch_warnings(record=True) as told, ThreadPoolExecutor(2) as pool:
        warnings.simplefilter("always")
        runs = [
            pool.submit(lloydmax.compress, small_net, RECIPE, pictures, seed=3, progress=False, workdir=tmp_path,
                        listeners=[one]) for one in heard
        ]  # fmt: skip
        first, second = (done.result().report.to_dict()["stages"] for done in runs)
    assert first == second and 0 in [one.steps for one in heard]
    assert any(f"process {os.getpid()} works on the same run" in str(warning.message) for warning in told)
    assert not list(tmp_path.glob("compress-*/lock"))


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
