"""Alignment of low-level features: where, by what, with what effect; errors; the same inside distill."""

from __future__ import annotations

import copy
import math
import statistics
import warnings
from typing import Any

import lloydmax
import pytest
import torch
from conftest import SmallNet, TextNet
from lloydmax import RecoveryError, run_step
from lloydmax.data import unlabelled
from lloydmax_strategies.align import AlignmentOptions, ramp
from lloydmax_strategies.alignment import discriminator
from lloydmax_strategies.alignment.discriminator import Discriminator, reversed_gradient, separability, told_apart
from lloydmax_strategies.alignment.first_stage import Call, channel_axis, find, record
from lloydmax_strategies.alignment.pull import Adversary
from lloydmax_strategies.alignment.reference_labels import reference_labels
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

FEW: dict[str, Any] = {"steps": 6, "batch_size": 16, "lr": 1e-3, "precision": "float32", "held_out": 0.2}
INPUTS, FEATURES = 24, 12


def align(student: nn.Module, teacher: nn.Module, data: Any, reference: Any = None, **options: Any) -> dict[str, Any]:
    return run_step("align", student, teacher, data, reference_data=reference, **FEW | options)


class Low(nn.Module):
    """Features of all inputs but the first, which the teacher does not look at and a student may."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.leak = nn.Linear(INPUTS - 1, FEATURES, bias=False), nn.Linear(1, FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        return self.stem(x[:, 1:]) + self.leak(x[:, :1])


class Leaky(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.low, self.mid, self.head = Low(), nn.Linear(FEATURES, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.mid(torch.relu(self.low(x)))))


def leaking(seed: int, spread: float) -> tuple[nn.Module, nn.Module, Tensor, Tensor, Tensor]:
    """``(teacher, student, reference, foreign, test)``.

    Foreign inputs are reference inputs whose first value, of deviation ``spread`` there, is always 1. The student's
    low-level features contain it, and a bias hides that from its outputs on foreign inputs: only the original domain
    tells.
    """
    torch.manual_seed(seed)
    teacher = Leaky()
    with torch.no_grad():
        teacher.low.stem.weight.normal_(0, INPUTS**-0.5)
        teacher.mid.weight.normal_()
        teacher.head.weight.normal_(0, 0.5)
        for parameter in teacher.low.leak.parameters():
            parameter.zero_()
        teacher.head.bias.sub_(teacher(torch.randn(1000, INPUTS)).mean(0))
        student = copy.deepcopy(teacher)
        student.low.leak.weight.copy_(torch.randn(FEATURES, 1).sign())
        student.low.leak.bias.copy_(-student.low.leak.weight[:, 0])
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(name.startswith("low.leak"))
    reference, foreign = torch.randn(2128, INPUTS), torch.randn(1200, INPUTS)
    reference[:, 0] *= spread
    foreign[:, 0] = 1
    return teacher.eval(), student, reference[:128], foreign, reference[128:]


def agreement(student: nn.Module, teacher: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return float((student(x).argmax(1) == teacher(x).argmax(1)).float().mean())


def small_student(net: nn.Module) -> nn.Module:
    student = copy.deepcopy(net)
    with torch.no_grad():
        student.stem.weight.add_(0.3)
    return student


def tap_of(model: nn.Module, x: Tensor, layer: str | None = None) -> tuple[Call, int]:
    calls = record(model, unlabelled(x, model))
    tap = find(model, calls, layer)
    return tap, channel_axis(calls, tap)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("vgg11_bn", "features.6"),
        ("vgg16", "features.3"),
        ("resnet18", "layer1"),
        ("mobilenet_v2", "features.1"),
        ("convnext_tiny", "features.1"),
    ],
)
def test_the_first_stage_of_torchvisions_networks(name: str, layer: str) -> None:
    import torchvision

    with torch.device("meta"):
        model = getattr(torchvision.models, name)(weights=None).eval()
    tap, axis = tap_of(model, torch.zeros(2, 3, 64, 64))
    assert (tap.name, axis) == (layer, 1)


def test_the_first_stage_of_plain_networks_and_transformers(text_net: TextNet) -> None:
    def found(model: nn.Module, x: Tensor) -> tuple[str, int]:
        tap, axis = tap_of(model.eval(), x)
        return tap.name, axis

    def linear() -> list[nn.Module]:
        return [nn.Linear(6, 6), nn.ReLU()]

    pooled = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(144, 2)]
    assert found(nn.Sequential(*pooled), torch.zeros(2, 3, 18, 18)) == ("2", 1)
    assert found(nn.Sequential(*linear(), *linear(), *linear()), torch.zeros(2, 6)) == ("1", 1)
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 8)
    assert found(nn.Sequential(nn.Linear(4, 8), encoder), torch.zeros(2, 5, 4)) == ("1.layers.1", 2)
    waves = [nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Conv1d(4, 4, 3), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(4, 4, 3)]
    assert found(nn.Sequential(*waves), torch.zeros(2, 1, 32))[1] == 1
    assert found(text_net, torch.zeros(2, 5, dtype=torch.int64)) == ("embed", 2)


def test_a_layer_by_name(small_net: SmallNet, pictures: Tensor) -> None:
    assert tap_of(small_net, pictures, "bn1")[0].shape == (2, 8, 6, 6)
    with pytest.raises(RecoveryError, match="'bn3' does not exist; did you mean 'bn"):
        tap_of(small_net, pictures, "bn3")
    small_net.spare = nn.Linear(2, 2)
    with pytest.raises(RecoveryError, match="'spare' is never called"):
        tap_of(small_net, pictures, "spare")


@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 9), (3, 17, 5), (3, 1, 1), (2, 4, 5, 6)])
def test_the_discriminator_takes_features_of_any_form(shape: tuple[int, ...]) -> None:
    state = torch.get_rng_state()
    examples = 1e4 * torch.randn(6, *shape, generator=torch.Generator().manual_seed(0)) + 7
    one, two = (Discriminator(examples, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert one(examples).shape == (6,) and torch.equal(one(examples), two(examples))
    assert one(examples).abs().max() < 20, "the scale of the features does not matter"
    assert one(examples[..., :4]).shape == (6,) if len(shape) > 1 else True


def test_features_that_differ_are_told_apart_and_alike_ones_are_not() -> None:
    torch.manual_seed(0)
    far, near = (
        torch.randn(2, 128, 3, 4) + 1.5 * torch.tensor([1.0, 0.0])[:, None, None, None],
        torch.randn(2, 128, 3, 4),
    )
    assert separability((far[0], far[1]), (far[0] + 0.01, far[1] + 0.01), 0) > 0.95
    fresh = torch.randn(2, 256, 3, 4)
    assert abs(separability((near[0], near[1]), (fresh[0], fresh[1]), 0) - 0.5) < 0.1
    assert separability((far[0], far[1]), (near[0], near[1]), 3) == separability(
        (far[0], far[1]), (near[0], near[1]), 3
    )


def test_the_reversed_gradient_is_minus_the_difference_quotient() -> None:
    x, step = torch.tensor([0.3, -1.2], dtype=torch.float64, requires_grad=True), 1e-6

    def f(x: Tensor) -> Tensor:
        return (x.sin() * x).sum()

    assert torch.equal(f(reversed_gradient(x, 0.7)), f(x))
    f(reversed_gradient(x, 0.7)).backward()
    unit = torch.eye(2, dtype=torch.float64)
    quotient = torch.stack([(f(x + step * e) - f(x - step * e)) / (2 * step) for e in unit]).detach()
    assert torch.allclose(x.grad, -0.7 * quotient, atol=1e-8)


def features() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(16, 4).requires_grad_(), (torch.randn(16, 4) + 1).requires_grad_()


def test_reversal_pulls_both_domains_while_the_discriminator_learns() -> None:
    reference, foreign = features()
    adversary = Adversary(AlignmentOptions(adversarial="reversal"), seed=0)
    parts = adversary.losses(reference, foreign, 0.5)
    model = copy.deepcopy(adversary.model)
    sum(parts.values()).backward()
    told_apart(model(reference_copy := reference.detach().requires_grad_()), model(foreign.detach())).backward()
    assert torch.allclose(reference.grad, -0.5 * reference_copy.grad)
    before = told_apart(model(reference), model(foreign))
    adversary.step()
    assert told_apart(adversary.model(reference), adversary.model(foreign)) < before


def test_alternating_pulls_foreign_features_to_the_reference() -> None:
    reference, foreign = features()
    adversary = Adversary(AlignmentOptions(adversarial="alternating", discriminator_steps=5), seed=0)
    parts = adversary.losses(reference, foreign, 0.5)
    model, state = adversary.model, copy.deepcopy(adversary.model.state_dict())
    fresh = Discriminator(torch.cat([reference, foreign]), torch.Generator().manual_seed(2))
    assert parts["loss_discriminator"] < told_apart(fresh(reference), fresh(foreign)), "it has learned"
    sum(parts.values()).backward()
    adversary.step()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert reference.grad is None
    expected = torch.autograd.grad(
        nn.functional.softplus(-model(moved := foreign.detach().requires_grad_())).mean(), moved
    )
    assert torch.allclose(foreign.grad, 0.5 * expected[0])
    assert model(foreign - foreign.grad).mean() > model(foreign).mean(), "a step down looks more like the reference"


def recovered(seed: int, weight: float, spread: float) -> tuple[float, float, float]:
    """Accuracy of the discriminator before and after, agreement on the original domain after."""
    teacher, student, reference, foreign, test = leaking(seed, spread)
    sgd = {"optimizer": "sgd", "momentum": 0.5, "lr": 0.05, "steps": 200, "batch_size": 64, "held_out": 0.1}
    options = {"layer": "low", "reference_share": 0.125, "reference_held_out": 0.5, "weight": weight}
    said = align(student, teacher, foreign, reference, seed=seed, **options | sgd)
    return said["discriminator_accuracy_before"], said["discriminator_accuracy"], agreement(student, teacher, test)


def test_alignment_brings_the_domains_together_and_the_answers_on_the_original_one_back() -> None:
    before, after, agreed = recovered(0, 2.0, spread=0.3)
    _, apart, without = recovered(0, 0.0, spread=0.3)
    assert before > 0.85 and apart > 0.8 and after < 0.7
    assert agreed > without + 0.1


@pytest.mark.slow
def test_alignment_helps_in_the_median_of_seeds() -> None:
    found = {weight: [recovered(seed, weight, spread=1.0) for seed in range(3)] for weight in (0.0, 2.0)}
    medians = {
        weight: [statistics.median(values) for values in zip(*runs, strict=True)] for weight, runs in found.items()
    }
    assert medians[2.0][1] < medians[2.0][0] - 0.1 and medians[2.0][1] < medians[0.0][1]
    assert medians[2.0][2] > medians[0.0][2] + 0.03


def test_the_weight_rises_from_0_to_1() -> None:
    values = [ramp(share / 10) for share in range(11)]
    assert values[0] == 0 and values == sorted(values) and values[-1] == pytest.approx(1, abs=1e-4)
    assert values[2] == pytest.approx(math.tanh(1.0))


@pytest.fixture
def pictures(pictures: Tensor, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Small maps and a short probe: these tests are not about its accuracy."""
    monkeypatch.setattr(discriminator, "_PROBE_STEPS", 3)
    return pictures[:, :, :6, :6].contiguous()


@pytest.fixture
def foreign(pictures: Tensor) -> Tensor:
    return 1.5 * pictures.flip(-1) + 2


def test_without_reference_data_batch_norm_statistics_are_matched(small_net: SmallNet, foreign: Tensor) -> None:
    gaps = {}
    for weight in (0.0, 10.0):
        student = small_student(small_net)
        found = align(student, small_net, foreign, weight=weight, layer="bn1", steps=30, lr=0.01, held_out=0.4)
        gaps[weight] = found["statistics_gap"]
        assert found["alignment"] == "statistics of batch norm" and found["reference_samples"] == 0
        assert "discriminator_accuracy" not in found and found["agreement_on"] == "data"
    assert gaps[10.0] < 0.7 * found["statistics_gap_before"] and gaps[10.0] < 0.8 * gaps[0.0]


def test_without_reference_data_and_batch_norm_there_is_nothing_to_align_to(
    small_net: SmallNet, foreign: Tensor
) -> None:
    with pytest.raises(RecoveryError, match="no batch norm up to layer 'stem'.*pass reference_data"):
        align(small_student(small_net), small_net, foreign, layer="stem")
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    with pytest.raises(RecoveryError, match="no batch norm up to layer '1'"):
        align(copy.deepcopy(model), model, torch.randn(32, 6))


@pytest.mark.parametrize("adversarial", ["reversal", "alternating"])
def test_what_is_reported_and_that_it_is_reproducible(
    small_net: SmallNet, foreign: Tensor, pictures: Tensor, adversarial: str
) -> None:
    kept = copy.deepcopy(small_net.state_dict())
    runs = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(runs))
        student = small_student(small_net)
        options = {"adversarial": adversarial, "discriminator_steps": 2, "layer": "bn1", "augment": ["flip"]}
        found = align(student, small_net, foreign, pictures[:20], seed=seed, **options)
        runs.append((found, student.state_dict()))
    (found, state), (again, same), (other, _) = runs
    assert found == again and all(torch.equal(state[name], same[name]) for name in state)
    assert found["loss"] != other["loss"] and found["loss_discriminator"] != other["loss_discriminator"]
    assert all(torch.equal(kept[name], value) for name, value in small_net.state_dict().items())
    assert found["reference_samples"] == 15 and found["held_out_samples"] == 5
    assert found["agreement_on"] == "reference_data" and found["layer"] == "bn1" and found["steps"] == 6
    for key in ("foreign_agreement", "reference_agreement", "discriminator_accuracy"):
        assert 0 <= found[f"{key}_before"] <= 1 and 0 <= found[key] <= 1
    assert all(math.isfinite(found[key]) for key in ("loss", "loss_alignment", "loss_discriminator"))


def test_distill_with_a_section_align_is_align(small_net: SmallNet, foreign: Tensor, pictures: Tensor) -> None:
    one, two, three = (small_student(small_net) for _ in range(3))
    options, few = {"weight": 0.5, "layer": "bn1", "reference_held_out": 0.0}, FEW | {"held_out": 0.0}
    found = align(one, small_net, foreign, pictures[:20], **options | few)
    assert lloydmax.distill(two, small_net, foreign, reference_data=pictures[:20], align=options, **few) == found
    assert all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())
    lloydmax.distill(three, small_net, foreign, reference_data=pictures[:20], **few)
    assert any(not torch.equal(value, three.state_dict()[name]) for name, value in one.state_dict().items())


def test_a_single_reference_sample_will_do(small_net: SmallNet, foreign: Tensor, pictures: Tensor) -> None:
    found = align(small_student(small_net), small_net, foreign, pictures[:1], batch_size=4)
    assert found["steps"] == 6 and found["reference_samples"] == 1 and found["agreement_on"] == "data"
    with pytest.raises(RecoveryError, match="batch_size must be at least 2"):
        align(small_student(small_net), small_net, foreign, pictures[:1], batch_size=1)


def test_sequences_and_tokens(text_net: TextNet) -> None:
    tokens, student = torch.randint(0, 50, (48, 7)), copy.deepcopy(text_net)
    with torch.no_grad():
        student.lstm.bias_hh_l0.add_(0.5)
    for layer in (None, "lstm"):
        assert align(student, text_net, tokens[:32] // 2, tokens[32:], layer=layer)["steps"] == 6


def test_labels_are_used_only_if_asked_for(small_net: SmallNet, foreign: Tensor, pictures: Tensor) -> None:
    labels = torch.arange(20) % 5
    pairs = TensorDataset(pictures[:20], labels)

    def run(reference: Any, **options: Any) -> dict[str, Any]:
        return align(small_student(small_net), small_net, foreign, reference, **options)

    assert run(pairs)["loss"] == run(pictures[:20])["loss"]
    for reference in (pairs, DataLoader(pairs, 5)):
        assert run(reference, labels=True)["loss_labels"] > 0.1
    shuffled = DataLoader(pairs, 5, shuffle=True)
    source = unlabelled(shuffled, small_net, seed=3)
    ((_, batch),) = source.batches(20)
    rows = (batch.args[0][:, None] == pictures[None, :20]).all((2, 3, 4)).float().argmax(1)
    assert torch.equal(reference_labels(source), labels[rows])
    with pytest.raises(RecoveryError, match="have none: pass a dataset of .input, label. pairs"):
        run(pictures[:20], labels=True)
    with pytest.raises(RecoveryError, match="labels: true is about reference data"):
        run(None, labels=True, layer="bn1")
    with pytest.raises(RecoveryError, match="does not go with mixup"):
        run(pairs, labels=True, mixup=0.2)
    with pytest.raises(RecoveryError, match="label . is not one of the 5 classes"):
        run(TensorDataset(pictures[:20], labels + 5), labels=True)
    with pytest.raises(RecoveryError, match="class numbers from 0"):
        run(TensorDataset(pictures[:20], labels - 1), labels=True)


def test_nothing_trainable_up_to_the_layer_is_warned_of(small_net: SmallNet, foreign: Tensor, pictures: Tensor) -> None:
    student = small_student(small_net)
    for module in (student.stem, student.bn1):
        module.requires_grad_(False)
    with pytest.warns(UserWarning, match=r"nothing up to layer 'bn1' is trainable.*\[\.\.\., stem, bn1\]"):
        align(student, small_net, foreign, pictures[:20], layer="bn1")
    student.bn1.requires_grad_(True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        align(student, small_net, foreign, pictures[:20], layer="bn1")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"wieght": 1}, "did you mean 'weight'"),
        ({"weight": -1}, "weight"),
        ({"adversarial": "reverse"}, "'reversal' or 'alternating'"),
        ({"reference_share": 1.0}, "reference_share"),
        ({"discriminator_steps": 0}, "discriminator_steps"),
    ],
)
def test_wrong_options_are_told(small_net: SmallNet, foreign: Tensor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecoveryError, match=message):
        align(small_net, small_net, foreign, foreign, **options)
    with pytest.raises(RecoveryError, match=f"align\\.{next(iter(options))}"):
        lloydmax.distill(small_net, small_net, foreign, align=options)


@pytest.mark.parametrize(
    "step", [{"step": "align"}, {"step": "distill", "align": {"adversarial": "alternating"}}], ids=lambda s: s["step"]
)
def test_in_a_recipe(small_net: SmallNet, foreign: Tensor, pictures: Tensor, step: dict[str, Any]) -> None:
    recipe = {"quantize": [{"layers": "all", "centroids": 4}], "trainable": ["all"], "recover": [step | FEW]}
    result = lloydmax.compress(small_net, recipe, foreign, pictures[:20], progress=False)
    assert result.report.recovery[0]["step"] == step["step"]
    assert 0 <= result.report.recovery[0]["discriminator_accuracy"] <= 1
    frozen = recipe | {"trainable": ["head.2.bias"]}
    with pytest.warns(UserWarning, match=r"trainable: \[\.\.\., codebooks"):
        lloydmax.compress(small_net, frozen, foreign, pictures[:20], progress=False)
