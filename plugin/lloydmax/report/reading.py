"""Reports and sweeps from the JSON files that lloydmax wrote, checked field by field."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import BaseModel, TypeAdapter, ValidationError

from lloydmax.errors import ReportError
from lloydmax.format.sizes import Sizes
from lloydmax.report.figures import VERSION, Figures
from lloydmax.runtime.files import path_of, shown
from lloydmax.runtime.text import printable

_DIGITS = 20
"""Of a number of 64 bits."""
_LARGEST = 1e300
"""With which the page can still compute."""


class _Curves(BaseModel):
    total: int
    curves: dict[str, list[tuple[float, float]]]


class _Step(BaseModel, extra="allow"):
    """What the page reads of a recovery step."""

    step: str
    history: _Curves = _Curves(total=0, curves={})


class _LeftOut(BaseModel, extra="allow"):
    """What the page reads of a data source."""

    samples: int
    left_out: int
    which: dict[str, str]


_WRITTEN = {"bytes": dict[str, int], "recovery": list[_Step], "data": dict[str, _LeftOut]}
"""Types of fields that are plain data, and stay as they are once they are checked."""


def read_json(path: str | Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ReportError: it cannot be read, or there is something else in it.
    """
    try:
        place = path_of(path, ReportError)
        if place.exists() and not place.is_file():  # to open a pipe would wait for ever
            raise ReportError(f"{shown(path)}: {'is a directory' if place.is_dir() else 'is not an ordinary file'}")
        data = json.loads(place.read_bytes(), parse_int=_whole, parse_float=_finite, parse_constant=_no_number)
    except OSError as error:
        raise ReportError(f"{shown(path)}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        reason = "it is not text" if isinstance(error, UnicodeDecodeError) else str(error)
        raise ReportError(f"{shown(path)} is not JSON: {printable(reason)}") from None
    if not isinstance(data, dict):
        raise ReportError(f"{shown(path)} holds no JSON object, but {type(data).__name__}")
    return data


def read_fields(path: str | Path) -> dict[str, Any]:
    """The fields of the report in a JSON file.

    Raises:
        ReportError: it cannot be read, is not a report, or one of another version of lloydmax.
    """
    data = read_json(path)
    if not {"recipe", "stages", "layers", "bytes"} <= set(data):
        raise ReportError(
            f"{shown(path)} is not a report: write one with 'lloydmax compress --report' or Report.to_json"
        )
    if (version := data.get("version")) != VERSION:
        made = "an older lloydmax, without a version" if version is None else f"format {printable(repr(version), 40)}"
        raise ReportError(
            f"{shown(path)} was written by {made}; this one reads format {VERSION}: compress again, or use the "
            "lloydmax that wrote it"
        )
    hints = get_type_hints(Figures) | _WRITTEN
    fields = {}
    for item in dataclasses.fields(Figures):
        if item.name in data or item.default is dataclasses.MISSING:
            value = _with_infinities(data, item.name)
            made = validated(path, item.name, hints[item.name], value)
            fields[item.name] = value if item.name in _WRITTEN else made
    try:
        sizes = Sizes.from_dict(fields["bytes"])
    except KeyError as error:
        raise ReportError(f"{shown(path)}: bytes has no {error}") from None
    if min(sizes.to_dict().values()) < 1:
        raise ReportError(f"{shown(path)}: bytes holds a size below 1")
    if (weights := fields.get("weights")) is not None and weights < 1:
        raise ReportError(f"{shown(path)}: weights is {weights}, a model has 1 or more")
    if len(fields["stages"]) < 2:
        raise ReportError(f"{shown(path)}: stages has {len(fields['stages'])} entries, a report has 2 or more")
    return fields | {"bytes": sizes}


def _whole(digits: str) -> int:
    """A whole number of at most 64 bits, which is more than any that a report counts."""
    if len(digits) > _DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if not abs(value) <= _LARGEST:
        raise ValueError(f"the number {digits[:_DIGITS]} is too large")
    return value


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not a number of JSON")


def validated(path: str | Path, name: str, kind: Any, value: Any) -> Any:
    """A value of the type ``kind``, built from plain data as strictly as from JSON: no text is a number.

    Args:
        path: of the file, for the message.
        name: of the field, for the message.
        kind: any type that pydantic knows.
        value: plain data.

    Raises:
        ReportError: it names file and field.
    """
    try:
        return TypeAdapter(kind).validate_json(json.dumps(value), strict=True)
    except RecursionError:
        raise ReportError(f"{shown(path)}: {printable(name)} is nested too deeply") from None
    except ValidationError as failure:
        error = failure.errors()[0]
        where = name + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"])
        raise ReportError(f"{shown(path)}: {printable(where)}: {printable(error['msg'])}") from None


def _with_infinities(data: dict[str, Any], name: str) -> Any:
    """The value of a field; an infinite ``snr`` of a layer or ``mse`` of a stage is ``null`` in JSON."""
    value = data.get(name, {"data": {}, "tried": [], "outputs": []}.get(name))  # 0.1 did not write these
    if name == "layers" and isinstance(value, list):
        return [infinite(layer, "snr") for layer in value]
    if name == "tried":
        return [infinite(one, "damage") for one in value] if isinstance(value, list) else value
    if name == "stages" and isinstance(value, list):
        return [
            {**stage, "agreement": infinite(stage.get("agreement"), "mse")} if isinstance(stage, dict) else stage
            for stage in value
        ]
    return value


def infinite(entry: Any, name: str) -> Any:
    """An entry of a report or sweep, one of whose figures is infinite, which JSON holds as ``null``."""
    null = isinstance(entry, dict) and name in entry and entry[name] is None
    return {**entry, name: math.inf} if null else entry
