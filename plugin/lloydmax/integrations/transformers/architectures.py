"""The class of a model, by its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers

from lloydmax.errors import IntegrationError
from lloydmax.runtime.files import shown
from lloydmax.runtime.text import quoted


def class_of(config: Mapping[str, Any], folder: Path) -> Any:
    """The architecture that ``config.json`` names; ``AutoModel`` where it names none.

    Raises:
        IntegrationError: transformers has no such class: it comes with code of its own.
    """
    names = config.get("architectures")
    if not isinstance(names, list) or not names:
        return transformers.AutoModel
    found = getattr(transformers, str(names[0]), None)
    if found is None:
        raise IntegrationError(
            f"{shown(folder)}: transformers has no {quoted(str(names[0]))}: load it in Python, with "
            "trust_remote_code=True where it comes with code of its own, and pass it to lloydmax.compress"
        )
    return found
