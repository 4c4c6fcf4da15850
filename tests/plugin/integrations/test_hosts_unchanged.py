"""What an integration changes when it is imported: its own entries in the host's registries, and nothing else."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import lloydmax.integrations
import pytest

STATE = Path(__file__).with_name("host_state.py")
CASES: dict[str, tuple[list[str], dict[str, str]]] = {
    "inc": (
        [
            "neural_compressor.torch.quantization",
            "neural_compressor.torch.algorithms",
            "neural_compressor.torch.export",
        ],
        {
            "neural_compressor.common.base_config.ConfigRegistry.registered_configs[]": "'codebook'",
            "neural_compressor.torch.utils.utility.algos_mapping[]": "'codebook': ",
            "neural_compressor.torch.utils.algos_mapping[]": "'codebook': ",
            "neural_compressor.torch.quantization.quantize.algos_mapping[]": "'codebook': ",
        },
    ),
    "torchao": (
        ["torchao.quantization.qat", "torchao.quantization.pt2e.quantizer", "torchao.prototype.quantization"],
        {
            "torchao.core.config.ALLOWED_AO_MODULES[]": "'lloydmax.integrations.torchao'",
            "torchao.quantization.transform_module._QUANTIZE_CONFIG_HANDLER[]": "CodebookWeightConfig",
            "torchao.quantization.qat.api._QUANTIZE_CONFIG_HANDLER[]": "CodebookWeightConfig",
            "torchao.quantization.quant_api._QUANTIZE_CONFIG_HANDLER[]": "CodebookWeightConfig",
        },
    ),
    "torch_ao": (["torch.ao.quantization"], {}),
    "transformers": (
        ["transformers", "transformers.quantizers", "peft"],
        {
            "transformers.quantizers.auto.AUTO_QUANTIZATION_CONFIG_MAPPING[]": "'lloydmax'",
            "transformers.quantizers.auto.AUTO_QUANTIZER_MAPPING[]": "'lloydmax'",
        },
    ),
    "optuna": (["optuna"], {}),
    "ray": (["ray.tune"], {}),
    "lightning": (["lightning.pytorch", "pytorch_lightning"], {}),
    "folders": (["transformers", "sentence_transformers"], {}),
}


def test_every_integration_is_looked_at() -> None:
    helpers = {"absent", "computed", "fake_quantize", "given", "hosted", "made"}  # parts of the others
    folder = Path(lloydmax.integrations.__file__).parent
    found = {path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert found - {"__init__"} - helpers == set(CASES)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_an_import_adds_entries_and_changes_nothing(name: str) -> None:
    hosts, entries = CASES[name]
    for host in hosts:
        pytest.importorskip(host.partition(".")[0])
    command = [sys.executable, str(STATE), f"lloydmax.integrations.{name}", *hosts]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["process"] == {}
    assert set(found["host"]) == set(entries)
    for place, entry in entries.items():
        more, less = found["host"][place]["more"], found["host"][place]["less"]
        assert len(more) == 1 and entry in more[0]
        assert not less or less == [re.sub(rf"{entry}, ", "", more[0])]


@pytest.mark.slow
def test_the_probe_sees_changes(tmp_path: Path) -> None:
    (tmp_path / "rude.py").write_text(
        "import logging, os, warnings, torch, optuna\n"
        "warnings.simplefilter('ignore')\nos.environ['A'] = '1'\ntorch.set_num_threads(3)\n"
        "logging.getLogger('optuna').setLevel(50)\noptuna.create_study = print\n"
        "optuna.Trial.report = print\noptuna.samplers.__all__.append('x')\n"
    )
    command = [sys.executable, str(STATE), "rude", "optuna", "optuna.samplers"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{':'.join(filter(None, sys.path))}"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found["process"]) == {"warnings.filters", "environment", "torch threads"}
    assert {"logger optuna", "optuna.create_study", "optuna.samplers.__all__[]"} <= set(found["host"])
    assert "optuna.trial._trial.Trial.report" in found["host"]
