"""The tight layout: one array that begins with the document, deflated after a text that all such files share.

To the safetensors library it holds one tensor, ``data``: the length and the checksum of the document, the document, the
tensors end to end, the one stream of those that are in steps (:mod:`lloydmax.format.steps`), and a checksum of all that
follows the document. A compressed parameter is named once.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lloydmax.errors import CheckpointError
from lloydmax.format import steps
from lloydmax.format.packing import Bytes, as_bytes
from lloydmax.format.record import ParameterRecord
from lloydmax.format.rows import STEPS, row
from lloydmax.format.tensor_table import BY_CODE, Entry, expect, file_order

DATA = "data"
LABEL = '{"format":3}'
SHARED = (
    '"activations":[[0.01,128]],"axis":1,"block":"codebook":"codes":"coding":"constants":{"norm.running_mean":["F32",'
    '["extra":"floats":"float32","folded":{"k":16,"even":true,"granularity":"group:"int8":"matrices":"parameters":{"'
    'embeddings.position.weight.in_proj_weight":"out_proj.weight_ih_l0":{"weight_hh_l0":{"encoder.layers.0.self_attn.q_'
    'proj.attention.mlp.fc1.query.key.value.dense.bias","F16","LayerNorm.downsample.0.features.blocks.stem.head.'
    'classifier.fc.layer1.0.bn1.num_batches_tracked":["I64",[],"0000000000000000"],"norm.running_var":["F32",[64],'
    '"0000803f"],"0000000"],"layer2.1.conv1.weight":{"codebook":"steps","codes":1024,"coding":"arithmetic","k":256,'
    '"shape":[64,64,3,3]},"recipe":{"bits":2,3.0,"calibration":"keep":"best","name":"-bits","output":"logits","quantize"'
    ':[{"centroids":16,"importance":"fisher","layers":"all","parameter":"weight","quantizer":"kmeans","granularity":'
    '"channel","tensor"}],"recover":[{"mode":"fast","relative":true,"step":"renormalize"},{"samples":128,"rows":16384,'
    '"step":"reconstruct"},{"step":"match_moments"},{"batch_size":32,"lr":0.001,"steps":300,"step":"distill","teacher":'
    '"seed":0,"storage":{"codes":"arithmetic","floats":"fixed","layout":"tight","norms":"merged"},"synthesize":{"kind":'
    '"natural","samples":64,"shape":[3,224,224]},"trainable":["all"],"version":1},"tensors":[["layer1.0.bias","F32",[64]'
    ',"steps"],["weight","F32",[64],"steps"]],"tied":{"torch":"2.14.1+cpu","format":3,"lloydmax":"0.2.0","parameters":{'
)
"""What the deflate stream may refer to, as if it stood before the document."""
_SUM = 4
"""Bytes of a checksum."""


def is_label(text: str) -> bool:
    """Whether these metadata are those of a tight file."""
    return text == LABEL


def deflate(text: str) -> bytes:
    """A document as a raw deflate stream after :data:`SHARED`."""
    stream = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zdict=SHARED.encode())
    return stream.compress(text.encode()) + stream.flush()


def inflate(data: Bytes, limit: int) -> str:
    """The reverse.

    Raises:
        CheckpointError: the stream is damaged, or has more than ``limit`` bytes.
    """
    stream = zlib.decompressobj(-zlib.MAX_WBITS, SHARED.encode())
    try:
        text = stream.decompress(data.data, limit)
        expect(stream.eof and not stream.unused_data, f"has a damaged document, or one of more than {limit} bytes")
        return text.decode()
    except (zlib.error, UnicodeDecodeError) as error:
        raise CheckpointError(f"the document is damaged ({error})") from error


def head(text: str) -> bytes:
    """What is before the tensors: length and checksum of the document, and the document."""
    packed = deflate(text)
    return len(packed).to_bytes(_SUM, "little") + zlib.crc32(packed).to_bytes(_SUM, "little") + packed


def table(text: str, entries: Iterable[Entry]) -> tuple[str, list[Entry]]:
    """The metadata and the tensors of a file as the safetensors library sees them."""
    held = sum(entry.bytes for entry in entries)
    return LABEL, [Entry(DATA, "U8", (len(head(text)) + held + _SUM,))]


def written(
    text: str, entries: Iterable[Entry], tensors: Mapping[str, Tensor], stream: bytes
) -> tuple[dict[str, Tensor], str]:
    """The tensors and the metadata of a file.

    Args:
        text: of the document.
        entries: of the tensors.
        tensors: those that are not in steps; on the CPU, contiguous.
        stream: of those that are.
    """
    raw = [as_bytes(tensors[entry.name]) for entry in file_order(entries) if entry.coded is None and entry.fill is None]
    held = np.concatenate([*raw, np.frombuffer(stream, np.uint8)])
    ends = [np.frombuffer(part, np.uint8) for part in (head(text), tail(zlib.crc32(held.data)))]
    return {DATA: torch.from_numpy(np.concatenate([ends[0], held, ends[1]]))}, LABEL


def tail(crc32: int) -> bytes:
    """What is after the tensors: the checksum of their bytes."""
    return crc32.to_bytes(_SUM, "little")


def opened(data: Bytes, limit: int) -> tuple[str, Bytes]:
    """The document, inflated, its checksum compared; and the tensors with their checksum.

    Raises:
        CheckpointError: it is cut off or damaged, or has more than ``limit`` bytes.
    """
    expect(len(data) >= 3 * _SUM, "is cut off")
    length, crc32 = (int.from_bytes(data[at : at + _SUM].tobytes(), "little") for at in (0, _SUM))
    expect(length <= len(data) - 3 * _SUM, "is cut off, or its document is damaged")
    packed = data[2 * _SUM : 2 * _SUM + length]
    expect(zlib.crc32(packed.data) == crc32, "the document is damaged (wrong checksum)")
    return inflate(packed, limit), data[2 * _SUM + length :]


def packed_table(parameters: Mapping[str, dict[str, Any]], entries: Iterable[Entry]) -> dict[str, Any]:
    """``parameters`` and ``tensors`` of the document: what is said of codebooks and codes is said with the parameter.

    Args:
        parameters: their records as plain data.
        entries: all tensors that are not constant.
    """
    held = {entry.name: entry for entry in entries}
    described = {}
    for name, about in parameters.items():
        codebook, codes = held.pop(f"{name}.codebook"), held.pop(f"{name}.codes")
        kind = STEPS if codebook.coded is not None else codebook.dtype
        length = {} if about.get("coding", "packed") == "packed" else {"codes": codes.bytes}
        described[name] = about | length | ({} if kind == "F32" else {"codebook": kind})
    return {"parameters": described, "tensors": [row(entry) for entry in file_order(held.values())]}


def taken_apart(parameters: Any) -> tuple[dict[str, Any], dict[str, tuple[str, Any]]]:
    """The records of parameters without what :func:`packed_table` added; and that: codebook and codes."""
    expect(isinstance(parameters, dict), "parameters is not a mapping")
    records, added = {}, {}
    for name, about in parameters.items():
        expect(isinstance(about, dict), f"parameter {name!r}: unknown or missing keys")
        records[name] = {key: value for key, value in about.items() if key not in ("codebook", "codes")}
        added[name] = about.get("codebook", "F32"), about.get("codes")
        expect(about.get("codebook") != "F32", f"parameter {name!r}: says what is the default")
    return records, added


def entries_of(name: str, record: ParameterRecord, added: tuple[Any, Any]) -> tuple[Entry, Entry]:
    """Codebook and codes of a parameter, of which :func:`taken_apart` gave what was added."""
    kind, length = added
    dtype = ("I8" if record.int8 else "F32") if kind == STEPS else kind
    expect(isinstance(dtype, str) and dtype in BY_CODE, f"parameter {name!r} has a codebook of an unknown dtype")
    expect(kind != STEPS or record.steps, f"parameter {name!r} has a codebook that is never in steps")
    coded = record.coding != "packed"
    expect(
        type(length) is int and 0 <= length < 1 << 63 if coded else length is None,
        f"the codes of {name!r} have no length, or one too many",
    )
    codebook = Entry(f"{name}.codebook", dtype, record.codebook_shape, coded=0 if kind == STEPS else None)
    return codebook, Entry(f"{name}.codes", "U8", (length if coded else record.packed_bytes,))


class Array:
    """The tensors of a file, read one by one.

    Args:
        data: what :func:`opened` gave.
        ordered: the entries in the order of the file, those in steps last.
        columns: of those that have some, by name, see :class:`~lloydmax.format.steps.Steps`.

    Raises:
        CheckpointError: they take more or fewer bytes than there are.
    """

    def __init__(self, data: Bytes, ordered: Iterable[Entry], columns: Mapping[str, int]) -> None:
        self._data, self._places, self._columns = data[: len(data) - _SUM], dict[str, tuple[int, Entry]](), columns
        self._crc32 = int.from_bytes(data[len(data) - _SUM :].tobytes(), "little")
        self._numbers: dict[str, Tensor] | None = None
        self._sound = False
        self._coded, end = list[Entry](), 0
        for entry in ordered:
            if entry.coded is None:
                self._places[entry.name] = end, entry
                end += entry.bytes
            else:
                expect(steps.FEWEST <= entry.values <= steps.MOST, f"{entry.name!r} has too few or too many values")
                self._coded.append(entry)
        self._stream = self._data[end:]
        expect(
            end <= len(self._data) and (bool(self._coded) or not len(self._stream)),
            f"its tensors take {end} bytes, it has {len(self._data)}",
        )

    def shared(self) -> list[Entry]:
        """The entries of those in steps, each with its share of their stream."""
        return steps.shared(self._coded, len(self._stream))

    def tensor(self, name: str) -> Tensor:
        """One tensor, the checksum of all compared; bytes share the memory of the file."""
        if not self._sound:
            expect(zlib.crc32(self._data.data) == self._crc32, "the tensors are damaged (wrong checksum)")
            self._sound = True
        if name not in self._places:
            return self._decoded()[name]
        start, entry = self._places[name]
        part, dtype = torch.from_numpy(self._data[start : start + entry.bytes]), BY_CODE[entry.dtype]
        return (part.clone().view(dtype) if dtype.itemsize > 1 else part.view(dtype)).view(entry.shape)

    def _decoded(self) -> dict[str, Tensor]:
        if self._numbers is None:
            wanted = [(e.name, e.dtype, e.values, self._columns.get(e.name, 0)) for e in self._coded]
            found = steps.decode(self._stream, wanted)
            self._numbers = {entry.name: found[entry.name].view(entry.shape) for entry in self._coded}
        return self._numbers
