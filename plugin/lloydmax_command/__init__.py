"""The ``lloydmax`` command as it is asked: names, options and help, without torch, so that help comes at once.

``lloydmax.cli`` answers.
"""

from lloydmax_command.commands import main

__all__ = ["main"]
