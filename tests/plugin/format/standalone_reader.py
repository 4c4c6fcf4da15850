"""Reads a file with numpy and safetensors alone, written from ``plugin/lloydmax/format/README.md`` and nothing else.

    python standalone_reader.py FILE ...     prints dtype, shape and digest of every decoded tensor of each file

It refuses a file with a ``ValueError`` or ``KeyError``. It checks what it needs in order not to give other weights than
those that were written; that a stranger's file cannot cost more than it should is not its concern.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
import zlib
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
from standalone_arithmetic import Arithmetic

TYPES = {
    "U64": "<u8", "I64": "<i8", "F64": "<f8", "C64": "<c8", "F32": "<f4", "U32": "<u4", "I32": "<i4", "BF16": "<u2",
    "F16": "<f2", "U16": "<u2", "I16": "<i2", "F8_E5M2FNUZ": "u1", "F8_E4M3FNUZ": "u1", "F8_E4M3": "u1",
    "F8_E5M2": "u1", "I8": "i1", "U8": "u1", "BOOL": "?",
}  # fmt: skip
"""dtype of a file -> that of numpy, in the order of a file. Those that numpy does not have are their bits."""
MODEL_TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
NAMES = {code: name for name, code in MODEL_TYPES.items()}
REQUIRED = {"format", "lloydmax", "torch", "parameters"}
OPTIONAL = {"floats", "tied", "recipe", "folded", "activations", "constants", "extra"}
DEFAULTS = {
    "dtype": "float32", "granularity": "tensor", "axis": 0, "block": 1, "coding": "packed", "even": False,
    "int8": False, "matrices": 1
}  # fmt: skip
PIECE = 1 << 18
README = Path(__file__).parents[3] / "plugin" / "lloydmax" / "format" / "README.md"


class Stored(NamedTuple):
    """A tensor: its dtype as a file spells it, and its elements (bits, where numpy lacks the dtype)."""

    dtype: str
    array: np.ndarray


def read(path: str | Path) -> dict[str, Stored]:
    """Every parameter and buffer of a file, decoded, by name."""
    document, held = _opened(Path(path).read_bytes())
    for name, (dtype, shape, element) in document.get("constants", {}).items():
        _expect(name not in held, f"constant {name} is stored")
        one = np.frombuffer(bytes.fromhex(element), TYPES[dtype]).reshape(())
        held[name] = Stored(dtype, np.broadcast_to(one, shape))
    decoded = {}
    for name, about in document["parameters"].items():
        _expect(about.keys() - DEFAULTS.keys() == {"shape", "k"}, f"{name} is described by other keys")
        codebook, codes = held.pop(f"{name}.codebook"), held.pop(f"{name}.codes")
        try:
            decoded[name] = _weight({**DEFAULTS, **about}, codebook, codes)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    _expect(not held.keys() & decoded.keys(), "a parameter is stored twice")
    for name, dtype in document.get("floats", {}).items():
        _expect(dtype == "float32" and held[name].dtype in ("F16", "BF16"), f"{name} is not narrowed")
        held[name] = Stored("F32", _wide(held[name]))
    stored = held | decoded
    return stored | {name: stored[own] for name, own in document.get("tied", {}).items()}


def _expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ValueError(otherwise)


def _canonical(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False)


def _opened(raw: bytes) -> tuple[dict[str, Any], dict[str, Stored]]:
    """The document, and the tensors that have bytes."""
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    text = header.pop("__metadata__")["lloydmax"]
    held = {
        name: Stored(about["dtype"], np.frombuffer(about["data"], TYPES[about["dtype"]]).reshape(about["shape"]))
        for name, about in safetensors.deserialize(raw)
    }
    if text == '{"format":3}':
        return _tight(held["data"].array.tobytes())
    if re.fullmatch(r'\{"crc32":"[0-9a-f]{8}","format":2\}', text):
        return _compact(json.loads(text)["crc32"], held)
    document = _document(text, {"crc32", "header"})
    table = [[name, about["dtype"], about["shape"], about["data_offsets"][0]] for name, about in sorted(header.items())]
    rest = {key: value for key, value in document.items() if key != "header"}
    _expect(_crc32(_canonical([table, rest]).encode()) == document["header"], "header: wrong checksum")
    return document, _sound(held, document["crc32"])


def _compact(label: str, parts: dict[str, Stored]) -> tuple[dict[str, Any], dict[str, Stored]]:
    checksums, data, packed = (parts.pop(name).array for name in ("checksums", "data", "document"))
    _expect(not parts and _crc32(checksums.tobytes() + packed.tobytes()) == label, "document: wrong checksum")
    document = _document(_inflated(packed.tobytes()).decode(), {"tensors"})
    held, end = {}, 0
    for name, dtype, shape in document["tensors"]:
        start, end = end, end + math.prod(shape) * np.dtype(TYPES[dtype]).itemsize
        held[name] = Stored(dtype, np.frombuffer(data[start:end].tobytes(), TYPES[dtype]).reshape(shape))
    _expect(end == data.size and len(held) == len(document["tensors"]), "the tensors are not the data")
    ranks = list(TYPES)
    order = [(ranks.index(stored.dtype), name) for name, stored in held.items()]
    _expect(order == sorted(order), "the tensors are not in order")
    return document, _sound(held, [f"{item:08x}" for item in checksums.tolist()])


def _tight(data: bytes) -> tuple[dict[str, Any], dict[str, Stored]]:
    length, crc32 = np.frombuffer(data[:8], "<u4").tolist()
    packed, rest = data[8 : 8 + length], data[8 + length : -4]
    _expect(f"{crc32:08x}" == _crc32(packed) and data[-4:] == zlib.crc32(rest).to_bytes(4, "little"), "wrong checksum")
    dictionary = (
        README.read_text(encoding="utf-8")
        .partition("test_tight.py -->\n```\n")[2]
        .partition("\n```")[0]
        .replace("\n", "")
    )
    document = _document(_inflated(packed, dictionary.encode()).decode(), {"tensors"})
    table = {name: (dtype, shape, mark, 0) for name, dtype, shape, *mark in document["tensors"]}
    for name, about in document["parameters"].items():
        whole, kind = {**DEFAULTS, **about}, about.pop("codebook", "F32")
        size = about.pop("codes") if whole["coding"] != "packed" else None
        channels, each, _, runs, codes = _counts(whole)
        codebooks, bits = -(-channels // each) * runs, (whole["k"] - 1).bit_length()
        lead = () if whole["granularity"] == "tensor" else (codebooks,)
        shape = (*lead, 2) if whole["even"] else (*lead, whole["k"], *((whole["block"],) if whole["block"] > 1 else ()))
        shape = (codebooks, whole["k"] * whole["block"] + 2) if whole["int8"] else shape
        columns = whole["k"] if whole["block"] == 1 else 0
        table[f"{name}.codebook"] = ("F32", shape, ["steps"], columns) if kind == "steps" else (kind, shape, [], 0)
        table[f"{name}.codes"] = "U8", (-(-codes * bits // 8) if size is None else size,), [], 0
    ranks, held, end = list(TYPES), {}, 0
    ordered = sorted(table.items(), key=lambda item: (ranks.index(item[1][0]), item[0]))
    for name, (dtype, shape, mark, _) in ordered:
        if not mark:
            start, end = end, end + math.prod(shape) * np.dtype(TYPES[dtype]).itemsize
            held[name] = Stored(dtype, np.frombuffer(rest[start:end], TYPES[dtype]).reshape(shape))
    stepped = [(name, dtype, shape, columns) for name, (dtype, shape, mark, columns) in ordered if mark]
    _expect(bool(stepped) or end == len(rest), "the tensors are not the data")
    return document, held | _steps(rest[end:], stepped)


def _steps(stream: bytes, table: list[Any]) -> dict[str, Stored]:
    """The tensors that are whole numbers of a step."""
    if not table:
        return {}
    coder, held = Arithmetic(stream, mixed=True), {}
    exponents, middles = (np.cumsum(part) for part in np.split(coder.read(2 * len(table)), 2))
    for (name, dtype, shape, columns), exponent, middle in zip(table, exponents, middles, strict=True):
        numbers = coder.read(math.prod(shape), columns) + middle
        if columns:
            numbers = np.cumsum(numbers.reshape(-1, columns), axis=1).reshape(-1)
        values = _converted(np.ldexp(numbers.astype("<f8"), exponent).astype("<f4"), NAMES[dtype])
        held[name] = Stored(dtype, values.array.reshape(shape))
    _expect(coder.place >= len(stream), "bytes after the numbers")
    return held


def _document(text: str, further: set[str]) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(text)
    _expect(document.get("format") in (1, 2, 3), "another format")
    _expect(_canonical(document) == text, "the document is not canonical")
    _expect(REQUIRED | further <= document.keys() <= REQUIRED | further | OPTIONAL, "other keys in the document")
    return document


def _sound(held: dict[str, Stored], crc32: list[str]) -> dict[str, Stored]:
    _expect(len(held) == len(crc32), "other checksums than tensors")
    for name, expected in zip(sorted(held), crc32, strict=True):
        _expect(_crc32(held[name].array.tobytes()) == expected, f"{name}: wrong checksum")
    return held


def _crc32(data: bytes) -> str:
    return f"{zlib.crc32(data):08x}"


def _inflated(data: bytes, dictionary: bytes = b"") -> bytes:
    stream = zlib.decompressobj(-15, dictionary)
    try:
        inflated = stream.decompress(data)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    _expect(stream.eof and not stream.unused_data, "the deflate stream does not end with its tensor")
    return inflated


def _wide(stored: Stored) -> np.ndarray:
    """As binary32: exact."""
    if stored.dtype == "BF16":
        return (stored.array.astype("<u4") << 16).view("<f4")
    return stored.array.astype("<f4")


def _converted(values: np.ndarray, dtype: str) -> Stored:
    """Binary32 as the dtype of a parameter, to nearest, ties to even."""
    code = MODEL_TYPES[dtype]
    if code == "BF16":
        bits = values.view("<u4").astype("<u8")
        return Stored(code, ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2"))
    with np.errstate(over="ignore"):
        return Stored(code, values.astype(TYPES[code]))


def _weight(about: dict[str, Any], codebook: Stored, codes: Stored) -> Stored:
    """A compressed parameter, decoded."""
    shape, k, axis, block, matrices = (about[key] for key in ("shape", "k", "axis", "block", "matrices"))
    channels, each, run, runs, count = _counts(about)
    apart = [matrices, shape[0] // matrices, *shape[1:]] if shape else [matrices, 1]
    centroids = _converted(_centroids(about, codebook, -(-channels // each) * runs), about["dtype"])
    _expect(codes.dtype == "U8" and codes.array.ndim == 1, "the codes are not bytes")
    held = shape if block == 1 else [channels, count // channels]
    read = {"entropy": _entropy, "packed": _packed, "arithmetic": partial(_arithmetic, shape=held)}
    indices = read[about["coding"]](codes.array.tobytes(), (k - 1).bit_length(), count)
    _expect(count == 0 or int(indices.max()) < k, "a code without a centroid")
    own = (np.arange(channels) // each)[:, None] * runs + np.arange(count // channels) // (run or count)
    if block == 1:
        indices = np.moveaxis(indices.reshape(apart), axis + 1, 1)
    rows = centroids.array[own, indices.reshape(channels, -1)]
    moved = rows.reshape(matrices, apart[axis + 1], *apart[1 : axis + 1], *apart[axis + 2 :])
    return Stored(centroids.dtype, np.moveaxis(moved, 1, axis + 1).reshape(shape))


def _counts(about: dict[str, Any]) -> tuple[int, int, int, int, int]:
    """Channels, of how many there is one codebook, weights of a run, runs of a channel, and codes."""
    shape, block, matrices = about["shape"], about["block"], about["matrices"]
    _expect(matrices == 1 or (about["axis"] > 0 and shape[0] % matrices == 0), "matrices do not divide the first axis")
    channels = matrices * shape[about["axis"]] if shape else 1
    each, run = _of_one(about["granularity"], channels)
    _expect(math.prod(shape) % (channels * block) == 0, "the block does not divide a channel")
    count = math.prod(shape) // block
    _expect(not run or block == 1, "blocks in runs")
    return channels, each, run, -(-count // channels // run) if run else 1, count


def _of_one(granularity: str, channels: int) -> tuple[int, int]:
    """Output channels that share a codebook, and weights of one channel that do, 0 for all."""
    found = re.fullmatch("tensor|channel|(group|weights):([1-9][0-9]{0,8})", granularity)
    if found is None:
        raise ValueError("another granularity")
    if granularity == "tensor":
        return channels, 0
    return (int(found[2]), 0) if found[1] == "group" else (1, int(found[2] or 0))


def _centroids(about: dict[str, Any], codebook: Stored, codebooks: int) -> np.ndarray:
    """Binary32, ``(codebooks, k, block)``."""
    k, block = about["k"], about["block"]
    lead = () if about["granularity"] == "tensor" else (codebooks,)
    if about["int8"]:
        _expect((codebook.dtype, codebook.array.shape) == ("I8", (codebooks, k * block + 2)), "another codebook")
        scale = _wide(Stored("BF16", np.ascontiguousarray(codebook.array[:, -2:]).view("<u2")))
        values = codebook.array[:, :-2].astype("<f4") * scale
    elif about["even"]:
        kinds = ("F32", "F16")[: 1 + about["granularity"].startswith("weights")]
        _expect(codebook.dtype in kinds and codebook.array.shape == (*lead, 2) and block == 1, "another codebook")
        scale, zero = np.split(_wide(codebook).reshape(-1, 2), 2, axis=1)
        _expect(bool(((zero == np.round(zero)) & (zero >= 0) & (zero < k)).all()), "zero is not a level")
        values = (np.arange(k, dtype="<f4") - zero) * scale
    else:
        own = (k,) if block == 1 else (k, block)
        _expect(codebook.dtype in ("F32", "F16") and codebook.array.shape == (*lead, *own), "another codebook")
        values = _wide(codebook)
    _expect(bool(np.isfinite(values).all()), "a centroid is not finite")
    return np.ascontiguousarray(values.reshape(codebooks, k, block), dtype="<f4")


def _bits(data: bytes, width: int, count: int) -> np.ndarray:
    """``count`` integers of a bit stream, each of ``width`` bits, lowest bit first."""
    rows = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[: count * width].reshape(count, width)
    return rows @ (1 << np.arange(width))


def _packed(data: bytes, width: int, count: int) -> np.ndarray:
    _expect(len(data) == -(-count * width // 8), "another number of bytes")
    return _bits(data, width, count) if width else np.zeros(count, int)


def _arithmetic(data: bytes, width: int, count: int, shape: list[int]) -> np.ndarray:
    size = next(at for at, byte in enumerate(data[:4], start=1) if byte < 128)
    head = sum((byte & 127) << 7 * at for at, byte in enumerate(data[:size]))
    coder = Arithmetic(data[size:], bool(head & 1))
    codes = coder.read(count, math.prod(shape[1:]), math.prod(shape[2:]), (shape or [1])[-1]) + (head >> 1)
    _expect(coder.place >= len(data) - size and int(codes.min()) >= 0, "codes that are none")
    return codes


def _entropy(data: bytes, width: int, count: int) -> np.ndarray:
    symbols, codes, at = _inflated(data), np.zeros(count, int), 0
    pieces = [(start, *_lengths(width, min(PIECE, count - start))) for start in range(0, count, PIECE)]
    _expect(len(symbols) == sum(low + high for _, low, high in pieces), "another number of symbols")
    for start, low, high in pieces:
        part = codes[start : start + PIECE]
        part[:] = _piece(symbols[at : at + low], symbols[at + low : at + low + high], width, part.size)
        at += low + high
    return codes


def _lengths(width: int, count: int) -> tuple[int, int]:
    """Symbols of ``count`` codes: with low bits, and others."""
    if width > 8:
        return -(-count * (width - 8) // 8), count
    return 0, -(-count // (8 // width)) if width else 0


def _piece(low: bytes, high: bytes, width: int, count: int) -> np.ndarray:
    symbols = np.frombuffer(high, np.uint8).astype(int)
    if width > 8:
        return (symbols << (width - 8)) | _bits(low, width - 8, count)
    if not width:
        return np.zeros(count, int)
    each = 8 // width
    _expect(not (symbols >> (each * width)).any(), "bits above the codes")
    return ((symbols[:, None] >> (np.arange(each) * width)) & ((1 << width) - 1)).reshape(-1)[:count]


def digests(path: str | Path) -> dict[str, list[Any]]:
    """dtype, shape and digest (BLAKE2b, 8 bytes) of every decoded tensor, by name."""
    return {name: _digest(stored) for name, stored in sorted(read(path).items())}


def _digest(stored: Stored) -> list[Any]:
    data = stored.array.tobytes()
    return [stored.dtype, list(stored.array.shape), hashlib.blake2b(data, digest_size=8).hexdigest()]


if __name__ == "__main__":
    print(json.dumps({path: digests(path) for path in sys.argv[1:]}))
