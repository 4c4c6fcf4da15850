"""Even weights in an ONNX graph, by the operators that a runtime has for them.

onnxruntime multiplies by integers of 2, 4 and 8 bits (``com.microsoft::MatMulNBits``) and looks rows of them up
(``com.microsoft::GatherBlockQuantized``). Whatever else uses a weight takes it from ``DequantizeLinear``, which the
standard has. All three form ``(integer - zero) * scale`` in the dtype of the scale.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from lloydmax.exporting.even_weights import Array, EvenWeight, packed

_MICROSOFT = "com.microsoft"
_BLOCKS = (128, 64, 32, 16)
"""Integers of one scale that onnxruntime's operators take, the largest first."""


class EvenOperators:
    """Puts even weights into a graph, in place of inputs that stand for them.

    Args:
        model: whose graph is changed.
        standard: by operators of the standard alone.
        int8: products may round their inputs to 8 bits; then there are fast ones for integers of 2, 4 and 8 bits, else
            for those of 4 bits alone.
        fold: decode by operators that onnxruntime folds when it loads the file, which it does not with
            ``DequantizeLinear``.
    """

    def __init__(self, model: ir.Model, standard: bool, int8: bool, fold: bool) -> None:
        self.model, self.graph = model, model.graph
        self.standard, self.int8, self.fold = standard, int8, fold

    def put(self, name: str, weight: EvenWeight) -> None:
        """Give every use of the input ``name`` the weight, and remove the input."""
        value = next(value for value in self.graph.inputs if value.name == name)
        if not self.standard and len(weight.shape) == 2:
            self._multiplied(name, value, weight)
            self._looked_up(name, value, weight)
        if value.uses():
            value.replace_all_uses_with(self._decoded(name, weight))
        self.graph.inputs.remove(value)

    def _multiplied(self, name: str, value: ir.Value, weight: EvenWeight) -> None:
        """Products with the weight, as it is or transposed."""
        stored: dict[int, list[ir.Value]] = {}
        for node, _ in list(value.uses()):
            products = [node]
            if transposed := node.op_type == "Transpose":
                products = [user for user, _ in node.outputs[0].uses()]
            for product in products:
                if (axis := _outputs(product, node.outputs[0] if transposed else value)) is None:
                    continue
                axis = 1 - axis if transposed else axis
                turned = weight.along(axis)
                if turned is None or (size := _block(turned)) is None or (bits := self._bits(turned, size)) is None:
                    continue
                if axis not in stored:
                    stored[axis] = self._for_products(f"{name}.{axis}" if axis else name, turned, size, bits)
                self._multiply(product, turned, size, bits, stored[axis])
            if transposed and not node.outputs[0].uses():
                self.graph.remove(node, safe=True)

    def _bits(self, weight: EvenWeight, size: int) -> int | None:
        """Of the integers of a product; ``None`` where it would be slower than decoding."""
        if self.int8:
            return weight.bits if size > _BLOCKS[-1] else max(4, weight.bits)
        return 4 if weight.bits <= 4 else None

    def _for_products(self, name: str, weight: EvenWeight, size: int, bits: int) -> list[ir.Value]:
        """Integers, scales and, unless all are in the middle, zero points."""
        centred = weight.centred(bits)
        integers, scale, zero = centred.in_blocks(size)
        found = [self._stored(f"{name}.integers", packed(integers, bits)), self._stored(f"{name}.scale", scale)]
        if (zero != 1 << (bits - 1)).any():
            found.append(self._stored(f"{name}.zero", packed(zero, bits)))
        return found

    def _multiply(self, product: ir.Node, weight: EvenWeight, size: int, bits: int, stored: list[ir.Value]) -> None:
        outputs, inputs = weight.integers.shape
        sizes = {"K": inputs, "N": outputs, "bits": bits, "block_size": size, "accuracy_level": 4 if self.int8 else 1}
        made = self._node(product, "MatMulNBits", [product.inputs[0], *stored], _MICROSOFT, **sizes)
        if product.op_type == "Gemm" and len(product.inputs) > 2 and product.inputs[2] is not None:
            made = self._node(product, "Add", [made, product.inputs[2]])
        self._in_place_of(product, made)

    def _looked_up(self, name: str, value: ir.Value, weight: EvenWeight) -> None:
        """Rows of the weight."""
        users = [node for node, place in value.uses() if node.op_type == "Gather" and place == 0 and not _axis(node)]
        if not users or weight.axis or (size := _block(weight)) is None:
            return
        bits = max(4, weight.bits)
        integers, scale, zero = weight.in_blocks(size)
        length = weight.integers.shape[1]
        rows = packed(integers.reshape(len(integers), -1)[:, : length + length % 2], bits)
        stored = [self._stored(f"{name}.rows.{part}", array) for part, array in (("integers", rows), ("scale", scale))]
        stored.append(self._stored(f"{name}.rows.zero", packed(zero, bits)))
        form = {"bits": bits, "block_size": size, "gather_axis": 0, "quantize_axis": 1}
        for node in users:
            given = [stored[0], node.inputs[1], *stored[1:]]
            self._in_place_of(node, self._node(node, "GatherBlockQuantized", given, _MICROSOFT, **form))

    def _decoded(self, name: str, weight: EvenWeight) -> ir.Value:
        """The weight itself."""
        first, bits = self.graph[0], max(4, weight.bits)
        integers, scale, zero = weight.in_blocks(weight.run)  # one scale for each row is four times as fast as blocks
        given = [
            self._in_bits(f"{name}.integers", integers.reshape(-1, weight.run), bits),
            self._stored(f"{name}.scale", scale.reshape(-1)),
            self._in_bits(f"{name}.zero", zero.reshape(-1), bits),
        ]
        if self.fold:
            wide = int(ir.DataType.from_numpy(scale.dtype))
            low, high = (self._node(first, "Cast", [part], to=wide) for part in (given[0], given[2]))
            column = self._sizes(f"{name}.column", -1, 1)
            high, each = (self._node(first, "Reshape", [part, column]) for part in (high, given[1]))
            found = self._node(first, "Mul", [self._node(first, "Sub", [low, high]), each])
        else:
            found = self._node(first, "DequantizeLinear", given, axis=0)
        outputs, length = weight.integers.shape
        if integers[0].size > length:
            found = self._node(first, "Reshape", [found, self._sizes(f"{name}.filled", outputs, -1)])
            ends = [self._sizes(f"{name}.{end}", place) for end, place in (("start", 0), ("end", length), ("axis", 1))]
            found = self._node(first, "Slice", [found, *ends])
        found = self._node(first, "Reshape", [found, self._sizes(f"{name}.shape", *weight.moved)])
        return self._node(first, "Transpose", [found], perm=list(weight.back)) if weight.axis else found

    def _node(self, before: ir.Node, kind: str, inputs: Any, domain: str = "", **attributes: Any) -> ir.Value:
        node = ir.Node(domain, kind, inputs, attributes=ir.convenience.convert_attributes(attributes))
        self.graph.insert_before(before, node)
        if domain:
            self.model.graph.opset_imports[domain] = 1
        return node.outputs[0]

    def _in_place_of(self, node: ir.Node, made: ir.Value) -> None:
        old = node.outputs[0]
        made.name, made.type, made.shape = old.name, old.type, old.shape
        old.replace_all_uses_with(made, replace_graph_outputs=True)
        self.graph.remove(node, safe=True)

    def _sizes(self, name: str, *sizes: int) -> ir.Value:
        return self._stored(name, np.array(sizes, np.int64))

    def _in_bits(self, name: str, integers: Array, bits: int) -> ir.Value:
        if bits == 8:
            return self._stored(name, np.ascontiguousarray(integers))
        tensor = ir.PackedTensor(packed(integers.reshape(-1), bits), ir.DataType.UINT4, shape=integers.shape, name=name)
        return self._registered(name, tensor)

    def _stored(self, name: str, array: Array) -> ir.Value:
        return self._registered(name, ir.tensor(array, name=name))

    def _registered(self, name: str, tensor: Any) -> ir.Value:
        value = ir.Value(name=name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=tensor.shape)
        self.graph.register_initializer(value)
        return value


def _outputs(node: ir.Node, value: ir.Value) -> int | None:
    """The axis of the outputs in the matrix ``value`` of a product, or ``None`` where this is none that can be had."""
    if len(node.inputs) < 2 or node.inputs[1] is not value or node.inputs[0] is value:
        return None
    if node.op_type == "MatMul":
        return 1
    if node.op_type != "Gemm":
        return None
    form = {key: attribute.value for key, attribute in node.attributes.items()}
    plain = (form.get("alpha", 1.0), form.get("beta", 1.0), form.get("transA", 0)) == (1.0, 1.0, 0)
    return (0 if form.get("transB", 0) else 1) if plain else None


def _axis(node: ir.Node) -> int:
    return int(node.attributes["axis"].value) if "axis" in node.attributes else 0


def _block(weight: EvenWeight) -> int | None:
    """Integers of one scale in a product; ``None`` where runs are of no length that it takes."""
    length = weight.integers.shape[1]
    if weight.scale.shape[1] == 1:
        return next(size for size in reversed(_BLOCKS) if size >= min(length, _BLOCKS[0]))
    return next((size for size in _BLOCKS if weight.run % size == 0), None)
