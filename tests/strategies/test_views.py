"""Random views: the same for both models, of images only, and true to what they are called."""

from __future__ import annotations

import copy
from typing import Any

import lloydmax
import pytest
import torch
from conftest import SmallNet
from lloydmax import RecoveryError
from lloydmax.data import Batch
from lloydmax_strategies.training.views import ViewOptions, Views, _enlarged
from torch import Tensor, nn

ALL: dict[str, Any] = {"augment": ["flip", "crop", "resized_crop", "color"], "mixup": 0.4, "cutmix": 1.0}


def seen(x: Tensor, seed: int = 0, **options: Any) -> Tensor:
    """The view of one batch."""
    views = Views(ViewOptions(**options), torch.Generator().manual_seed(seed), seed)
    return next(views(Batch((x,))).tensors())


@pytest.mark.parametrize(
    "options", [{"augment": [kind]} for kind in ALL["augment"]] + [{"mixup": 0.4}, {"cutmix": 1.0}, ALL], ids=str
)
def test_both_models_see_the_same_view(small_net: SmallNet, pictures: Tensor, options: dict[str, Any]) -> None:
    student, inputs = copy.deepcopy(small_net), {}
    for name, model in (("student", student), ("teacher", small_net)):
        model.register_forward_hook(lambda _, args, __, name=name: inputs.setdefault(name, []).append(args[0].clone()))
    found = lloydmax.distill(student, small_net, pictures, epochs=1, batch_size=24, held_out=0.0, **options)
    assert found["teacher_runs"] == "in every step"
    views = {name: [view for view in batches if len(view) == 24] for name, batches in inputs.items()}
    assert len(views["teacher"]) == 4
    assert all(torch.equal(a, b) for a, b in zip(views["student"], views["teacher"], strict=True))
    original = {picture.numpy().tobytes() for picture in pictures}
    changed = [picture.contiguous().numpy().tobytes() not in original for view in views["teacher"] for picture in view]
    assert sum(changed) > 0.3 * len(changed)


def test_without_views_the_teacher_runs_once(small_net: SmallNet, pictures: Tensor) -> None:
    found = lloydmax.distill(copy.deepcopy(small_net), small_net, pictures, epochs=1, batch_size=32)
    assert found["teacher_runs"] == "once"


def test_views_follow_from_the_seed_alone(pictures: Tensor) -> None:
    assert torch.equal(seen(pictures, 3, **ALL), seen(pictures, 3, **ALL))
    assert not torch.equal(seen(pictures, 3, **ALL), seen(pictures, 4, **ALL))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_views_keep_shape_dtype_and_memory_format(pictures: Tensor, dtype: torch.dtype) -> None:
    x = pictures.to(dtype).contiguous(memory_format=torch.channels_last)
    view = seen(x, **ALL)
    assert view.shape == x.shape and view.dtype == dtype and bool(view.isfinite().all())
    assert seen(x, augment=["resized_crop"]).is_contiguous(memory_format=torch.channels_last)


def test_a_resized_crop_is_the_part_that_was_meant() -> None:
    ramp = torch.linspace(0, 1, 21)
    x = torch.stack([ramp[:, None].expand(21, 21), ramp.expand(21, 21)])[None]
    assert torch.allclose(_enlarged(x, torch.ones(2, 1), torch.zeros(2, 1), (21, 21)), x, atol=1e-6)
    part = _enlarged(x, torch.tensor([[0.5], [0.25]]), torch.tensor([[0.2], [0.6]]), (21, 21))[0, :, 10, 10]
    assert torch.allclose(part, (torch.tensor([0.45, 0.725]) * 21 - 0.5) / 20, atol=1e-5), "its centre, down and right"


@pytest.mark.parametrize("augment", [[], ["resized_crop"], ["flip", "color"]], ids=str)
def test_views_can_be_smaller(pictures: Tensor, augment: list[str]) -> None:
    view = seen(pictures, augment=augment, resize=0.5)
    assert view.shape == (96, 3, 6, 6) and view.amax() <= pictures.amax() and view.amin() >= pictures.amin()
    flat = torch.linspace(-1, 1, 96)[:, None, None, None].expand(96, 3, 12, 12)
    if "color" not in augment:
        assert torch.allclose(seen(flat, augment=augment, resize=0.5), flat[..., ::2, ::2], atol=1e-6)


def test_resized_crops_stay_inside_and_differ(pictures: Tensor) -> None:
    view = seen(pictures, augment=["resized_crop"])
    assert view.amax() <= pictures.amax() and view.amin() >= pictures.amin()
    same = seen(pictures[:1].expand(32, -1, -1, -1).clone(), augment=["resized_crop"])
    assert len({picture.numpy().tobytes() for picture in same}) == 32


def test_colour_is_linear_within_the_range_of_the_batch() -> None:
    x = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    view = seen(x, augment=["color"])
    assert view.amin() >= x.amin() and view.amax() <= x.amax()
    for before, after in zip(x, view, strict=True):
        free = (after > x.amin()) & (after < x.amax())
        slope, shift = torch.linalg.lstsq(torch.stack([before[free], torch.ones(int(free.sum()))], 1), after[free])[0]
        assert 0.59 < slope < 1.41 and torch.allclose(slope * before[free] + shift, after[free], atol=1e-4)


def test_cutmix_pastes_one_rectangle_of_another_input() -> None:
    x = torch.arange(8.0)[:, None, None, None].expand(8, 2, 10, 12).clone()
    for seed in range(8):
        view = seen(x, seed, cutmix=1.0)
        foreign = view != x
        assert torch.equal(foreign[:, 0], foreign[:, 1])
        for picture, mask in zip(view[:, 0], foreign[:, 0], strict=True):
            rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
            if len(rows):
                assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all() and mask.sum() == len(
                    rows
                ) * len(columns)
                assert len(picture[mask].unique()) == 1


def test_mixup_and_cutmix_take_turns(pictures: Tensor) -> None:
    def partly(seed: int) -> bool:
        """Whether some picture keeps some of its pixels and not others, as under CutMix."""
        changed = (seen(pictures, seed, mixup=1.0, cutmix=1.0) != pictures).flatten(1).float().mean(1)
        return bool(((changed > 0.05) & (changed < 0.95)).any())

    assert 6 < sum(map(partly, range(30))) < 24


def test_only_images_have_views() -> None:
    views = Views(ViewOptions(**ALL), torch.Generator().manual_seed(0), 0)
    tokens, vectors, images = torch.arange(12).view(4, 3), torch.randn(4, 5), torch.randn(4, 3, 8, 8)
    for _ in range(4):
        after = views(Batch((tokens, images), {"mask": tokens}))
        assert torch.equal(after.args[0], tokens) and torch.equal(after.kwargs["mask"], tokens)
        assert not torch.equal(after.args[1], images)
    with pytest.raises(RecoveryError, match=r"images.*float32 \(4, 5\)"):
        views(Batch((vectors,)))
    assert not torch.equal(seen(vectors, mixup=1.0), vectors)


def test_recipes_name_unknown_views() -> None:
    with pytest.raises(lloydmax.RecoveryError, match="augment"):
        lloydmax.distill(nn.Linear(2, 2), nn.Linear(2, 2), torch.randn(8, 2), augment=["blur"])
