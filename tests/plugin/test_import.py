"""Importing is cheap and pulls in no optional host."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import lloydmax
from import_time import imported_hosts, seconds_beyond_torch
from lloydmax.data import sources as sources_module


def test_import_is_cheap() -> None:
    assert seconds_beyond_torch(3) < 0.5


def test_no_optional_host_is_imported() -> None:
    assert imported_hosts() == []


def test_importing_is_cheap():
    package = Path(sources_module.__file__).parents[1]
    code = (
        "import sys, types; package = types.ModuleType('lloydmax'); "
        f"package.__path__ = [{str(package)!r}]; sys.modules['lloydmax'] = package; import lloydmax.data; "
        "assert not {'torchvision', 'PIL', 'safetensors'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_comes_without_torch() -> None:
    code = (
        "import sys\nfrom lloydmax_command import main\n"
        "try:\n    main(['compress', '--help'])\n"
        "except SystemExit:\n    assert not {'torch', 'numpy', 'lloydmax'} & set(sys.modules)"
    )
    assert b"--recipe" in subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout


def test_python_runs_the_package_as_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "lloydmax", "--version"], check=True, capture_output=True, text=True)
    assert done.stdout.startswith(f"lloydmax, version {lloydmax.__version__}, core: ")
