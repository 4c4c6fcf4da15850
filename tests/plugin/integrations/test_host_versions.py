"""Every version of the hosts that the page of the integrations names, installed into a folder of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent.parent
PAGE = (ROOT / "plugin/lloydmax/integrations/README.md").read_text()
TESTS = {
    "torchao": ("test_torchao.py", "test_torchao_words.py", "../importing/test_from_torchao.py"),
    "optuna": ("test_optuna.py", "../recipe/test_space.py"),
    "ray": ("test_ray.py",),
    "lightning": ("test_lightning.py",),
}
NAMED = {
    package: found[1].split(", ")
    for package in TESTS
    if (found := re.search(rf"\| {package} \| ([\d., ]+) \(", PAGE, re.IGNORECASE))
}


@pytest.mark.slow
@pytest.mark.parametrize(("package", "version"), [(name, one) for name, each in NAMED.items() for one in each])
def test_version(package: str, version: str, tmp_path: Path) -> None:
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path)]
    subprocess.run([*install, f"{package}=={version}"], check=True)
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    code = f"import {package} as p; assert p.__version__.startswith({version!r}) and {str(tmp_path)!r} in p.__file__"
    tests = ["-m", "pytest", "-q", "-p", "no:cacheprovider", *(str(HERE / name) for name in TESTS[package])]
    for arguments in (["-c", code], tests):
        subprocess.run([sys.executable, *arguments], check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": path})


def test_the_page_names_versions() -> None:
    assert set(NAMED) == set(TESTS) and all(NAMED.values())
