"""Folders that hold a model: of transformers (also those of sentence-transformers), and of timm.

Nothing of a host is imported before its folder is opened.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from lloydmax.errors import IntegrationError
from lloydmax.format.folder import IN_FOLDER
from lloydmax.runtime.files import shown
from lloydmax.runtime.text import printable

_CONFIG = "config.json"


@dataclass(frozen=True)
class ModelFolder:
    """A folder with a model of a host.

    Attributes:
        path: of the folder.
        config: its ``config.json``.
    """

    path: Path
    config: dict[str, Any]

    @property
    def of_timm(self) -> bool:
        """Whether it is timm's, else transformers'."""
        return isinstance(self.config.get("architecture"), str)

    def model(self, arguments: Mapping[str, Any]) -> nn.Module:
        """The model with its weights, in evaluation mode.

        Args:
            arguments: for ``from_pretrained``, or for ``timm.create_model``.

        Raises:
            IntegrationError: the host is absent, or cannot open the folder.
        """
        opened = _timm if self.of_timm else _transformers
        try:
            return opened(self, arguments).eval()
        except IntegrationError:
            raise
        except Exception as error:  # whatever a host raises for what it cannot open
            said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise IntegrationError(f"{shown(self.path)}: cannot be opened: {printable(said, 400)}") from error

    def tokenizer(self) -> Any:
        """The tokenizer in the folder; ``None`` where there is none."""
        if self.of_timm:
            return None
        from lloydmax.integrations.transformers.tokens import tokenizer_in

        return tokenizer_in(self.path)

    def complete(self, out: Path, asked: Mapping[str, Any]) -> None:
        """Make of a folder that holds a compressed file one that the host opens.

        Args:
            out: with :data:`~lloydmax.format.folder.IN_FOLDER` in it.
            asked: plain data: what was asked of the file.

        Raises:
            OutputError: a file cannot be copied.
        """
        from lloydmax.integrations.transformers.folder import copy_rest, mark_config

        copy_rest(self.path, out)
        if self.of_timm:
            (out / _CONFIG).write_bytes((self.path / _CONFIG).read_bytes())
        else:
            mark_config(out, asked, self.config)


def model_folder(path: Path) -> ModelFolder:
    """Look into a folder.

    Raises:
        IntegrationError: it has no ``config.json`` that tells a model, or holds a compressed one.
    """
    where = path / _CONFIG
    try:
        config = json.loads(where.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not JSON"
        raise IntegrationError(f"{shown(path)} is not the folder of a model: {_CONFIG}: {reason}") from None
    if not isinstance(config, dict) or not {"architecture", "architectures", "model_type"} & set(config):
        raise IntegrationError(f"{shown(where)} names neither an architecture of transformers nor one of timm")
    if (path / IN_FOLDER).is_file():
        raise IntegrationError(f"{shown(path)} holds a compressed model: name the folder of the original")
    return ModelFolder(path, config)


def _transformers(folder: ModelFolder, arguments: Mapping[str, Any]) -> nn.Module:
    from lloydmax.integrations.transformers.architectures import class_of

    model: nn.Module = class_of(folder.config, folder.path).from_pretrained(folder.path, **arguments)
    return model


def _timm(folder: ModelFolder, arguments: Mapping[str, Any]) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise IntegrationError(f"{shown(folder.path)} is a folder of timm: run: pip install timm") from error
    model: nn.Module = timm.create_model(f"local-dir:{folder.path}", pretrained=True, **arguments)
    return model
