"""What pyproject.toml cannot say: the packages of two folders, the ready recipes beside them, and the core in C."""

import sys
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


setup(
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
