"""Only FX's own integration needs ``torch.ao.quantization``: fresh processes in which it cannot be imported.

PyTorch imports it itself, so that the process imports torch first, then forgets it and refuses every further import.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent.parent
BLOCKED = """
    import importlib.abc, sys, warnings
    import torch
    GONE = ("torch.ao.quantization", "torch.ao.nn", "torch.ao.ns", "torch.quantization", "torch.nn.quantized")
    for name in [n for n in sys.modules if n.startswith(GONE)]:
        del sys.modules[name]
    del torch.ao.quantization, torch.ao.nn

    class Gone(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name.startswith(GONE):
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Gone())
"""
"""Where ``torch.ao.quantization`` was."""

OURS_BLOCKED = """
    import builtins, sys
    GONE = ("torch.ao.quantization", "torch.ao.nn", "torch.ao.ns", "torch.quantization", "torch.nn.quantized")
    imported = builtins.__import__

    def refusing(name, globals=None, locals=None, fromlist=(), level=0):
        asks = (globals or {}).get("__name__") or ""
        parts = [name, *(f"{name}.{part}" for part in fromlist or ())]
        if asks.startswith("lloydmax") and any(part.startswith(GONE) for part in parts):
            raise ModuleNotFoundError(f"{asks} imports {parts}", name=name)
        return imported(name, globals, locals, fromlist, level)

    builtins.__import__ = refusing
"""
"""Where only hosts may import it, which do so by themselves (torchvision, inductor, torchao, INC)."""

HOSTS = """
    import lloydmax
    for name, host in (("torchao", "torchao"), ("inc", "Intel Neural Compressor"), ("lightning", "Lightning")):
        try:
            __import__(f"lloydmax.integrations.{name}")
        except lloydmax.IntegrationError as error:
            assert f"{host} " in str(error) and "imports torch.ao.quantization" in str(error), error
            assert "not installed" not in str(error), error
    print("as it should be")
"""

SYSTEM_3 = """
    import lloydmax
    from lloydmax.student.int8.own.layers import IntegerLayer
    from torch import nn
    torch.manual_seed(0)
    block = [nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False), nn.BatchNorm2d(6), nn.ReLU6(), nn.Conv2d(6, 8, 1)]
    teacher = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), *block, nn.AdaptiveAvgPool2d(1))
    teacher = nn.Sequential(*teacher, nn.Flatten(), nn.Linear(8, 5)).eval()
    data = torch.randn(64, 3, 12, 12)
    training = {"batch_size": 16, "steps": 6}
    recipe = {
        "quantize": [{"layers": "all", "quantizer": "uniform", "bits": 8, "scheme": "symmetric"},
                     {"layers": "9", "centroids": 8}],
        "activations": {"bits": 8, "samples": 32},
        "trainable": ["none"],
        "recover": [{"step": "train_thresholds", **training}, {"step": "train_multipliers", **training}],
    }
    result = lloydmax.compress(teacher, recipe, data, progress=False)
    assert isinstance(result.model.graph.get_submodule("0"), IntegerLayer), result.model
    steps = [stage.name for stage in result.report.stages]
    assert steps == ["original", "compressed", "train_thresholds", "train_multipliers", "int8"], steps
    assert [each["steps"] for each in result.report.recovery] == [6, 6]
    result.save(sys.argv[1])
    lloydmax.verify(sys.argv[1])
    loaded = lloydmax.load(sys.argv[1], teacher)
    with torch.no_grad():
        assert torch.equal(loaded(data), result.model(data))
        program = torch.export.export(loaded, (data,)).module()
        assert torch.allclose(program(data), loaded(data), atol=1e-3)
    recipe["activations"]["host"] = "fx"
    try:
        lloydmax.compress(teacher, recipe, data, progress=False)
    except lloydmax.IntegrationError as error:
        assert "host: own" in str(error), error
    else:
        raise SystemExit("FX without torch.ao.quantization")
    assert not [name for name in sys.modules if name.startswith(GONE)]
    print("as it should be")
"""


SUITE = """
    import pytest
    raise SystemExit(pytest.main(["-p", "no:cacheprovider", "-p", "no:xdist", "-q", *sys.argv[1:]]))
"""


def run(script: str, *args: str, blocked: str = BLOCKED) -> str:
    """What a fresh process without ``torch.ao.quantization`` prints."""
    text = textwrap.dedent(blocked) + textwrap.dedent(script)
    found = subprocess.run([sys.executable, "-c", text, *args], capture_output=True, text=True, check=False, cwd=ROOT)
    return found.stdout.strip() or found.stderr


def test_published_system_3(tmp_path: Path) -> None:
    assert run(SYSTEM_3, str(tmp_path / "int8.safetensors")) == "as it should be"


@pytest.mark.slow
def test_hosts_that_import_it_are_told_apart_from_missing_ones() -> None:
    assert run(HOSTS).splitlines()[-1] == "as it should be"


@pytest.mark.slow
@pytest.mark.parametrize(
    "modules",
    [
        ["torchao", "torchao_int8", "torchao_tensors", "torchao_words", "blocks_in_hosts", "skipped_in_hosts"],
        ["inc_quantize", "inc_files", "inc_folding", "inc_composition", "inc_autotune", "inc_whole"],
        ["transformers", "transformers_adapters", "lightning", "optuna", "ray"],
    ],
)
def test_hosts_where_only_they_import_it(modules: list[str]) -> None:
    paths = [f"tests/plugin/integrations/test_{name}.py" for name in modules]
    told = run(SUITE, *paths, "-k", "not torch_ao and not fx", blocked=OURS_BLOCKED)
    assert " passed" in told and " failed" not in told and " error" not in told, told[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize(
    "modules",
    [
        ["tests/plugin/format/test_golden_files.py", "tests/plugin/test_compress.py"],
        ["tests/strategies/test_train_thresholds.py", "tests/plugin/recovery", "tests/plugin/test_checkpoint.py"],
        ["tests/plugin/exporting", "tests/plugin/importing", "tests/plugin/integrations/test_optuna.py"],
        ["tests/plugin/student/test_student.py", "tests/plugin/student/test_int8_memory.py", "tests/plugin/plan"],
    ],
)
def test_the_suite_without_it(modules: list[str]) -> None:
    told = run(SUITE, *modules, "-k", "not [fx]")
    assert " passed" in told and " failed" not in told and " error" not in told, told[-3000:]
