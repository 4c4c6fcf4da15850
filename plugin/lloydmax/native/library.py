"""Finding and opening the core; which of its paths this machine takes."""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
import os
import warnings
from pathlib import Path

from numpy.typing import NDArray
from torch import Tensor

PATHS = ("portable", "avx2", "avx512", "avx512vbmi")
"""By the number that the core gives them."""

SWITCH = "LLOYDMAX_NATIVE"
"""Of the environment: ``0`` for the twins; the name of a path, to take none above it; the file of another build."""

_VERSION = 5
"""Of the functions of the core, see ``dispatch.c``."""


@functools.cache
def core() -> ctypes.CDLL | None:
    """The core, ready; ``None``: it was not built, cannot be opened, is another version's, or is switched off."""
    wanted = os.environ.get(SWITCH, "")
    if wanted == "0":
        return None
    folder = Path(__file__).parent
    built = [folder / f"_core{suffix}" for suffix in importlib.machinery.EXTENSION_SUFFIXES]
    for file in [Path(wanted)] if os.sep in wanted else built:
        if file.is_file():
            try:
                found = ctypes.CDLL(str(file))
            except OSError:  # built for another machine
                continue
            if not hasattr(found, "lm_version") or found.lm_version() != _VERSION:
                warnings.warn(
                    f"{file.name} was built from another version of lloydmax, and is not used; build it again: "
                    "pip install -e . (or python setup.py build_ext --inplace)",
                    stacklevel=3,
                )
                continue
            found.lm_take_path(PATHS.index(wanted) if wanted in PATHS else len(PATHS))
            for counting in (found.lm_fit_rows, found.lm_scan, found.lm_price, found.lm_evenly, found.lm_parts):
                counting.restype = ctypes.c_int64
            found.lm_solve.restype = ctypes.c_double
            return found
    return None


def active() -> bool:
    """Whether the core works, and not its twins."""
    return core() is not None


def path() -> str:
    """What computes: ``avx512``, ``avx2``, ``neon``, ``portable``, or ``python`` for the twins."""
    found = core()
    if found is None:
        return "python"
    return "neon" if found.lm_neon() else PATHS[found.lm_path_taken()]


def ready() -> ctypes.CDLL:
    """The core, where it is :func:`active`."""
    found = core()
    assert found is not None
    return found


def address(values: Tensor | NDArray | None) -> ctypes.c_void_p:
    """Where contiguous values on the CPU begin; 0 for none."""
    if values is None:
        return ctypes.c_void_p(0)
    if isinstance(values, Tensor):
        assert values.is_contiguous() and values.device.type == "cpu"
        return ctypes.c_void_p(values.data_ptr())
    assert values.flags.c_contiguous
    return ctypes.c_void_p(values.ctypes.data)


def size(number: int) -> ctypes.c_int64:
    """A number as the core takes it."""
    return ctypes.c_int64(number)
