"""The file's format: one safetensors file whose metadata hold one JSON document. Nothing here reads or writes."""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lloydmax.entries import Entry, expect, file_order
from lloydmax.errors import CheckpointError
from lloydmax.stored import Parameter

FORMAT = 1
KEY = "lloydmax"
DEFAULT_STORAGE = {"floats": "float32", "codes": "packed"}


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
        crc32: one checksum per tensor of the file, in ascending order of the names.
        lloydmax, torch: versions of the writer.
    """

    parameters: dict[str, Parameter]
    floats: dict[str, str] = field(default_factory=dict)
    tied: dict[str, str] = field(default_factory=dict)
    recipe: dict[str, Any] | None = None
    folded: dict[str, str] = field(default_factory=dict)
    activations: tuple[tuple[float, int], ...] | None = None
    crc32: tuple[str, ...] = ()
    lloydmax: str = ""
    torch: str = ""

    def text(self, entries: Iterable[Entry]) -> str:
        """Canonical JSON, with a checksum of itself and of the table of tensors.

        Raises:
            CheckpointError: the recipe is not plain JSON data.
        """
        value: dict[str, Any] = {
            "format": FORMAT,
            "lloydmax": self.lloydmax,
            "torch": self.torch,
            "parameters": {name: parameter.to_document() for name, parameter in self.parameters.items()},
            "crc32": self.crc32,
        }
        optional = {
            "floats": self.floats or None,
            "tied": self.tied or None,
            "recipe": self.recipe,
            "folded": self.folded or None,
            "activations": self.activations,
        }
        value |= {key: part for key, part in optional.items() if part is not None}
        try:
            return _canonical({**value, "header": _header_checksum(file_order(entries), value)})
        except (TypeError, ValueError, RecursionError) as error:
            raise CheckpointError(f"the recipe is not plain JSON data ({error})") from error

    @classmethod
    def parse(cls, text: str, ordered: list[Entry]) -> Document:
        """The document of a file, checked against the table of its tensors (in the order of the file).

        Raises:
            CheckpointError: it is damaged, of another format, or contradicts the table.
        """
        try:
            value = json.loads(text)
            canonical = _canonical(value)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"the document in the metadata is damaged ({type(error).__name__})") from error
        expect(isinstance(value, dict), "the document in the metadata is damaged (no object)")
        version = value.get("format")
        if type(version) is int and version > FORMAT:
            raise CheckpointError(f"was written by a newer lloydmax; format {version}, this version reads {FORMAT}")
        expect(version == FORMAT and type(version) is int, f"unknown format {str(version)[:20]!r}")
        header = value.pop("header", None)
        expect(
            canonical == text and header == _header_checksum(ordered, value),
            "the header is damaged (wrong checksum)",
        )
        document = cls._from_value(value)
        document.check({entry.name: entry for entry in ordered})
        return document

    @classmethod
    def _from_value(cls, value: dict[str, Any]) -> Document:
        required = {"format", "lloydmax", "torch", "parameters", "crc32"}
        expect(
            required <= set(value) <= required | {"floats", "tied", "recipe", "folded", "activations"},
            f"the document has unknown or missing fields: {sorted(set(value) ^ required)[:5]}",
        )
        names = {key: value.get(key, {}) for key in ("floats", "tied", "folded")}
        for key, mapping in names.items():
            expect(
                isinstance(mapping, dict) and all(isinstance(item, str) for item in mapping.values()),
                f"{key} is no mapping of names",
            )
        expect(isinstance(value["parameters"], dict), "parameters is no mapping")
        expect(isinstance(value["lloydmax"], str) and isinstance(value["torch"], str), "versions are no text")
        expect(isinstance(value.get("recipe", {}), dict), "the recipe is no mapping")
        activations = value.get("activations")
        if activations is not None:
            expect(
                isinstance(activations, list) and all(_is_affine(point) for point in activations),
                "activations is no list of scales and zero points",
            )
            activations = tuple((float(scale), zero) for scale, zero in activations)
        checksums = value["crc32"]
        expect(
            isinstance(checksums, list)
            and all(isinstance(item, str) and re.fullmatch("[0-9a-f]{8}", item) for item in checksums),
            "crc32 is no list of checksums",
        )
        parameters = {}
        for name, item in value["parameters"].items():
            try:
                parameters[name] = Parameter.from_document(item)
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
        )

    def check(self, entries: Mapping[str, Entry]) -> None:
        """Compare with the table of tensors.

        Raises:
            CheckpointError: a tensor is missing, or its dtype, shape or length contradicts the document.
        """
        expect(len(self.crc32) == len(entries), f"{len(self.crc32)} checksums for {len(entries)} tensors")
        for name, parameter in self.parameters.items():
            codebook, codes = entries.get(f"{name}.codebook"), entries.get(f"{name}.codes")
            if codebook is None or codes is None:
                raise CheckpointError(f"codebook or codes of {name!r} are missing")
            expect(
                codebook.dtype == "F32"
                or (codebook.dtype == "F16" and parameter.dtype != "bfloat16" and not parameter.even),
                f"the codebook of {name!r} is {codebook.dtype}",
            )
            expect(
                codebook.shape == parameter.codebook_shape,
                f"the codebook of {name!r} has shape {codebook.shape}, not {parameter.codebook_shape}",
            )
            expect(codes.dtype == "U8" and len(codes.shape) == 1, f"the codes of {name!r} are no bytes")
            expect(
                parameter.coding == "entropy" or codes.bytes == parameter.packed_bytes,
                f"the codes of {name!r} are {codes.bytes} bytes, not {parameter.packed_bytes}",
            )
        plain = self.plain(entries)
        for name, dtype in self.floats.items():
            expect(
                dtype == "float32" and name in plain and plain[name].dtype in ("F16", "BF16"),
                f"tensor {name!r} is no narrowed {dtype[:20]}",
            )
        stored = set(self.parameters) | set(plain)
        expect(len(stored) == len(self.parameters) + len(plain), "a parameter is stored twice")
        for alias, name in self.tied.items():
            expect(alias not in stored and name in stored, f"{alias!r} is tied to {name!r}, which is not stored")

    def plain(self, entries: Mapping[str, Entry]) -> dict[str, Entry]:
        """The tensors that belong to no codebook."""
        parts = {f"{name}.{part}" for name in self.parameters for part in ("codebook", "codes")}
        return {name: entry for name, entry in entries.items() if name not in parts}

    def storage(self, entries: Mapping[str, Entry]) -> dict[str, str]:
        """The storage options that give this file again."""
        narrowed = {entries[name].torch_dtype for name in self.floats} | {
            entries[f"{name}.codebook"].torch_dtype
            for name, parameter in self.parameters.items()
            if parameter.dtype == "float32" and not parameter.even
        }
        entropy = any(parameter.coding == "entropy" for parameter in self.parameters.values())
        return {
            "floats": min(narrowed - {"float32"}, default="float32"),
            "codes": "entropy" if entropy else "packed",
        }


def file_size(document: Document, entries: Iterable[Entry]) -> int:
    """Exact size of the file with these tensors; the checksums may be absent.

    Args:
        document: what the metadata will say.
        entries: every tensor of the file.
    """
    ordered = file_order(entries)
    text = replace(document, crc32=("0" * 8,) * len(ordered)).text(ordered)
    header: dict[str, Any] = {"__metadata__": {KEY: text}}
    end = 0
    for entry in ordered:
        start, end = end, end + entry.bytes
        header[entry.name] = {"dtype": entry.dtype, "shape": entry.shape, "data_offsets": (start, end)}
    length = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + -(-length // 8) * 8 + end


def _is_affine(point: Any) -> bool:
    return (
        isinstance(point, list)
        and len(point) == 2
        and type(point[0]) is float
        and 0 < point[0] < math.inf
        and type(point[1]) is int
        and 0 <= point[1] < 256
    )


def _header_checksum(ordered: list[Entry], document: dict[str, Any]) -> str:
    table, end = [], 0
    for entry in ordered:
        table.append((entry.name, entry.dtype, entry.shape, end))
        end += entry.bytes
    return f"{zlib.crc32(_canonical([sorted(table), document]).encode()):08x}"


def _canonical(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False)
