"""The folder of a compressed transformers model, as ``from_pretrained`` takes it and ``save_pretrained`` writes it.

- ``lloydmax.safetensors``: a file as :func:`lloydmax.save` writes it, with the names and dtypes of the model in memory;
  :func:`lloydmax.load`, ``inspect`` and ``verify`` take the file, or the folder. No file has a name by which
  transformers knows weights.
- ``config.json``: the original's, with two keys more. ``quantization_config`` has ``quant_method: lloydmax`` and what
  was asked for. ``transformers_weights`` names no file: where :mod:`lloydmax.integrations.transformers` was not
  imported, transformers refuses it, and its message shows what to do. Weights are never made at random.
- everything else (generation config, tokenizer, processor, modules of sentence-transformers): a copy.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lloydmax.errors import IntegrationError
from lloydmax.format.folder import IN_FOLDER
from lloydmax.runtime.files import shown, telling, write_text

METHOD = "lloydmax"
"""``quant_method`` in config.json."""
CONFIG = "config.json"
_ASKED, _WEIGHTS = "quantization_config", "transformers_weights"
_FIRST = "codebooks, which need this before from_pretrained: import lloydmax.integrations.transformers"
"""What ``transformers_weights`` says; it ends like no file of weights."""
_OTHER_WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".ot", ".gguf", ".onnx", ".tflite"}
"""Endings of files that hold the weights that the compressed file replaces."""
_INDEX = ".index.json"
_OTHER_MODELS = {"onnx", "openvino", "coreml"}
"""Folders with the same model once more."""


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a folder.

    Raises:
        IntegrationError: there is none, or it is not a JSON object.
    """
    path = folder / CONFIG
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or f"is not JSON ({error})"
        raise IntegrationError(f"{shown(path)}: {reason}") from error
    if not isinstance(found, dict):
        raise IntegrationError(f"{shown(path)}: is not a JSON object")
    return found


def is_compressed(folder: Path) -> bool:
    """Whether a folder holds a compressed transformers model."""
    asked = read_config(folder).get(_ASKED) if (folder / CONFIG).is_file() else None
    return isinstance(asked, dict) and asked.get("quant_method") == METHOD


def mark_config(folder: Path, asked: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> None:
    """Write ``config.json`` of a folder that holds a compressed file; done last, it makes the folder whole.

    Args:
        folder: with :data:`~lloydmax.format.folder.IN_FOLDER` in it.
        asked: plain data for ``quantization_config``; the method is added.
        config: the original's; ``None``: the one that is there.
    """
    plain = dict(read_config(folder) if config is None else config)
    for key in (_ASKED, _WEIGHTS):
        plain.pop(key, None)
    plain |= {_ASKED: {"quant_method": METHOD, **asked}, _WEIGHTS: _FIRST}
    write_text(folder / CONFIG, json.dumps(plain, indent=2, ensure_ascii=False) + "\n")


def copy_rest(source: Path, folder: Path, but: str = "") -> None:
    """Copy what a folder holds beside weights and ``config.json`` into another.

    Left out are hidden files, weights in any format beside ``config.json``, and folders that hold the model once more
    (``onnx`` ...).

    Args:
        source: the original's folder.
        folder: exists.
        but: name of a folder that is left out, too.

    Raises:
        OutputError: a file cannot be copied.
    """
    with telling(folder):
        for path in sorted(source.iterdir()):
            if path.is_dir() and not _is_left(path) and path.name != but:
                shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns(".*"))
            elif path.is_file() and not _is_left(path):
                shutil.copyfile(path, folder / path.name)


def _is_left(path: Path) -> bool:
    name = path.name
    if name.startswith(".") or name in (CONFIG, *_OTHER_MODELS):
        return True
    return path.is_file() and (path.suffix in _OTHER_WEIGHTS or name.endswith(_INDEX))


def compressed_beside(source: Path, folder: Path, asked: Mapping[str, Any]) -> None:
    """Complete a folder that holds a compressed file by what the original's folder has; its ``config.json`` last.

    Args:
        source: the folder of the original.
        folder: with :data:`~lloydmax.format.folder.IN_FOLDER` in it.
        asked: see :func:`mark_config`.
    """
    copy_rest(source, folder)
    mark_config(folder, asked, read_config(source))


__all__ = [
    "CONFIG",
    "IN_FOLDER",
    "METHOD",
    "compressed_beside",
    "copy_rest",
    "is_compressed",
    "mark_config",
    "read_config",
]
