"""What the ``lloydmax`` command does once it is asked: progress on stderr, results on stdout.

Exit status: 0, 1 (a check failed), 2 (bad usage or input). What can be asked is declared in ``lloydmax_command``.
"""

from collections.abc import Mapping
from typing import Any

from lloydmax.cli import commands, evaluation
from lloydmax.cli.shown import errors

__all__ = ["answer"]


def answer(command: str, given: Mapping[str, Any]) -> None:
    """Do what a command is asked.

    Args:
        command: its name.
        given: its arguments and options, by the names of its function's parameters.
    """
    with errors():
        getattr(evaluation if command == "evaluate" else commands, command)(**given)
