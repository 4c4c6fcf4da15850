"""The address that setup.py gives the package: where it is looked for, and what its metadata say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
ADDRESS = "https://example.org/someone/lloydmax"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """What the metadata are made of, without a repository around it."""
    folder = tmp_path / "source"
    folder.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    for package in ("plugin/lloydmax", "strategies/lloydmax_strategies", "plugin/lloydmax_command"):
        (folder / package).mkdir(parents=True)
        shutil.copy(ROOT / package / "__init__.py", folder / package)
    return folder


def run(source: Path, hook: str, said: str | None = None) -> subprocess.CompletedProcess[str]:
    """A hook of the build, in a folder, with the address said or not."""
    environment = {name: value for name, value in os.environ.items() if name != "LLOYDMAX_ADDRESS"}
    environment |= {} if said is None else {"LLOYDMAX_ADDRESS": said}
    backend = f"import setuptools.build_meta as backend; print(backend.{hook})"
    return subprocess.run([sys.executable, "-c", backend], cwd=source, env=environment, capture_output=True, text=True)


def metadata(source: Path, said: str | None = None) -> Message:
    """Those of the wheel, as an installer asks for them before it is built."""
    ran = run(source, "prepare_metadata_for_build_wheel('.')", said)
    assert ran.returncode == 0, ran.stderr
    return message_from_bytes((source / ran.stdout.split()[-1] / "METADATA").read_bytes())


def urls(found: Message) -> dict[str, str]:
    return dict(line.split(", ", 1) for line in found.get_all("Project-URL", []))


def page(found: Message) -> str:
    """The README as the package's page shows it."""
    return found.get_payload(decode=True).decode("utf-8")


def remote(source: Path, url: str) -> None:
    subprocess.run(["git", "init", "-q"], cwd=source, check=True)
    subprocess.run(["git", "remote", "add", "origin", url], cwd=source, check=True)


def test_the_address_that_the_release_says(source: Path) -> None:
    """As metadata of the README: its links lead into the repository, but those within the page."""
    found = metadata(source, ADDRESS + "/")
    assert urls(found) == {
        "Source": ADDRESS,
        "Documentation": f"{ADDRESS}/blob/HEAD/README.md",
        "Changelog": f"{ADDRESS}/blob/HEAD/CHANGELOG.md",
        "Issues": f"{ADDRESS}/issues",
    }
    assert found["Description-Content-Type"] == "text/markdown"
    pointed = re.findall(r"\]\(([^)]*)\)", page(found))
    assert pointed and all(link.startswith((ADDRESS, "#", "https:")) for link in pointed), pointed
    assert f"![The report of the demo]({ADDRESS}/raw/HEAD/tests/" in page(found)
    assert f"(recipes/README.md)]({ADDRESS}/blob/HEAD/" not in page(found)


def test_no_address_is_known(source: Path) -> None:
    found = metadata(source)
    assert urls(found) == {}
    assert page(found).strip() == (ROOT / "README.md").read_text("utf-8").strip()


@pytest.mark.parametrize(
    "url, address",
    [
        ("git@example.org:someone/lloydmax.git", ADDRESS),
        ("ssh://git@example.org:2222/someone/lloydmax.git", ADDRESS),
        ("https://someone:secret@example.org/someone/lloydmax.git", ADDRESS),
        ("https://example.org:8443/someone/lloydmax", "https://example.org:8443/someone/lloydmax"),
        ("/srv/lloydmax.git", None),
        ("../lloydmax", None),
        ("file:///srv/lloydmax.git", None),
    ],
)
def test_the_remote_of_git(source: Path, url: str, address: str | None) -> None:
    """As a browser opens it, never with the credentials of who builds; none of a path on this machine."""
    remote(source, url)
    assert urls(metadata(source)).get("Source") == address


def test_a_repository_around_the_source_is_another(source: Path) -> None:
    remote(source.parent, "https://example.org/someone/else")
    assert urls(metadata(source)) == {}


def test_what_is_not_an_address_is_refused(source: Path) -> None:
    ran = run(source, "build_sdist('dist')", "someone/lloydmax")
    assert ran.returncode and "LLOYDMAX_ADDRESS is 'someone/lloydmax', which is not an address" in ran.stderr


def test_an_sdist_carries_the_address_on(source: Path, tmp_path: Path) -> None:
    """To a wheel that is built of it where nobody says it, for the person who installs from the sdist."""
    assert run(source, "build_sdist('dist')", ADDRESS).returncode == 0
    (sdist,) = (source / "dist").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "out", filter="data")
    (unpacked,) = (tmp_path / "out").iterdir()
    found = metadata(unpacked)
    assert urls(found)["Source"] == ADDRESS and len(urls(found)) == 4
    assert f"]({ADDRESS}/blob/HEAD/recipes/README.md)" in page(found)
