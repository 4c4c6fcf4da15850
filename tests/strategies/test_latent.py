"""Codes that learn: they move, the entropy stays, nothing is left behind, and the outputs come closer."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch
from conftest import SmallNet
from lloydmax import demo, hookimpl
from lloydmax.student.attachment import CodebookWeight, attached
from lloydmax_strategies.training.latent import Latents, StraightThrough
from lloydmax_strategies.training.soft import Annealed
from torch import Tensor, nn
from torch.nn.utils import parametrize

STEP = {"step": "distill", "epochs": 4, "batch_size": 32, "optimizer": "adam", "relative_lr": True}


def recipe(codes: str, rule: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """Two bits for all layers, and a distillation."""
    rules = [{"layers": "all", "centroids": 4, **(rule or {})}]
    step = {**STEP, "codes": codes, **more}
    return {"version": 1, "quantize": rules, "trainable": ["all"], "recover": [step]}


def last(result: lloydmax.Result) -> float:
    """The mean squared difference from the teacher's outputs, at the end."""
    agreement = result.report.stages[-1].agreement
    assert agreement is not None
    return agreement.mse


def test_the_gradient_of_the_decoded_weight_goes_to_the_latent_one() -> None:
    weight = torch.tensor([3.0, -4.0])
    codebook = lloydmax.fit_codebook(weight, 2)
    through = StraightThrough(weight, CodebookWeight(codebook), codebook.centroids)
    decoded = torch.tensor([2.5, -3.5], requires_grad=True)
    (through(decoded) * torch.tensor([1.0, 2.0])).sum().backward()
    assert torch.equal(through(decoded), decoded)
    assert torch.allclose(through.latent * through.scale, torch.tensor([3.0, -4.0]))
    assert through.latent.grad is not None and decoded.grad is not None
    assert torch.allclose(through.latent.grad, through.scale * decoded.grad)


@pytest.mark.parametrize("rule", [{}, {"granularity": "channel"}, {"block": 2, "centroids": 16}], ids=str)
def test_learned_codes_come_closer_than_fixed_ones(small_net: SmallNet, pictures: Tensor, rule: dict[str, Any]) -> None:
    layers = ["padded", "head.*"] if "block" in rule else ["*"]
    found = {
        codes: lloydmax.compress(
            small_net, recipe(codes, rule | {"layers": layers}, codes_lr=2e-2), pictures, progress=False
        )
        for codes in ("fixed", "learn")
    }
    assert last(found["learn"]) < last(found["fixed"])
    said = found["learn"].report.recovery[-1]
    assert 0 < said["codes_changed"] < 1 and "codes_changed" not in found["fixed"].report.recovery[-1]


def test_the_entropy_stays_where_bits_have_a_price() -> None:
    model, data = demo.network(), demo.silhouettes()[:128]
    made = recipe("learn", {"centroids": 64}, epochs=12, codes_lr=1e-2)
    made |= {"bits": 2.5, "storage": {"floats": "float16", "codes": "entropy"}}
    before = lloydmax.compress(model, made | {"recover": []}, data, progress=False)
    after = lloydmax.compress(model, made, data, progress=False)
    assert after.report.recovery[-1]["codes_changed"] > 0.01
    sizes = [result.report.bytes.file for result in (before, after)]
    assert abs(sizes[1] / sizes[0] - 1) < 0.02
    assert last(after) < 0.7 * last(before)


def test_nothing_is_left_behind(small_net: SmallNet, pictures: Tensor, tmp_path: Path) -> None:
    result = lloydmax.compress(small_net, recipe("learn"), pictures, progress=False)
    assert not any(
        parametrize.is_parametrized(module) for module in result.model.modules() if module is not result.model.padded
    )
    assert not any("latent" in name for name, _ in result.model.named_parameters())
    result.save(tmp_path / "a.safetensors")
    loaded = lloydmax.load(tmp_path / "a.safetensors", copy.deepcopy(small_net))
    assert torch.equal(loaded(pictures), result.model(pictures))


def test_latent_weights_start_from_the_original(small_net: SmallNet) -> None:
    student = copy.deepcopy(small_net)
    held = lloydmax.fit_codebook(small_net.stem.weight, 4)
    lloydmax.student.attachment.attach(student, "stem.weight", held)
    latents = Latents(student, small_net)
    codes = next(attached(student))[3].codes.clone()
    latents.choose()
    assert torch.equal(next(attached(student))[3].codes, codes)
    (latent,) = latents.parameters
    with torch.no_grad():
        latent.neg_()
    latents.choose()
    assert torch.equal(student.stem.weight, held.reassigned(-small_net.stem.weight).dequantize())
    assert latents.measured()["codes_changed"] > 0.5
    latents.remove()
    assert len(student.stem.parametrizations.weight) == 1


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        (StraightThrough, {}),
        (StraightThrough, {"granularity": "channel"}),
        (StraightThrough, {"block": 3}),
        (Annealed, {}),
    ],
    ids=str,
)
def test_codes_that_are_not_the_nearest_stay(
    small_net: SmallNet, kind: type[StraightThrough], rule: dict[str, Any]
) -> None:
    student = copy.deepcopy(small_net)
    held = lloydmax.fit_codebook(small_net.stem.weight, 4, **rule)
    given = held.codes.clone()
    given.view(-1)[::5] = (given.view(-1)[::5] + 1) % 4
    lloydmax.student.attachment.attach(student, "stem.weight", replace(held, codes=given.clone()))
    latents = Latents(student, small_net, kind)
    latents.choose()
    assert torch.equal(next(attached(student))[3].codes, given)
    latents.remove()


def test_frozen_codebooks_keep_their_codes(small_net: SmallNet, pictures: Tensor) -> None:
    made = recipe("learn", codes_lr=2e-2) | {"trainable": ["norms"]}
    with pytest.warns(UserWarning, match="'codes: learn' changes nothing: no codebook of the student is trained"):
        trained = lloydmax.codebooks(lloydmax.compress(small_net, made, pictures, progress=False).model)
    fitted = lloydmax.codebooks(lloydmax.compress(small_net, made | {"recover": []}, progress=False).model)
    assert all(torch.equal(trained[name].codes, fitted[name].codes) for name in fitted)


def test_the_best_state_has_the_codes_of_its_epoch(small_net: SmallNet, pictures: Tensor) -> None:
    made = recipe("learn", codes_lr=1.0, lr=1.0, held_out=0.3, schedule="constant")
    result = lloydmax.compress(small_net, made, pictures, progress=False)
    said = result.report.recovery[-1]
    assert said["agreement"] >= said["agreement_before"]


@pytest.mark.parametrize("option", ["learn", "anneal"])
def test_a_killed_run_goes_on_to_the_same_bytes(
    small_net: SmallNet, pictures: Tensor, tmp_path: Path, option: str
) -> None:
    class Killed(Exception):
        pass

    class Killer:
        @hookimpl
        def lloydmax_step(self, step: str, index: int) -> None:
            if step == "distill" and index == 5:
                raise Killed

    made = recipe(option, codes_lr=2e-2)
    whole = lloydmax.compress(small_net, made, pictures, progress=False)
    (tmp_path / "work").mkdir()
    with pytest.raises(Killed):
        lloydmax.compress(small_net, made, pictures, progress=False, workdir=tmp_path / "work", listeners=[Killer()])
    again = lloydmax.compress(small_net, made, pictures, progress=False, workdir=tmp_path / "work")
    for file, result in (("a", whole), ("b", again)):
        result.save(tmp_path / file)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_hosts_without_an_original_start_from_the_decoded_weights(pictures: Tensor) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(432, 16), nn.ReLU(), nn.Linear(16, 4))
    student = copy.deepcopy(model)
    for name in ("1.weight", "3.weight"):
        lloydmax.student.attachment.attach(student, name, lloydmax.fit_codebook(student.get_parameter(name), 4))
    found = lloydmax.distill(student, model, pictures, codes="learn", codes_lr=5e-2, epochs=6, batch_size=16)
    assert found["codes_changed"] > 0
