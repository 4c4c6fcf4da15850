"""Folders that hold a model: of transformers (also those of sentence-transformers), and of timm.

Nothing of a host is imported before its folder is opened.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from lloydmax.checkpoint import load
from lloydmax.errors import IntegrationError
from lloydmax.format.folder import IN_FOLDER
from lloydmax.runtime.files import shown
from lloydmax.runtime.text import printable

_CONFIG = "config.json"
_PARTS = "modules.json"


@dataclass(frozen=True)
class ModelFolder:
    """A folder with a model of a host.

    Attributes:
        path: of the folder.
        within: where the model is in it: of some models of sentence-transformers, in a folder of its own.
        config: its ``config.json``.
    """

    path: Path
    within: str
    config: dict[str, Any]

    @property
    def inner(self) -> Path:
        """The folder with the model itself."""
        return self.path / self.within

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

        return tokenizer_in(self.inner)

    def compressed(self) -> nn.Module:
        """The model that a compressed folder holds, in evaluation mode.

        Raises:
            IntegrationError: as :meth:`model`. CheckpointError: see :func:`lloydmax.load`.
        """
        if not self.of_timm:
            import lloydmax.integrations.transformers.quantizer  # noqa: F401

            return self.model({})
        timm = _timm_itself(self)
        given = {"num_classes": self.config.get("num_classes"), **(self.config.get("model_args") or {})}
        given = {key: value for key, value in given.items() if value is not None}
        return load(self.path, timm.create_model(self.config["architecture"], pretrained=False, **given))

    def complete(self, out: Path, asked: Mapping[str, Any]) -> None:
        """Make of a folder that holds a compressed file one that the host opens.

        Args:
            out: with :data:`~lloydmax.format.folder.IN_FOLDER` in it, where :attr:`within` says.
            asked: plain data: what was asked of the file.

        Raises:
            OutputError: a file cannot be copied.
        """
        from lloydmax.integrations.transformers.folder import copy_rest, mark_config

        if self.within:
            copy_rest(self.path, out, but=self.within)
        copy_rest(self.inner, out / self.within)
        if self.of_timm:
            (out / _CONFIG).write_bytes((self.path / _CONFIG).read_bytes())
        else:
            mark_config(out / self.within, asked, self.config)


def open_folder(path: str | os.PathLike[str]) -> nn.Module:
    """The compressed model in a folder that ``lloydmax compress --out FOLDER`` or ``save_pretrained`` wrote.

    Args:
        path: of the folder, of transformers or timm.

    Returns:
        The model, in evaluation mode.

    Raises:
        IntegrationError: the folder holds no compressed model, or its host is absent or cannot build the architecture.
        CheckpointError: the file is damaged, or of another model.
    """
    folder = _look_into(Path(path))
    if not (folder.inner / IN_FOLDER).is_file():
        raise IntegrationError(f"{shown(path)} holds no compressed model: {IN_FOLDER} is missing")
    return folder.compressed()


def model_folder(path: Path) -> ModelFolder:
    """Look into the folder of a model that is to be compressed.

    Raises:
        IntegrationError: it has no ``config.json`` that tells a model, or holds a compressed one.
    """
    folder = _look_into(path)
    if (folder.inner / IN_FOLDER).is_file():
        raise IntegrationError(f"{shown(path)} holds a compressed model: name the folder of the original")
    return folder


def _look_into(path: Path) -> ModelFolder:
    within = _within(path)
    where = path / within / _CONFIG
    try:
        config = json.loads(where.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not JSON"
        raise IntegrationError(f"{shown(path)} is not the folder of a model: {_CONFIG}: {reason}") from None
    if not isinstance(config, dict) or not {"architecture", "architectures", "model_type"} & set(config):
        raise IntegrationError(f"{shown(where)} names neither an architecture of transformers nor one of timm")
    return ModelFolder(path, within, config)


def _within(path: Path) -> str:
    """Where the model of sentence-transformers is in its folder; empty: there itself, or it is another host's."""
    try:
        parts = json.loads((path / _PARTS).read_text(encoding="utf-8"))
        first = str(parts[0]["path"])
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return ""
    inner = (path / first).resolve()
    return first if inner.is_relative_to(path.resolve()) and (inner / _CONFIG).is_file() else ""


def _transformers(folder: ModelFolder, arguments: Mapping[str, Any]) -> nn.Module:
    from lloydmax.integrations.transformers.architectures import class_of

    model: nn.Module = class_of(folder.config, folder.inner).from_pretrained(folder.inner, **arguments)
    return model


def _timm(folder: ModelFolder, arguments: Mapping[str, Any]) -> nn.Module:
    timm = _timm_itself(folder)
    model: nn.Module = timm.create_model(f"local-dir:{folder.path.absolute()}", pretrained=True, **arguments)
    return model


def _timm_itself(folder: ModelFolder) -> Any:
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise IntegrationError(f"{shown(folder.path)} is a folder of timm: run: pip install timm") from error
