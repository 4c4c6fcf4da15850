"""PT2E: int8 weights and activations with trained thresholds, by the quantizer that knows codebooks."""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch
import torch.nn.functional as F
from lloydmax.runtime import machine
from lloydmax.student.observers import FakeQuantizers
from torch import Tensor, nn

pytest.importorskip("torchao")

from lloydmax.integrations.torchao import CodebookQuantizer, verify
from torchao.quantization.pt2e import allow_exported_model_train_eval
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
UNIFORM = {"layers": "all", "quantizer": "uniform", "granularity": "channel"}
RECIPE: dict[str, Any] = {
    "quantize": [UNIFORM, {"layers": "wide", "centroids": 16}],
    "activations": {"samples": 32, "host": "own"},
    "trainable": ["none"],
}


class Branches(nn.Module):
    """A sum, a gate whose range is known, a join, and what only moves values."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 1)
        self.wide, self.head = nn.Conv2d(12, 8, 1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem(x)), 2)
        x = F.relu(self.left(x) + self.right(x))
        x = torch.cat([x, x * torch.sigmoid(F.adaptive_avg_pool2d(x, 1))], 1)
        return self.head(F.hardswish(self.wide(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return Branches().eval()


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(32, 3, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def prepared(net: nn.Module, x: Tensor) -> Any:
    made = prepare_pt2e(torch.export.export(copy.deepcopy(net), (x,)).module(), CodebookQuantizer(RECIPE, net))
    allow_exported_model_train_eval(made)
    with torch.no_grad():
        made(x)
    for threshold in FakeQuantizers(made).thresholds:
        threshold.observer_enabled[0] = 0
    return made


def error(model: nn.Module, net: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return float((model(x) - net(x)).square().mean())


def test_the_same_places_and_values_as_in_a_recipes_own_model(net: nn.Module, x: Tensor, prepared: Any) -> None:
    own = lloydmax.compress(net, RECIPE, x, progress=False)
    found = [threshold for threshold in FakeQuantizers(prepared).thresholds if not threshold.weights]
    points = [threshold.calculate_qparams() for threshold in found]
    assert sorted((float(scale), int(zero)) for scale, zero in points) == sorted(own.model.activations)
    with torch.no_grad():
        assert torch.allclose(prepared(x), own.model(x), atol=2 * own.model.activations[-1][0])
    assert error(prepared, net, x) < 1.02 * error(own.model, net, x)


def test_converted_programs_hold_what_was_prepared(net: nn.Module, x: Tensor, prepared: Any) -> None:
    converted = convert_pt2e(copy.deepcopy(prepared))
    with torch.no_grad():
        assert torch.allclose(converted(x), prepared(x), atol=1e-6)
    verify(converted, RECIPE, net)
    all_int8 = {**RECIPE, "quantize": [UNIFORM]}
    with pytest.raises(lloydmax.PlanMismatchError, match=r"wide.weight is not int8"):
        verify(converted, all_int8, net)


def test_thresholds_and_multipliers_are_trained(net: nn.Module, x: Tensor, prepared: Any) -> None:
    student = copy.deepcopy(prepared)
    before = error(student, net, x)
    options = {"batch_size": 16, "steps": 20, "seed": 0}
    told = lloydmax.run_step("train_thresholds", student, net, x, calibration=0, lr=0.02, **options)
    assert told["thresholds"] == len([t for t in FakeQuantizers(student).thresholds if not t.weights]) + 6 + 6 + 6 + 5
    told = lloydmax.run_step("train_multipliers", student, net, x, lr=0.003, **options)
    assert told["multipliers"] == sum(p.numel() for name, p in net.named_parameters() if "wide" not in name)
    assert error(student, net, x) < before
    converted = convert_pt2e(student)
    assert error(converted, net, x) < before


COMPILED = """
import torch, torch._inductor.config
import test_torchao_int8 as tests
from lloydmax.integrations.torchao import CodebookQuantizer
from torch._dynamo.utils import counters
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

net, x, recipe = tests.Branches().eval(), torch.randn(4, 3, 12, 12), {**tests.RECIPE, "quantize": [tests.UNIFORM]}
with torch.no_grad():
    prepared = prepare_pt2e(torch.export.export(net, (x,)).module(), CodebookQuantizer(recipe, net))
    prepared(x)
    converted = convert_pt2e(prepared)
    torch._inductor.config.freezing = True
    found = torch.compile(converted)(x)
    assert torch.allclose(found, converted(x), atol=0.1), (found - converted(x)).abs().max()
kernels = {name: count for name, count in counters["inductor"].items() if name.endswith("weight_prepack_matcher_count")}
assert kernels == {"qconv_weight_prepack_matcher_count": 4, "qlinear_weight_prepack_matcher_count": 1}, kernels
"""


@pytest.mark.slow
@pytest.mark.skipif(not machine.is_x86() or shutil.which("g++") is None, reason="inductor's kernels of x86")
def test_compiled_programs_run_on_int8_kernels() -> None:
    here = Path(__file__).parent
    subprocess.run([sys.executable, "-c", COMPILED], check=True, cwd=here, timeout=500)


def test_what_no_kernel_has_is_refused(net: nn.Module) -> None:
    with pytest.raises(lloydmax.IntegrationError, match=r"stem.weight: .*one scale a tensor or a channel"):
        CodebookQuantizer({**RECIPE, "quantize": [{**UNIFORM, "granularity": "group:2"}]}, net)
