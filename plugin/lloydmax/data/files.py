"""Arrays in files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from lloydmax.data.inputs import Inputs, is_label
from lloydmax.data.picture_files import SUFFIXES as IMAGE_SUFFIXES
from lloydmax.data.tokens import TEXT_KEYS
from lloydmax.errors import DataError
from lloydmax.runtime.files import shown
from lloydmax.runtime.text import printable

_NAMED = 5
"""Columns that are named in a message."""
USUAL_NAMES = ("images", "x", "data", "inputs", "input")
ARRAY_SUFFIXES = (".npy", ".npz", ".safetensors")
TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")


def read_arrays(path: Path, inputs: Inputs) -> Any:
    """The inputs in a file: one array or tensor, or a dict of those that ``forward`` names.

    A ``.npy`` file is memory-mapped. Of several arrays, labels are left out. Tables: see :func:`read_table`.

    Raises:
        DataError: the file is missing, damaged, of another kind, or does not say which array is meant.
    """
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES and path.is_file():
        raise DataError(f"{shown(path)} is a single picture: give the folder it lies in")
    if not path.is_file():
        raise DataError(f"there is no file or folder {shown(path)}")
    if suffix in TABLE_SUFFIXES:
        return read_table(path, inputs)
    if suffix in _ARCHIVES:
        raise DataError(f"{shown(path)} is an archive: unpack it and give the folder")
    if suffix not in ARRAY_SUFFIXES:
        raise DataError(
            f"{shown(path)} is not a kind of file that can be read: give a folder of pictures or one of "
            f"{', '.join(ARRAY_SUFFIXES + TABLE_SUFFIXES)}"
        )
    try:
        if suffix == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)
        if suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return _pick(archive.files, archive.__getitem__, inputs)
        from safetensors import safe_open

        with safe_open(path, framework="pt") as tensors:
            return _pick(tensors.keys(), tensors.get_tensor, inputs)
    except DataError as error:
        raise DataError(f"{shown(path)}: {error}") from error
    except Exception as error:
        why = printable(str(error), 300)
        raise DataError(f"{shown(path)} cannot be read ({why}): is it damaged, or of Python objects?") from error


def read_table(path: Path, inputs: Inputs) -> Any:
    """The columns of a table that are inputs: by name where ``forward`` has parameters of these names, else all of them
    side by side, float32 ``(rows, columns)``, but labels; of a column of texts the texts.

    Raises:
        DataError: it cannot be read, pandas is missing, or a column is not of numbers.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise DataError(f'{shown(path)}: tables are read by pandas: pip install "lloydmax[tables]"') from error
    try:
        if path.suffix.lower() == ".parquet":
            table = pd.read_parquet(path)
        else:
            table = pd.read_csv(path, sep="\t" if path.suffix.lower() == ".tsv" else ",")
    except ImportError as error:
        raise DataError(f'{shown(path)}: parquet is read by pyarrow: pip install "lloydmax[tables]"') from error
    except Exception as error:
        raise DataError(f"{shown(path)} cannot be read as a table: {printable(str(error), 300)}") from error
    names = [str(name) for name in table.columns]
    table.columns = pd.Index(names)
    if texts := [name for name in TEXT_KEYS if name in names and inputs.sequences.tokenizer is not None]:
        return [str(text) for text in table[texts[0]].dropna()]
    given = [name for name in names if inputs.takes(name)] or [name for name in names if not is_label(name)]
    odd = [name for name in given if not (pd.api.types.is_numeric_dtype(table[name]))]
    if odd or not given:
        which = f"the columns {', '.join(map(repr, odd[:_NAMED]))} are not of numbers" if odd else "it has no columns"
        raise DataError(f"{shown(path)}: {which}: encode them as in training, and leave out what is no input")
    if inputs.takes(given[0]):
        return {name: np.ascontiguousarray(table[name].to_numpy()) for name in given}
    return np.ascontiguousarray(table[given].to_numpy(dtype=np.float32))


def _pick(names: Iterable[str], read: Callable[[str], Any], inputs: Inputs) -> Any:
    names = list(names)
    unlabelled = [name for name in names if not is_label(name)]
    if len(unlabelled) == 1:
        return read(unlabelled[0])
    matching = [name for name in names if inputs.takes(name)]
    if matching:
        return {name: read(name) for name in matching}
    for name in USUAL_NAMES:
        if name in unlabelled:
            return read(name)
    raise DataError(
        f"it is not clear which of its arrays ({', '.join(names) or 'none'}) are the inputs: store one, or "
        f"call it {USUAL_NAMES[0]}, or name them as forward does ({', '.join(inputs.signature.parameters)})"
    )
