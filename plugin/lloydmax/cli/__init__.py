"""What the ``lloydmax`` command does once it is asked: progress on stderr, results on stdout.

Exit status: 0, 1 (a check failed), 2 (bad usage or input). What can be asked is declared in ``lloydmax_command``.
"""

import warnings
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from lloydmax.cli import commands, evaluation
from lloydmax.cli.pictures import OPTIONS, Pictures
from lloydmax.cli.shown import errors

__all__ = ["answer"]


def answer(command: str, given: Mapping[str, Any]) -> None:
    """Do what a command is asked.

    Args:
        command: its name.
        given: its arguments and options, by the names of its function's parameters.
    """
    asked = dict(given)
    with errors():
        if OPTIONS[0] in asked:
            asked["pictures"] = Pictures.taken_from(asked)
        getattr(evaluation if command == "evaluate" else commands, command)(**asked)


def __getattr__(name: str) -> Any:
    """``main``, whose place this was in 0.1."""
    if name != "main":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        "lloydmax.cli.main is lloydmax_command.main now; the old path goes away in the next version",
        DeprecationWarning,
        stacklevel=2,
    )
    return import_module("lloydmax_command").main
