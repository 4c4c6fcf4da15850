"""The ``lloydmax`` command: progress on stderr, results on stdout.

Exit status: 0, 1 (a check failed), 2 (bad usage or input).
"""

from lloydmax.cli.commands import main

__all__ = ["main"]
