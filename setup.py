"""What pyproject.toml cannot say: the packages of two folders, the ready recipes, the core in C, the project's address.

The address is nowhere in the source, so that a copy of the repository names itself. The release says it by
``LLOYDMAX_ADDRESS``; an sdist carries it on in its ``PKG-INFO``; else it is that of git's remote ``origin``. Where
none is known, the metadata have no Project-URL, and the README keeps its links as they are.
"""

import os
import re
import subprocess
import sys
from email import message_from_string
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

NATIVE = Path("plugin", "lloydmax", "native")
OPTIONS = {
    "msvc": ["/O2", "/fp:precise", "/std:c11"],
    "unix": [
        *("-O3", "-std=c11", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden"),
        *([] if sys.platform == "win32" else ["-fPIC"]),
    ],
}
"""For each kind of compiler: fast, and every operation as it is written."""


class BuildCore(build_ext):
    """With the options of the compiler at hand."""

    def build_extension(self, extension: Extension) -> None:
        """Build the core, or leave it out where that fails."""
        kind = self.compiler.compiler_type
        extension.extra_compile_args = OPTIONS["msvc" if kind == "msvc" else "unix"]
        extension.libraries = [] if kind == "msvc" else ["m"]
        super().build_extension(extension)


def address() -> str | None:
    """The project's address: ``https://host/owner/name``; None where nothing says it."""
    said = os.environ.get("LLOYDMAX_ADDRESS", "")
    if said and of_web(said) is None:
        raise SystemExit(f"LLOYDMAX_ADDRESS is {said!r}, which is not an address such as https://host/owner/name")
    return of_web(said) or carried() or of_web(origin())


def of_web(remote: str) -> str | None:
    """What a browser opens, without credentials, of the spelling of a remote; None of one on this machine."""
    start, host, path = (
        r"(?:(https?)://|ssh://|git://)?(?:[^@/]+@)?",
        r"([\w-]+(?:\.[\w-]+)+)(:\d+(?=/))?",
        r"([\w.~/-]+?)",
    )
    found = re.fullmatch(rf"{start}{host}[:/]/*{path}(?:\.git)?/*", remote.strip())
    if found is None:
        return None
    scheme, host, port, path = found.groups()
    return f"{scheme}://{host}{port or ''}/{path}" if scheme else f"https://{host}/{path}"


def carried() -> str | None:
    """The address that an sdist was built with."""
    file = Path("PKG-INFO")
    urls = message_from_string(file.read_text("utf-8")).get_all("Project-URL", []) if file.exists() else []
    return next((url for label, url in (line.split(", ", 1) for line in urls) if label == "Source"), None)


def origin() -> str:
    """Git's remote of this folder, not of one around it; empty where there is none, or no git."""
    if not Path(".git").exists():
        return ""
    try:
        command = ["git", "config", "--get", "remote.origin.url"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except OSError:
        return ""


def urls(project: str | None) -> dict[str, str]:
    """The links of a package's page."""
    if project is None:
        return {}
    pages = {"Documentation": "blob/HEAD/README.md", "Changelog": "blob/HEAD/CHANGELOG.md", "Issues": "issues"}
    return {"Source": project, **{label: f"{project}/{page}" for label, page in pages.items()}}


def readme(project: str | None) -> str:
    """The README, whose links into the repository lead there from a package's page, too."""
    text = Path("README.md").read_text("utf-8")
    if project is None:
        return text
    text = re.sub(r"(!\[[^\]]*\]\()(?=[\w.])(?!\w+:)", rf"\1{project}/raw/HEAD/", text)
    return re.sub(r"((?<!!)\[[^\]]*\]\()(?=[\w.])(?!\w+:)", rf"\1{project}/blob/HEAD/", text)


ADDRESS = address()
setup(
    long_description=readme(ADDRESS),
    long_description_content_type="text/markdown",
    project_urls=urls(ADDRESS),
    packages=[*find_packages("plugin"), *find_packages("strategies"), "lloydmax.recipes"],
    package_dir={
        "lloydmax": "plugin/lloydmax",
        "lloydmax_command": "plugin/lloydmax_command",
        "lloydmax_strategies": "strategies/lloydmax_strategies",
        "lloydmax.recipes": "recipes",
    },
    ext_modules=[
        Extension(
            "lloydmax.native._core",
            sources=sorted(map(str, NATIVE.glob("*.c"))),
            depends=sorted(map(str, NATIVE.glob("*.h"))),
            optional=True,  # without a compiler its twins in Python do the same, slower
            py_limited_api=True,  # it knows nothing of Python: one build serves every version
        )
    ],
    cmdclass={"build_ext": BuildCore},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
