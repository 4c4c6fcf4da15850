"""A folder that holds a compressed model beside what another ecosystem keeps there."""

from __future__ import annotations

import os
from pathlib import Path

IN_FOLDER = "lloydmax.safetensors"
"""Name of the compressed file in such a folder. No ecosystem reads a file of this name as weights of its own, so that
none fills a model from it without asking us."""


def file_in(path: Path) -> Path:
    """The compressed file of a folder; any other path as it is, also a folder without one."""
    inside = path / IN_FOLDER
    return inside if path.is_dir() and os.path.lexists(inside) else path
