"""The document of a file: what its JSON metadata say about its tensors. Nothing here reads or writes.

Format 1 has the document in the metadata and every tensor under its own name. Format 2 adds constant tensors that are
only in the document, codebooks of integers, extra state of modules, and the layout of :mod:`lloydmax.format.compact`;
format 3 the arithmetic coding and the layout of :mod:`lloydmax.format.tight`. The lowest that will do is written.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lloydmax.errors import CheckpointError
from lloydmax.format import compact, tight
from lloydmax.format.record import CODINGS, FLOATS, ParameterRecord
from lloydmax.format.rows import constant_of, row, rows_of
from lloydmax.format.tensor_table import Entry, expect, file_order

FORMAT = 3
"""The newest format that this version reads."""
KEY = "lloydmax"
_OPTIONAL = {"floats", "tied", "recipe", "folded", "activations", "constants", "extra"}
"""Fields of the document that are left out where they are empty."""
_DEEPEST = 100
"""Lists and mappings in one another."""
_LONGER = 1 << 16
"""Bytes by which an entropy-coded stream may exceed the packed codes, which a writer would then prefer."""
STORAGE = {
    "floats": (*FLOATS, "fixed"),
    "codes": CODINGS,
    "norms": ("kept", "merged"),
    "codebooks": ("float", "int8"),
    "layout": ("named", "compact", "tight"),
}
"""The storage options; the default comes first."""


@dataclass(frozen=True)
class Document:
    """What the metadata say.

    Attributes:
        parameters: the compressed parameters by name.
        floats: dtype in the model of each tensor that the file holds in a narrower one.
        tied: further names of a parameter or buffer -> the name under which it is stored.
        recipe: the recipe that made the model, if known.
        folded: layer -> the batch norm that was folded into it.
        activations: scale and zero point of every quantized activation of a model that runs on int8 kernels.
        crc32: one checksum per tensor of the file, in ascending order of the names; none in the tight layout.
        lloydmax, torch: versions of the writer.
        constants: the tensors of which only a single element is kept, here.
        layout: ``named``, ``compact`` (:mod:`lloydmax.format.compact`) or ``tight`` (:mod:`lloydmax.format.tight`).
        extra: extra state of modules, by name.
    """

    parameters: dict[str, ParameterRecord]
    floats: dict[str, str] = field(default_factory=dict)
    tied: dict[str, str] = field(default_factory=dict)
    recipe: dict[str, Any] | None = None
    folded: dict[str, str] = field(default_factory=dict)
    activations: tuple[tuple[float, int], ...] | None = None
    crc32: tuple[str, ...] = ()
    lloydmax: str = ""
    torch: str = ""
    constants: dict[str, Entry] = field(default_factory=dict)
    layout: str = "named"
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def format(self) -> int:
        """Version of the format."""
        own = 3 if self.layout == "tight" else 2 if self.layout == "compact" or self.constants or self.extra else 1
        return max([own, *(item.format for item in self.parameters.values())])

    def text(self, entries: Iterable[Entry]) -> str:
        """Canonical JSON, with a checksum of itself and of the table of tensors; compact or tight, with the table.

        Raises:
            CheckpointError: the recipe is not plain JSON data.
        """
        value: dict[str, Any] = {
            "format": self.format,
            "lloydmax": self.lloydmax,
            "torch": self.torch,
            "parameters": {name: parameter.to_document() for name, parameter in self.parameters.items()},
        }
        optional = {
            "floats": self.floats or None,
            "tied": self.tied or None,
            "recipe": self.recipe,
            "folded": self.folded or None,
            "activations": self.activations,
            "constants": {name: row(entry)[1:] for name, entry in self.constants.items()} or None,
            "extra": self.extra or None,
        }
        value |= {key: part for key, part in optional.items() if part is not None}
        stored = file_order(entry for entry in entries if entry.fill is None)
        _check_depth("the recipe", self.recipe)
        _check_depth("extra state", self.extra)
        try:
            if self.layout == "tight":
                return _canonical(value | tight.packed_table(value["parameters"], stored))
            if self.layout == "compact":
                return _canonical({**value, "tensors": [row(entry) for entry in stored]})
            value["crc32"] = self.crc32
            return _canonical({**value, "header": _header_checksum(stored, value)})
        except (TypeError, ValueError, RecursionError) as error:
            raise CheckpointError(f"the recipe is not plain JSON data ({error})") from error

    @classmethod
    def parse(cls, text: str, ordered: list[Entry]) -> Document:
        """The document of a file, checked against the table of its tensors (in the order of the file).

        Raises:
            CheckpointError: it is damaged, of another format, or contradicts the table.
        """
        value, canonical = _value(text)
        header = value.pop("header", None)
        expect(
            canonical == text and header == _header_checksum(ordered, value),
            "the header is damaged (wrong checksum)",
        )
        return cls._from_value(value)._checked(value, ordered)

    @classmethod
    def parse_compact(cls, text: str, crc32: list[str]) -> tuple[Document, list[Entry]]:
        """The document of a compact file, its checksum compared, and the tensors in the order of the file.

        Args:
            text: inflated.
            crc32: the checksums of the tensors.

        Raises:
            CheckpointError: it is of another format, or contradicts itself.
        """
        value, canonical = _value(text)
        expect(canonical == text, "the document is damaged (not canonical)")
        ordered = rows_of(value)
        document = replace(cls._from_value({**value, "crc32": crc32}), layout="compact")
        return document._checked(value, ordered), ordered

    @classmethod
    def parse_tight(cls, text: str) -> tuple[Document, list[Entry]]:
        """The document of a tight file, and the tensors in the order of the file.

        Raises:
            CheckpointError: it is of another format, or contradicts itself.
        """
        value, canonical = _value(text)
        expect(canonical == text, "the document is damaged (not canonical)")
        rows = rows_of(value, steps=True)
        records, added = tight.taken_apart(value.get("parameters"))
        document = replace(cls._from_value({**value, "parameters": records, "crc32": []}), layout="tight")
        parts = [tight.entries_of(name, record, added[name]) for name, record in document.parameters.items()]
        ordered = file_order([*rows, *(entry for pair in parts for entry in pair)])
        expect(len({entry.name for entry in ordered}) == len(ordered), "a tensor is there twice")
        return document._checked(value, ordered), ordered

    def _checked(self, value: dict[str, Any], ordered: list[Entry]) -> Document:
        expect(self.format == value["format"], f"needs format {self.format}, but says {value['format']}")
        self.check(self.table(ordered))
        return self

    def table(self, ordered: Iterable[Entry]) -> dict[str, Entry]:
        """All tensors by name: those that have bytes in the file, and the constant ones."""
        stored = {entry.name: entry for entry in ordered}
        expect(not set(stored) & set(self.constants), "a constant tensor has bytes")
        return stored | self.constants

    @classmethod
    def _from_value(cls, value: dict[str, Any]) -> Document:
        required = {"format", "lloydmax", "torch", "parameters", "crc32"}
        expect(
            required <= set(value) <= required | _OPTIONAL,
            f"the document has unknown or missing fields: {sorted(set(value) ^ required)[:5]}",
        )
        names = {key: value.get(key, {}) for key in ("floats", "tied", "folded")}
        for key, mapping in names.items():
            expect(
                isinstance(mapping, dict) and all(isinstance(item, str) for item in mapping.values()),
                f"{key} is not a mapping of names",
            )
        expect(isinstance(value["parameters"], dict), "parameters is not a mapping")
        expect(isinstance(value["lloydmax"], str) and isinstance(value["torch"], str), "versions are not text")
        expect(isinstance(value.get("recipe", {}), dict), "the recipe is not a mapping")
        expect(isinstance(value.get("constants", {}), dict), "constants is not a mapping")
        expect(isinstance(value.get("extra", {}), dict), "extra is not a mapping")
        _check_depth("the recipe", value.get("recipe"))
        _check_depth("extra state", value.get("extra"))
        activations = value.get("activations")
        if activations is not None:
            expect(
                isinstance(activations, list) and all(_is_affine(point) for point in activations),
                "activations is not a list of scales and zero points",
            )
            activations = tuple((float(scale), zero) for scale, zero in activations)
        checksums = value["crc32"]
        expect(
            isinstance(checksums, list)
            and all(isinstance(item, str) and re.fullmatch("[0-9a-f]{8}", item) for item in checksums),
            "crc32 is not a list of checksums",
        )
        parameters = {}
        for name, item in value["parameters"].items():
            try:
                parameters[name] = ParameterRecord.from_document(item)
            except CheckpointError as error:
                raise CheckpointError(f"parameter {name!r}: {error}") from None
        return cls(
            parameters,
            names["floats"],
            names["tied"],
            value.get("recipe"),
            names["folded"],
            activations,
            tuple(checksums),
            value["lloydmax"],
            value["torch"],
            {name: constant_of(name, item) for name, item in value.get("constants", {}).items()},
            extra=value.get("extra", {}),
        )

    def check(self, entries: Mapping[str, Entry]) -> None:
        """Compare with the table of tensors.

        Raises:
            CheckpointError: a tensor is missing, or its dtype, shape or length contradicts the document.
        """
        count = 0 if self.layout == "tight" else len(entries) - len(self.constants)
        expect(len(self.crc32) == count, f"{len(self.crc32)} checksums for {count} tensors")
        for name, parameter in self.parameters.items():
            codebook, codes = entries.get(f"{name}.codebook"), entries.get(f"{name}.codes")
            if codebook is None or codes is None:
                raise CheckpointError(f"codebook or codes of {name!r} are missing")
            expect(
                codebook.dtype == ("I8" if parameter.int8 else "F32")
                or (codebook.dtype == "F16" and parameter.takes_float16),
                f"the codebook of {name!r} is {codebook.dtype}",
            )
            expect(
                codebook.shape == parameter.codebook_shape,
                f"the codebook of {name!r} has shape {codebook.shape}, not {parameter.codebook_shape}",
            )
            expect(codebook.fill is None and codes.fill is None, f"{name!r} is constant")
            expect(codes.dtype == "U8" and len(codes.shape) == 1, f"the codes of {name!r} are not bytes")
            packed = parameter.packed_bytes
            expect(
                codes.bytes == packed or (parameter.coding != "packed" and codes.bytes <= packed + _LONGER),
                f"the codes of {name!r} are {codes.bytes} bytes, not {packed}",
            )
        plain = self.plain(entries)
        for name, dtype in self.floats.items():
            expect(
                dtype == "float32" and name in plain and plain[name].dtype in ("F16", "BF16"),
                f"tensor {name!r} is not a narrowed {dtype[:20]}",
            )
        stored = set(self.parameters) | set(plain)
        expect(len(stored) == len(self.parameters) + len(plain), "a parameter is stored twice")
        for alias, name in self.tied.items():
            expect(alias not in stored and name in stored, f"{alias!r} is tied to {name!r}, which is not stored")

    def columns(self) -> dict[str, int]:
        """Columns of the codebooks by the names of their tensors, see :class:`~lloydmax.format.steps.Steps`."""
        return {f"{name}.codebook": parameter.columns for name, parameter in self.parameters.items()}

    def plain(self, entries: Mapping[str, Entry]) -> dict[str, Entry]:
        """The tensors that belong to no codebook."""
        parts = {f"{name}.{part}" for name in self.parameters for part in ("codebook", "codes")}
        return {name: entry for name, entry in entries.items() if name not in parts}

    def storage(self, entries: Mapping[str, Entry]) -> dict[str, str]:
        """The storage options that give this file again."""
        narrowed = {entries[name].torch_dtype for name in self.floats} | {
            entries[f"{name}.codebook"].torch_dtype
            for name, parameter in self.parameters.items()
            if parameter.dtype == "float32" and not parameter.even and not parameter.int8
        }
        coded = {parameter.coding for parameter in self.parameters.values()} - {"packed"}
        further = {
            "norms": "merged" if self.constants and self.layout == "named" else None,
            "codebooks": "int8" if any(parameter.int8 for parameter in self.parameters.values()) else None,
            "layout": self.layout if self.layout != "named" else None,
        }
        stepped = any(entry.coded is not None for entry in entries.values())
        return {
            "floats": "fixed" if stepped else min(narrowed - {"float32"}, default="float32"),
            "codes": max(coded, default="packed"),
            **{key: value for key, value in further.items() if value is not None},
        }


def file_size(document: Document, entries: Iterable[Entry]) -> int:
    """Exact size of the file with these tensors; the checksums may be absent.

    Args:
        document: what the metadata will say.
        entries: every tensor of the file.
    """
    ordered = file_order(entry for entry in entries if entry.fill is None)
    text = replace(document, crc32=("0" * 8,) * len(ordered)).text(ordered)
    if document.layout != "named":
        text, ordered = (tight if document.layout == "tight" else compact).table(text, ordered)
    return 8 + len(header_of(text, ordered)) + sum(entry.bytes for entry in ordered)


def header_of(text: str, ordered: Iterable[Entry]) -> bytes:
    """The header of a file as the safetensors library writes it, without its length.

    Args:
        text: the metadata.
        ordered: the tensors, in the order of the file.
    """
    header: dict[str, Any] = {"__metadata__": {KEY: text}}
    end = 0
    for entry in ordered:
        start, end = end, end + entry.bytes
        header[entry.name] = {"dtype": entry.dtype, "shape": entry.shape, "data_offsets": (start, end)}
    made = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return made + b" " * (-len(made) % 8)


def _check_depth(name: str, value: Any) -> None:
    level = [value]
    for _ in range(_DEEPEST + 1):
        groups = [item.values() if isinstance(item, dict) else item for item in level if isinstance(item, (dict, list))]
        level = [item for group in groups for item in group]
        if not level:
            return
    raise CheckpointError(f"{name} is nested more than {_DEEPEST} deep")


def _is_affine(point: Any) -> bool:
    return (
        isinstance(point, list)
        and len(point) == 2
        and type(point[0]) is float
        and 0 < point[0] < math.inf
        and type(point[1]) is int
        and 0 <= point[1] < 256
    )


def _value(text: str) -> tuple[dict[str, Any], str]:
    """The data of a document of a known format, and how they are written."""
    try:
        value = json.loads(text)
        canonical = _canonical(value)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"the document in the metadata is damaged ({type(error).__name__})") from error
    expect(isinstance(value, dict), "the document in the metadata is damaged (no object)")
    version = value.get("format")
    if type(version) is int and version > FORMAT:
        raise CheckpointError(f"was written by a newer lloydmax; format {version}, this version reads 1 to {FORMAT}")
    expect(type(version) is int and 1 <= version <= FORMAT, f"unknown format {str(version)[:20]!r}")
    return value, canonical


def _header_checksum(ordered: list[Entry], document: dict[str, Any]) -> str:
    table, end = [], 0
    for entry in ordered:
        table.append((entry.name, entry.dtype, entry.shape, end))
        end += entry.bytes
    return f"{zlib.crc32(_canonical([sorted(table), document]).encode()):08x}"


def _canonical(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False)
