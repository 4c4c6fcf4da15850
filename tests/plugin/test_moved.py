"""Old module paths: they work, and tell every line that asks where a name is now."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import lloydmax
import pytest
from lloydmax import extend, moved
from lloydmax.hooks import registry
from lloydmax.student.attachment import CodebookWeight
from lloydmax.student.layers import CodebookTensor
from torch import nn

USED = {
    "strategy": ("Recovery", "Events", "StopRecovery", "RecoveryStep", "device_of", "evaluating", "evaluation_mode"),
    "plugins": ("register", "unregister", "strategies", "find", "make"),
    "hookspecs": ("hookimpl", "lloydmax_step"),
    "outputs": ("Yardstick", "Agreement", "TeacherOutputs", "output_tensors", "class_axis", "accuracy", "divergence"),
    "fit": ("fit",),
    "data.fitness": ("Fitness", "data_fitness"),
    "data.synthesis": ("synthesize",),
    "graph": ("Link", "chains", "conv_bn_pairs", "trace"),
    "folding": ("Folded", "fold_batch_norms", "folded"),
    "packing": ("pack", "unpack", "entropy_encode"),
    "cache": ("Cache", "fingerprint", "model_bytes"),
    "layers": ("CodebookLinear", "CodebookConv2d"),
    "running": ("KERNELS",),
    "thresholds": ("TrainedThreshold",),
    "integer": ("IntegerModel", "even"),
    "codebook": ("check_weight", "code_dtype", "fit_codebook"),
    "student": ("CodebookWeight", "attach", "attached", "finish", "owners"),
    "recipe": ("Rule", "Step"),
    "recovery": ("recover", "recovery_steps"),
    "plan": ("plan_as_is",),
    "planned": ("PlannedParameter",),
    "choosing.allocation": ("BudgetError", "Option", "Unit", "smallest"),
    "choosing.rates": ("priced",),
    "choosing.sweep": ("Row",),
    "compress": ("gradients",),
    "progress": ("ProgressBars",),
    "selection": ("layers_of", "select"),
    "envelope": ("envelope",),
}
"""What people and benchmarks imported of 0.1; ``plan``, ``recipe`` ... are the paths of rooms today."""


@pytest.mark.filterwarnings("ignore:lloydmax:DeprecationWarning")
@pytest.mark.parametrize("old", USED)
def test_names_are_found_by_their_old_paths(old: str) -> None:
    module = importlib.import_module(f"lloydmax.{old}")
    for name in USED[old]:
        assert getattr(module, name) is not None
        with pytest.raises(AttributeError, match=f"module 'lloydmax.{old}' has no attribute 'never_there'"):
            _ = module.never_there


@pytest.mark.parametrize("old", moved.MOVED)
def test_every_new_home_is_there(old: str) -> None:
    for home in moved.MOVED[old].split():
        importlib.import_module(f"lloydmax.{home}")


def test_the_warning_points_to_the_line_that_asked(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import lloydmax, lloydmax.strategy\n"
        "print(lloydmax.plugins.strategies.__module__)\n"
        "from lloydmax.strategy import Recovery\n"
        "from lloydmax.strategy import Recovery\n"
    )
    found = subprocess.run(
        [sys.executable, "-W", "always::DeprecationWarning", program], capture_output=True, text=True, timeout=120
    )
    assert found.stdout == "lloydmax.hooks.registry\n", found.stderr
    told = [line for line in found.stderr.splitlines() if str(program) in line]
    said = [
        "lloydmax.plugins.strategies is lloydmax.hooks.registry.strategies",
        *["lloydmax.strategy.Recovery is lloydmax.extend.Recovery"] * 2,
    ]
    assert len(told) == 3, told  # importing alone is silent
    for number, (line, words) in enumerate(zip(told, said, strict=True), 2):
        assert line.startswith(f"{program}:{number}: DeprecationWarning: {words} now")


@pytest.mark.filterwarnings("ignore:lloydmax:DeprecationWarning")
def test_a_name_is_the_same_thing_on_both_paths() -> None:
    from lloydmax import plugins, strategy

    assert strategy.Recovery is extend.Recovery and strategy.StopRecovery is lloydmax.StopRecovery
    assert plugins.register is registry.register


@pytest.mark.parametrize("code", ["import lloydmax.nowhere", "from lloydmax.strategy import Recovry"])
def test_what_was_never_there_is_not_found(code: str) -> None:
    with pytest.raises(ImportError):
        exec(code)
    with pytest.raises(AttributeError, match="module 'lloydmax' has no attribute 'nowhere'"):
        _ = lloydmax.nowhere


def test_private_names_are_private() -> None:
    from lloydmax import plugins

    with pytest.raises(AttributeError):
        _ = plugins._strategies


@pytest.mark.filterwarnings("ignore:lloydmax:DeprecationWarning")
def test_everything_can_be_imported_at_once() -> None:
    names: dict[str, object] = {}
    exec("from lloydmax.strategy import *; from lloydmax.outputs import *; from lloydmax.resume import *", names)
    assert names["Recovery"] is extend.Recovery and names["output_tensors"] is extend.output_tensors
    assert names["Yardstick"] is extend.Comparison and "Progress" in names
    assert not {"annotations", "torch", "Any"} & set(names)


def test_what_was_asked_of_a_planned_parameter_is_asked_of_its_layout() -> None:
    made = lloydmax.plan(nn.Sequential(nn.Linear(8, 4)), {"quantize": [{"layers": "all", "centroids": 3}]})
    (planned,) = made.parameters.values()
    for old, now in (("codebooks", 1), ("code_shape", (4, 8)), ("bits_per_weight", 2)):
        with pytest.warns(DeprecationWarning, match=f"PlannedParameter.{old} is PlannedParameter.layout.{old} now"):
            assert getattr(planned, old) == now
    with pytest.warns(DeprecationWarning, match="stored is PlannedParameter.record now"):
        assert planned.stored() == planned.record()
    with pytest.raises(AttributeError, match="'PlannedParameter' object has no attribute 'never'"):
        _ = planned.never


OLD_FIELDS = ("shape", "granularity", "axis", "block")


def as_of_0_1(state: dict[str, Any]) -> dict[str, Any]:
    """The state of an object, as 0.1 pickled it."""
    layout = state.pop("layout")
    return {**state, **{key: getattr(layout, key) for key in OLD_FIELDS}}


@pytest.mark.parametrize(
    "rule",
    [{"granularity": "channel"}, {"granularity": "tensor"}, {"block": 2}, {"granularity": "group:2", "block": 4}],
)
def test_what_0_1_pickled_is_taken_over(rule: dict[str, Any]) -> None:
    model = nn.Sequential(nn.Linear(8, 5))
    result = lloydmax.compress(model, {"quantize": [{"layers": "all", "centroids": 3, **rule}]}, progress=False)
    codebook = lloydmax.codebooks(result.model)["0.weight"]
    (planned,) = result.plan.parameters.values()
    (held,) = (module for module in result.model.modules() if isinstance(module, CodebookTensor))
    learning = CodebookWeight(codebook)
    for thing, extra in ((codebook, {}), (held, {}), (learning, {}), (planned, {"centroids": planned.centroids})):
        state = as_of_0_1(thing.__getstate__() if isinstance(thing, nn.Module) else dict(vars(thing)))
        other = type(thing).__new__(type(thing))
        other.__setstate__(state | extra)
        assert other.layout == thing.layout and set(vars(other)) >= set(vars(thing))


def test_the_command_is_found_where_it_was() -> None:
    import lloydmax.cli
    import lloydmax_command

    with pytest.warns(DeprecationWarning, match=r"^lloydmax.cli.main is lloydmax_command.main now"):
        assert lloydmax.cli.main is lloydmax_command.main
    assert not hasattr(lloydmax.cli, "mane")
