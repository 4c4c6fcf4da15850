"""Codes as packed bits in an ONNX graph, unpacked by standard operators.

A code of b bits is cut into parts of 8, 4, 2 or 1 bits, one for each bit set in b (5 = 4 + 1). ``8 / width`` parts
share a byte: byte i of n holds those of codes ``i, i + n, i + 2n ...``, the first one lowest, so that unpacking is a
shift, a mask and a concatenation of whole blocks. The bytes are as many as in a file of lloydmax, up to 7 for a part.

Nothing can fold the result into a dense weight, as every byte is or-ed with a zero that hangs on the model's input.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

Array = npt.NDArray[Any]
_PARTS = (8, 4, 2, 1)
"""Widths of bits of which whole numbers fit a byte: a code of 7 bits is one of 4, one of 2 and one of 1."""


def parts(codes: Array) -> Iterator[tuple[int, int, Array]]:
    """Cut codes into parts of whole bytes.

    Args:
        codes: integers >= 0, any shape; read in row-major order.

    Yields:
        ``(width, shift, bytes)``: width of the part in bits, its lowest bit in the code, packed uint8.
    """
    flat = codes.reshape(-1).astype(np.uint32)
    bits = int(flat.max(initial=0)).bit_length()
    shift = 0
    while shift < bits:
        width = next(part for part in _PARTS if part <= bits - shift)
        share = 8 // width
        rows = np.zeros((share, -(-flat.size // share)), np.uint8)
        rows.reshape(-1)[: flat.size] = (flat >> shift) & ((1 << width) - 1)
        for number in range(1, share):
            rows[0] |= rows[number] << (number * width)
        yield width, shift, rows[0]
        shift += width


class Unpacking:
    """Adds packed codes to a graph.

    Attributes:
        zero: uint8 ``(1,)``, computed from the first input; 0 whatever that is.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self.graph, self.nodes, self._constants = graph, list[ir.Node](), 0
        flat = self._node("Reshape", graph.inputs[0], self._constant([-1]))
        first = self._node("Slice", flat, self._constant([0]), self._constant([1]))
        same = self._node("Equal", first, first)
        never = self._node("And", same, self._node("Not", same))
        self.zero = self._node("Cast", never, to=int(ir.DataType.UINT8))

    def value(self, name: str, codes: Array) -> ir.Value:
        """The codes, unpacked, in their shape and dtype.

        Args:
            name: of the stored bytes.
            codes: integers >= 0; uint8, int16 or int32.
        """
        lanes: dict[int, ir.Value] = {}
        for width, shift, packed in parts(codes):
            stored = self._stored(f"{name}.bits{shift}", packed)
            part = self._spread(self._node("BitwiseOr", stored, self.zero), width)
            if codes.size < packed.size * (8 // width):
                part = self._node("Slice", part, self._constant([0]), self._constant([codes.size]))
            if shift % 8:
                part = self._node("BitShift", part, self._constant(shift % 8, np.uint8), direction="LEFT")
            lane = shift // 8
            lanes[lane] = self._node("BitwiseOr", lanes[lane], part) if lane in lanes else part
        shape = self._constant(codes.shape)
        if not lanes:
            return self._cast(self._node("Expand", self.zero, shape), codes.dtype)
        total = lanes[0]
        for lane in range(1, len(lanes)):
            low, high = (self._cast(value, np.dtype(np.int32)) for value in (total, lanes[lane]))
            total = self._node("Add", low, self._node("Mul", high, self._constant(1 << 8 * lane, np.int32)))
        return self._cast(self._node("Reshape", total, shape), codes.dtype)

    def insert(self) -> None:
        """Put the new nodes in front of all others."""
        first = self.graph[0]
        self.graph.insert_before(first, self.nodes)

    def release(self) -> None:
        """Let whatever runs the graph fold the codes: the zero becomes a constant."""
        self.zero.replace_all_uses_with(self._constant([0], np.uint8))

    def _spread(self, packed: ir.Value, width: int) -> ir.Value:
        blocks = []
        for start in range(0, 8, width):
            block = packed
            if start:
                block = self._node("BitShift", block, self._constant(start, np.uint8), direction="RIGHT")
            if start + width < 8:
                block = self._node("BitwiseAnd", block, self._constant((1 << width) - 1, np.uint8))
            blocks.append(block)
        return self._node("Concat", *blocks, axis=0) if len(blocks) > 1 else blocks[0]

    def _cast(self, value: ir.Value, dtype: np.dtype[Any]) -> ir.Value:
        wanted = ir.DataType.from_numpy(dtype)
        return value if value.dtype == wanted else self._node("Cast", value, to=int(wanted), dtype=wanted)

    def _node(
        self, kind: str, *inputs: ir.Value, dtype: ir.DataType = ir.DataType.UINT8, **attributes: Any
    ) -> ir.Value:
        node = ir.Node("", kind, inputs, attributes=ir.convenience.convert_attributes(attributes))
        node.outputs[0].dtype = dtype
        self.nodes.append(node)
        return node.outputs[0]

    def _constant(self, value: int | Sequence[int], dtype: Any = np.int64) -> ir.Value:
        self._constants += 1
        return self._stored(f"lloydmax_{self._constants}", np.array(value, dtype))

    def _stored(self, name: str, array: Array) -> ir.Value:
        tensor = ir.tensor(array, name=name)
        value = ir.Value(name=name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape))
        self.graph.register_initializer(value)
        return value
