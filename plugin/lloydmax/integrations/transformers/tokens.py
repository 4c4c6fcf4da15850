"""The tokenizer in a folder."""

from __future__ import annotations

import os
from typing import Any

from lloydmax.integrations.transformers.host import AutoTokenizer


def tokenizer_in(folder: str | os.PathLike[str]) -> Any:
    """The tokenizer that a folder, or the name of a model, has; ``None`` where it has none, also where transformers
    makes one of the model's kind that knows no words."""
    try:
        found = AutoTokenizer.from_pretrained(os.fspath(folder))
        return found if len(found) > len(found.all_special_tokens) else None
    except Exception:  # whatever transformers raises for what is not there; texts as data are refused then
        return None
