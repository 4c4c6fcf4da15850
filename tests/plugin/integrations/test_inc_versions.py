"""Every version of INC that the page of the integrations names, as it is installed into a folder of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent.parent
NAMED = re.search(
    r"\| Intel Neural Compressor \| ([\d., ]+) \(", (ROOT / "plugin/lloydmax/integrations/README.md").read_text()
)
TESTS = ("test_inc_words.py", "test_inc_survival.py", "test_inc_composition.py", "test_inc_quantize.py")


@pytest.mark.slow
@pytest.mark.parametrize("version", NAMED[1].split(", ") if NAMED else [])
def test_version(version: str, tmp_path: Path) -> None:
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path)]
    subprocess.run([*install, f"neural-compressor=={version}"], check=True)
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    code = f"import neural_compressor as n; assert n.__version__ == {version!r} and {str(tmp_path)!r} in n.__file__"
    tests = ["-m", "pytest", "-q", "-p", "no:cacheprovider", *(str(HERE / name) for name in TESTS)]
    for arguments in (["-c", code], tests):
        subprocess.run([sys.executable, *arguments], check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": path})


def test_the_page_names_versions() -> None:
    assert NAMED and "3.10" in NAMED[1]
