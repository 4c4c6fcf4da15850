"""What a recipe is given as -> plain data: a path, YAML text, or a dict."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lloydmax.errors import RecipeError
from lloydmax.recipe.lines import MOST_BYTES, SURELY, LinedData, place
from lloydmax.recipe.parsing import parsed
from lloydmax.recipe.plain import plain

_MARKS = ("\n", ": ", "{")
"""Of YAML: no path has them."""


def read_lined(source: str | os.PathLike[str] | Mapping[str, Any]) -> LinedData:
    """Read a YAML file, YAML text or a dict; only plain data, no tags, aliases or duplicate keys.

    Text with a line break, a colon followed by a space, or a brace is YAML; any other string is a path.

    Raises:
        RecipeError: no such file, not an ordinary one, not YAML, or something that plain data must not hold.
    """
    if isinstance(source, Mapping):
        return LinedData(plain(source))
    if isinstance(source, str) and (not source.strip() or any(mark in source for mark in _MARKS)):
        if len(source) > MOST_BYTES or len(source.encode("utf-8", "surrogatepass")) > MOST_BYTES:
            raise RecipeError(f"{place('recipe', 1, ())}: {_LARGE}")
        return parsed(source, "recipe")
    path = None
    with suppress(TypeError):
        path = os.fspath(source)
    if isinstance(path, str):
        return parsed(read_text(path), path)
    raise RecipeError(
        f"a recipe is a path, YAML text, a dict, or the name of a ready recipe, not {type(source).__name__}"
    )


_LARGE = f"larger than {MOST_BYTES >> 20} MiB, {SURELY}"


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a small file, which is read without ever waiting for more of it.

    Raises:
        RecipeError: it cannot be read, is a folder, a device or a pipe, too large, or not in UTF-8.
    """
    origin = place(str(path), None, None)
    try:
        _refuse_special(Path(path).stat(), origin)
        opened = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(opened, "rb") as file:
            _refuse_special(os.fstat(opened), origin)
            content = file.read(MOST_BYTES + 1) or b""
        if len(content) > MOST_BYTES:
            raise RecipeError(f"{origin}: {_LARGE}")
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise RecipeError(f"{origin}: not a text file in UTF-8") from None
    except RecipeError:
        raise
    except (OSError, ValueError) as error:
        raise RecipeError(f"{origin}: {getattr(error, 'strerror', None) or error}") from None


def _refuse_special(about: os.stat_result, origin: str) -> None:
    if stat.S_ISDIR(about.st_mode):
        raise RecipeError(f"{origin}: is a folder: name the file in it")
    if not stat.S_ISREG(about.st_mode):
        raise RecipeError(f"{origin}: not an ordinary file, but a device, a pipe or a socket")
    if about.st_size > MOST_BYTES:
        raise RecipeError(f"{origin}: {_LARGE}")
