"""A file taken apart, changed by steps that are plain data, and put together again with honest checksums.

A mutation is ``{"seed": name of a golden file, "steps": [...], "raw": [...]}``; a finding is a few lines of JSON.
Steps change the parts, raw ones the bytes of the file that is made of them:

    ["set", path, value]            of the document, at a path of keys and indices; a new key is made
    ["copy", path, other]           the value at another path
    ["delete", path]                a key or an item
    ["rename", path, key]           a key
    ["fill", path, count, value]    so many further keys of a mapping, or items of a list
    ["order"]                       the reverse order of the tensors
    ["field", name, "dtype" or "shape", value]   of the table of tensors
    ["name", name, other]           of a tensor
    ["drop", name], ["double", name, other]
    ["write", name, at, hex]        over the bytes of a tensor
    ["length", name, size]          cut, or filled up with zeros; the shape of bytes follows
    ["deflate", name, level, strategy]   an entropy-coded stream, again: the same codes
    ["replace", old, new]           in the text of the document, which need not stay canonical
    ["metadata", key, text]         beside the document
    ["lie", what]                   leaves one checksum as it was: a tensor's name, "header" or "label"

    ["flip", at, bit], ["cut", at], ["insert", at, hex], ["over", at, hex], ["splice", seed, at, from]: raw; positions
    wrap around
"""

from __future__ import annotations

import copy
import json
import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from golden_files import GOLDEN
from lloydmax.format import tight
from standalone_reader import TYPES

WIDTHS = {code: int(re.sub(r"\D", "", kind) or 1) for code, kind in TYPES.items()}
Step = Sequence[Any]


@dataclass
class Anatomy:
    """The parts of a file.

    Attributes:
        document: the data in it; ``crc32``, ``header`` and ``tensors`` are made anew.
        rows: ``[name, dtype, shape]`` of every tensor, in the order of their bytes.
        data: the bytes of every tensor.
        layout: ``named``, ``compact`` or ``tight``, where all tensors are one and the document has the table.
        texts: replacements in the text of the document.
        metadata: further ones.
        lies: what keeps the checksum that it had.
        known: the checksums that it had.
    """

    document: dict[str, Any]
    rows: list[list[Any]]
    data: dict[str, bytes]
    layout: str
    texts: list[tuple[str, str]] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    lies: set[str] = field(default_factory=set)
    known: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, raw: bytes) -> Anatomy:
        """Take a sound file apart."""
        start = 8 + int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8:start])
        text = header.pop("__metadata__")["lloydmax"]
        places = {
            name: (start + first, start + end)
            for name, about in header.items()
            for first, end in [about["data_offsets"]]
        }
        rows = [[name, about["dtype"], about["shape"]] for name, about in header.items()]
        data = {name: raw[first:end] for name, (first, end) in places.items()}
        document = json.loads(text)
        if text == tight.LABEL:
            text, held = tight.opened(np.frombuffer(data["data"], np.uint8), 1 << 25)
            known = {"label": f"{int.from_bytes(data['data'][4:8], 'little'):08x}"}
            known["data"] = f"{int.from_bytes(held[-4:].tobytes(), 'little'):08x}"
            data = {"data": held[:-4].tobytes()}
            return cls(json.loads(text), [["data", "U8", [len(data["data"])]]], data, "tight", known=known)
        if set(document) != {"crc32", "format"}:
            known = dict(zip(sorted(data), document.pop("crc32"), strict=True)) | {"header": document.pop("header")}
            return cls(document, rows, data, "named", known=known)
        label = document["crc32"]
        document = json.loads(zlib.decompress(data["document"], -15))
        sums = [
            f"{int.from_bytes(data['checksums'][at : at + 4], 'little'):08x}"
            for at in range(0, len(data["checksums"]), 4)
        ]
        rows, parts, end = document.pop("tensors"), {}, 0
        for name, dtype, shape in rows:
            first, end = end, end + math.prod(shape) * WIDTHS[dtype]
            parts[name] = data["data"][first:end]
        return cls(
            document, rows, parts, "compact", known=dict(zip(sorted(parts), sums, strict=True)) | {"label": label}
        )

    def file(self) -> bytes:
        """Put together."""
        sums: dict[str, Any] = {name: self._sum(name, self.data[name]) for name in sorted(self.data)}
        if self.layout == "tight":
            packed = tight.deflate(self._text(self.document))
            data = b"".join(self.data.values())
            sums = {what: int(self._sum(what, part), 16) for what, part in (("label", packed), ("data", data))}
            head = len(packed).to_bytes(4, "little") + sums["label"].to_bytes(4, "little") + packed
            whole = head + data + sums["data"].to_bytes(4, "little")
            return self._written(tight.LABEL, [("data", "U8", [len(whole)], whole)])
        if self.layout == "compact":
            packed = _deflated(self._text({**self.document, "tensors": self.rows}))
            checksums = b"".join(int(item, 16).to_bytes(4, "little") for item in sums.values())
            data = b"".join(self.data[name] for name, *_ in self.rows)
            label = self._sum("label", checksums + packed)
            parts = [("checksums", "U32", [len(sums)], checksums), ("data", "U8", [len(data)], data)]
            return self._written(
                f'{{"crc32":"{label}","format":2}}', [*parts, ("document", "U8", [len(packed)], packed)]
            )
        table, end = [], 0
        for name, dtype, shape in self.rows:
            table.append([name, dtype, shape, end])
            end += len(self.data[name])
        document = {**self.document, "crc32": list(sums.values())}
        signed = canonical([sorted(table, key=lambda row: row[0]), document]).encode()
        document["header"] = self._sum("header", signed)
        return self._written(self._text(document), [(*row, self.data[row[0]]) for row in self.rows])

    def _sum(self, what: str, data: bytes) -> str:
        return self.known.get(what, "00000000") if what in self.lies else f"{zlib.crc32(data):08x}"

    def _text(self, document: dict[str, Any]) -> str:
        text = canonical(document)
        for old, new in self.texts:
            text = text.replace(old, new, 1)
        return text

    def _written(self, text: str, parts: list[tuple[Any, ...]]) -> bytes:
        header: dict[str, Any] = {"__metadata__": {**self.metadata, "lloydmax": text}}
        end = 0
        for name, dtype, shape, data in parts:
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + len(data)]}
            end += len(data)
        written = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode()
        written += b" " * (-len(written) % 8)
        return len(written).to_bytes(8, "little") + written + b"".join(data for *_, data in parts)

    def apply(self, step: Step) -> None:
        """One step; what it changes must be there.

        Raises:
            LookupError, TypeError, ValueError: it is not.
        """
        kind, *rest = step
        getattr(self, f"_{kind}")(*rest)

    def at(self, path: Sequence[Any]) -> Any:
        """A value of the document."""
        value: Any = self.document
        for key in path:
            value = value[key]
        return value

    def _set(self, path: Sequence[Any], value: Any) -> None:
        self.at(path[:-1])[path[-1]] = copy.deepcopy(value)

    def _copy(self, path: Sequence[Any], other: Sequence[Any]) -> None:
        self._set(path, self.at(other))

    def _delete(self, path: Sequence[Any]) -> None:
        del self.at(path[:-1])[path[-1]]

    def _rename(self, path: Sequence[Any], key: str) -> None:
        parent = self.at(path[:-1])
        parent[key] = parent.pop(path[-1])

    def _fill(self, path: Sequence[Any], count: int, value: Any) -> None:
        parent = self.at(path)
        if isinstance(parent, list):
            parent += [value] * count
        else:
            parent |= {f"n{number}": value for number in range(count)}

    def _order(self) -> None:
        self.rows.reverse()

    def row(self, name: str) -> list[Any]:
        """The row of a tensor."""
        return next(row for row in self.rows if row[0] == name)

    def _field(self, name: str, which: str, value: Any) -> None:
        self.row(name)[1 if which == "dtype" else 2] = value

    def _name(self, name: str, other: str) -> None:
        self.row(name)[0] = other
        self.data[other] = self.data.pop(name)

    def _drop(self, name: str) -> None:
        self.rows.remove(self.row(name))
        del self.data[name]

    def _double(self, name: str, other: str) -> None:
        self.rows.append([other, *self.row(name)[1:]])
        self.data[other] = self.data[name]

    def _write(self, name: str, at: int, digits: str) -> None:
        self.data[name] = _over(self.data[name], at, bytes.fromhex(digits))[: len(self.data[name])]

    def _length(self, name: str, size: int) -> None:
        row = self.row(name)
        self.data[name] = self.data[name][:size].ljust(size, b"\0")
        if row[1] in ("U8", "I8") and len(row[2]) == 1:
            row[2] = [size]

    def _deflate(self, name: str, level: int, strategy: int) -> None:
        self.data[name] = _deflated(zlib.decompress(self.data[name], -15), level, strategy)
        self.row(name)[2] = [len(self.data[name])]

    def _replace(self, old: str, new: str) -> None:
        self.texts.append((old, new))

    def _metadata(self, key: str, text: str) -> None:
        self.metadata[key] = text

    def _lie(self, what: str) -> None:
        self.lies.add(what)


def canonical(value: object) -> str:
    """As a document is written; infinities, which are not JSON, as Python spells them."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def _deflated(data: bytes | str, level: int = 9, strategy: int = 0) -> bytes:
    stream = zlib.compressobj(level, zlib.DEFLATED, -15, 9, strategy)
    return stream.compress(data.encode() if isinstance(data, str) else data) + stream.flush()


def _over(data: bytes, at: int, new: bytes) -> bytes:
    at %= max(1, len(data))
    return data[:at] + new + data[at + len(new) :]


def raw_change(data: bytes, step: Step) -> bytes:
    """A raw step applied to the bytes of a file."""
    kind, *rest = step
    at = rest[1 if kind == "splice" else 0] % max(1, len(data))
    if kind == "flip":
        return data[:at] + bytes([data[at] ^ 1 << rest[1]]) + data[at + 1 :] if data else data
    if kind == "cut":
        return data[:at]
    if kind == "insert":
        return data[:at] + bytes.fromhex(rest[1]) + data[at:]
    if kind == "over":
        return _over(data, at, bytes.fromhex(rest[1]))
    other = seed(rest[0])
    return data[:at] + other[rest[2] % len(other) :]


@cache
def seed(name: str) -> bytes:
    """A golden file."""
    return (GOLDEN / f"{name}.safetensors").read_bytes()


@cache
def anatomy(name: str) -> Anatomy:
    """A golden file taken apart; copy it before it is changed."""
    return Anatomy.of(seed(name))


def mutant(mutation: dict[str, Any]) -> bytes | None:
    """The bytes of a mutated file; ``None`` where its steps contradict each other, or make what JSON cannot say."""
    parts = copy.deepcopy(anatomy(mutation["seed"]))
    try:
        for step in mutation["steps"]:
            parts.apply(step)
        data = parts.file() if mutation["steps"] else seed(mutation["seed"])
    except (LookupError, TypeError, ValueError, AttributeError, StopIteration, RecursionError, zlib.error):
        return None
    for step in mutation["raw"]:
        data = raw_change(data, step)
    return data
