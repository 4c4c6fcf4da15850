"""``python -m lloydmax``: the command."""

from lloydmax_command import main

main(prog_name="lloydmax")
