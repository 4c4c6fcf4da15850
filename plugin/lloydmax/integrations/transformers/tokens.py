"""The tokenizer in a folder."""

from __future__ import annotations

import os
from typing import Any

from lloydmax.integrations.transformers.host import AutoTokenizer


def tokenizer_in(folder: str | os.PathLike[str]) -> Any:
    """The tokenizer that a folder, or the name of a model, has; ``None`` where it has none."""
    try:
        return AutoTokenizer.from_pretrained(os.fspath(folder))
    except Exception:  # whatever transformers raises for what is not there; texts as data are refused then
        return None
