"""How modules multiply by weights that they hold, told from the source of their methods: along which axis the outputs
lie, and whether a weight is a stack of matrices, as the experts of a layer are."""

from __future__ import annotations

import ast
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lloydmax.network.reading import function, method

_SAME = {"to", "type_as", "float", "half", "bfloat16", "double", "detach", "clone", "contiguous", "cast", "cuda", "cpu"}
_RIGHT = {
    "matmul": 1, "mm": 1, "bmm": 1, "addmm": 2, "baddbmm": 2, "grouped_mm": 1, "_grouped_mm": 1, "addbmm": 2
}  # fmt: skip
"""Operations on two matrices, and the position of the right one; the left one stands before it."""
_PARTS = {"chunk", "split", "tensor_split", "unbind"}
_DEPTH = 3
"""Calls within each other that are followed."""


class Along(NamedTuple):
    """Where the outputs of a weight lie.

    Attributes:
        axis: of the outputs.
        matrices: that lie one after the other along the first axis, each with outputs of its own.
    """

    axis: int
    matrices: int = 1

    @property
    def stacked(self) -> int:
        """The matrices that the axis alone does not tell apart; 1: all rows are outputs, whosever they are."""
        return self.matrices if self.axis else 1


@dataclass(frozen=True)
class _Weight:
    """A weight, or what became of it.

    Attributes:
        key: identity of its module, and its name there.
        shape: of it.
        axes: of the weight, that the axes here are; ``None``: of something else.
        matrices: into which its first axis was cut.
    """

    key: tuple[int, str]
    shape: tuple[int, ...]
    axes: tuple[int | None, ...]
    matrices: int = 1


Found = dict[tuple[int, str], set[Along]]


def products(module: nn.Module) -> dict[tuple[int, str], Along]:
    """What the forward method of a module does to weights of several axes that it, or a module in it, holds: identity
    of the holder and name -> where the outputs lie. What is used in different ways, or cannot be read, is missing.

    Args:
        module: any; methods and functions that its forward method calls are read, too.
    """
    found: Found = {}
    _Reader(module, found).read(method(type(module), "forward"), {"self": module})
    return {key: next(iter(ways)) for key, ways in found.items() if len(ways) == 1}


class _Reader:
    """Reads what methods of one module do."""

    def __init__(self, module: nn.Module, found: Found, depth: int = 0) -> None:
        self._module, self._found, self._depth = module, found, depth
        self._known: dict[str, Any] = {}
        self._globals: Mapping[str, Any] = getattr(sys.modules.get(type(module).__module__), "__dict__", {})

    def read(self, body: ast.FunctionDef | None, given: Mapping[str, Any]) -> Any:
        """Follow the statements of a function; returns what it returns, as far as that is known."""
        if body is None or self._depth > _DEPTH:
            return None
        self._known = {**given}
        returned: list[Any] = []
        self._follow(body.body, returned)
        return returned[-1] if returned else None

    def _follow(self, statements: Sequence[ast.stmt], returned: list[Any]) -> None:
        for statement in statements:
            if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
                continue
            if isinstance(statement, ast.For):
                source = self._value(statement.iter)
                self._assign(statement.target, self._dropped(source) if isinstance(source, _Weight) else None)
            for expression in _expressions(statement):
                value = self._value(expression)
                if isinstance(statement, ast.Assign):
                    for target in statement.targets:
                        self._assign(target, value)
                elif isinstance(statement, ast.AnnAssign):
                    self._assign(statement.target, value)
                elif isinstance(statement, ast.Return):
                    returned.append(value)
            for name in ("body", "orelse", "finalbody"):
                self._follow(getattr(statement, name, []), returned)

    def _assign(self, target: ast.expr, value: Any) -> None:
        if isinstance(target, ast.Name):
            self._known[target.id] = value
        elif isinstance(target, (ast.Tuple, ast.List)):
            values = (
                value if isinstance(value, tuple) and len(value) == len(target.elts) else [value] * len(target.elts)
            )
            for part, one in zip(target.elts, values, strict=True):
                self._assign(part, one if isinstance(one, _Weight) or isinstance(value, tuple) else None)

    def _value(self, node: ast.expr) -> Any:
        """A weight, a number, a module, a tuple of these, or ``None``; products on the way are noted."""
        if isinstance(node, ast.Name):
            return self._known.get(node.id)
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, (ast.Tuple, ast.List)):
            return tuple(self._value(part) for part in node.elts)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            value = self._value(node.operand)
            return -value if isinstance(value, (int, float)) else None
        if isinstance(node, ast.Attribute):
            return self._attribute(self._value(node.value), node.attr)
        if isinstance(node, ast.Subscript):
            return self._part(self._value(node.value), node.slice)
        if isinstance(node, ast.BinOp):
            left, right = self._value(node.left), self._value(node.right)
            if isinstance(node.op, ast.MatMult):
                self._product(left, right)
            return _arithmetic(node.op, left, right)
        if isinstance(node, ast.Call):
            return self._call(node)
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self._value(child)
        if isinstance(node, ast.IfExp):
            chosen = [value for part in (node.body, node.orelse) if isinstance(value := self._value(part), _Weight)]
            return chosen[0] if chosen else None
        return None

    def _attribute(self, value: Any, name: str) -> Any:
        if isinstance(value, nn.Module):
            held = value._parameters.get(name, value._buffers.get(name))
            if isinstance(held, Tensor):
                shape = () if is_lazy(held) else tuple(held.shape)
                return _Weight((id(value), name), shape, tuple(range(len(shape)))) if len(shape) > 1 else None
            found = vars(value).get(name, value._modules.get(name))
            return found if isinstance(found, (int, nn.Module, tuple)) else None
        if isinstance(value, _Weight):
            if name in ("T", "mT") and len(value.axes) > 1:
                return replace(value, axes=(*value.axes[:-2], value.axes[-1], value.axes[-2]))
            return value if name == "data" else None
        return None

    def _part(self, value: Any, index: ast.expr) -> Any:
        steps = index.elts if isinstance(index, ast.Tuple) else [index]
        found = [self._value(step) for step in steps if not isinstance(step, ast.Slice)]
        if isinstance(value, tuple):
            at = found[0] if len(found) == 1 else None
            return value[at] if isinstance(at, int) and -len(value) <= at < len(value) else None
        if not isinstance(value, _Weight):
            if isinstance(value, nn.Module) and isinstance(value, (nn.ModuleList, nn.ParameterList)) and len(value):
                at = found[0] if found and isinstance(found[0], int) and abs(found[0]) < len(value) else 0
                return self._attribute(value, str(at % len(value)))
            return None
        axes, left = list[int | None](), list(value.axes)
        for step in steps:
            if isinstance(step, ast.Constant) and step.value is None:
                axes.append(None)
            elif isinstance(step, ast.Constant) and step.value is Ellipsis:
                keep = len(left) - sum(not isinstance(one, ast.Constant) for one in steps[steps.index(step) + 1 :])
                axes += left[:keep]
                del left[:keep]
            elif left:
                first = left.pop(0)
                axes += [first] if isinstance(step, ast.Slice) else []
        return replace(value, axes=(*axes, *left))

    @staticmethod
    def _dropped(value: _Weight) -> _Weight:
        return replace(value, axes=value.axes[1:])

    def _call(self, node: ast.Call) -> Any:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        receiver = self._value(node.func.value) if isinstance(node.func, ast.Attribute) else None
        given = [self._value(one.value if isinstance(one, ast.Starred) else one) for one in node.args]
        named = {one.arg: self._value(one.value) for one in node.keywords if one.arg}
        if isinstance(receiver, _Weight):
            return self._method(receiver, name, given, named)
        if isinstance(receiver, nn.Module):
            if receiver is self._module and (body := method(type(receiver), name)) is not None:
                return self._inside(receiver, body, given, named)
            child = self._attribute(receiver, name)
            if isinstance(child, nn.Module) and _weights(given, named):
                return self._inside(child, method(type(child), "forward"), given, named)
            return None
        if name == "einsum" and given and isinstance(given[0], str):
            self._einsum(given[0], given[1:])
        elif name == "linear" or name.startswith("conv"):
            weight = given[1] if len(given) > 1 else named.get("weight")
            if isinstance(weight, _Weight) and weight.axes:
                self._note(weight, weight.axes[1 if "transpose" in name else 0], weight.axes[1:2])
        elif name in _RIGHT:
            at = _RIGHT[name]
            if len(given) > at:
                self._product(given[at - 1], given[at])
            elif isinstance(node.func, ast.Attribute) and len(given) == 1:  # x.matmul(w)
                self._product(None, given[0])
        elif name in ("t", "transpose", "permute", *_SAME) and given and isinstance(given[0], _Weight):
            return self._method(given[0], name, given[1:], named)
        elif isinstance(node.func, ast.Name) and _weights(given, named):
            return self._inside(self._module, function(self._globals.get(name)), given, named, method=False)
        return None

    def _inside(
        self, module: nn.Module, body: ast.FunctionDef | None, given: Sequence[Any], named: Mapping[str, Any],
        method: bool = True,
    ) -> Any:  # fmt: skip
        """What a method of a module, or a function, gives."""
        if body is None:
            return None
        names = [one.arg for one in (*body.args.posonlyargs, *body.args.args)]
        known = {**dict(zip(names, [module, *given] if method else given, strict=False)), **named}
        return _Reader(module, self._found, self._depth + 1).read(body, known)

    def _method(self, weight: _Weight, name: str, given: Sequence[Any], named: Mapping[str, Any]) -> Any:
        axes, count = weight.axes, len(weight.axes)
        if name in _RIGHT:
            self._product(weight, given[0] if given else None)
        elif name in _SAME:
            return weight
        elif name in _PARTS:
            return weight if name != "unbind" else self._dropped(weight)
        elif name == "t":
            return replace(weight, axes=tuple(reversed(axes)))
        elif name in ("transpose", "swapaxes") and len(given) == 2 and all(_is_axis(one, count) for one in given):
            turned = list(axes)
            turned[given[0]], turned[given[1]] = axes[given[1]], axes[given[0]]
            return replace(weight, axes=tuple(turned))
        elif name == "permute" and len(flat := _flat(given)) == count and all(_is_axis(one, count) for one in flat):
            return replace(weight, axes=tuple(axes[one] for one in flat))
        elif name == "unsqueeze" and len(given) == 1 and _is_axis(given[0], count + 1):
            at = given[0] % (count + 1)
            return replace(weight, axes=(*axes[:at], None, *axes[at:]))
        elif name in ("view", "reshape", "unflatten"):
            return self._viewed(weight, name, given)
        return None

    def _viewed(self, weight: _Weight, name: str, given: Sequence[Any]) -> _Weight | None:
        """Matrices that lie one after the other, as a stack ``(matrices, rows, columns)``."""
        rows, columns = weight.shape if weight.axes == (0, 1) else (0, 0)
        shape = _flat(given[1:] if name == "unflatten" and given[:1] == [0] else given)
        shape = [*shape, columns] if name == "unflatten" else shape
        if len(shape) != 3 or not rows or not all(isinstance(size, int) for size in shape):
            return None
        count = [math.prod(shape[:at] + shape[at + 1 :]) for at in range(3)]
        whole = [rows * columns // count[at] if size == -1 and count[at] else size for at, size in enumerate(shape)]
        if math.prod(whole) != rows * columns or whole[2] != columns:
            return None
        return replace(weight, axes=(None, 0, 1), matrices=whole[0])

    def _product(self, left: Any, right: Any) -> None:
        if isinstance(left, _Weight) and len(left.axes) > 1:
            self._note(left, left.axes[-2], left.axes[-1:])
        if isinstance(right, _Weight) and len(right.axes) > 1:
            self._note(right, right.axes[-1], right.axes[-2:-1])

    def _einsum(self, equation: str, operands: Sequence[Any]) -> None:
        inputs, _, output = equation.replace(" ", "").partition("->")
        terms = inputs.split(",")
        for at, (term, weight) in enumerate(zip(terms, operands, strict=False)):
            if not isinstance(weight, _Weight) or len(term) != len(weight.axes) or "." in term:
                continue
            others = "".join(terms[:at] + terms[at + 1 :])
            axes = dict(zip(term, weight.axes, strict=True))
            own = [axis for letter, axis in axes.items() if letter in output and letter not in others]
            summed = [axis for letter, axis in axes.items() if letter not in output and others.count(letter) == 1]
            if own:  # a letter that two others have weighs experts; two own ones are a stack, or heads
                self._note(weight, own[-1] if own[0] == 0 and len(own) > 1 else own[0], summed)

    def _note(self, weight: _Weight, axis: int | None, summed: Sequence[int | None]) -> None:
        """That the outputs lie along an axis of a weight, and the inputs along others."""
        if axis is None:
            return
        matrices = weight.matrices
        if matrices == 1 and axis != 0 and 0 not in summed:
            matrices = weight.shape[0]
        self._found.setdefault(weight.key, set()).add(Along(axis, matrices))


def _expressions(statement: ast.stmt) -> Iterator[ast.expr]:
    """What a statement computes itself; what it holds in a body is followed apart."""
    if isinstance(statement, (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Return, ast.Expr)):
        if statement.value is not None:
            yield statement.value
    elif isinstance(statement, (ast.If, ast.While)):
        yield statement.test
    elif isinstance(statement, ast.With):
        yield from (item.context_expr for item in statement.items)


def _arithmetic(op: ast.operator, left: Any, right: Any) -> Any:
    """What a sum of numbers is; a weight that something is added to, or multiplied by, is no weight any more."""
    if type(left) is not int or type(right) is not int:
        return left + right if isinstance(op, ast.Add) and type(left) is type(right) is tuple else None
    if isinstance(op, ast.FloorDiv):
        return left // right if right else None
    known = {ast.Add: left + right, ast.Sub: left - right, ast.Mult: left * right}
    return known.get(type(op))


def _is_axis(value: Any, count: int) -> bool:
    return isinstance(value, int) and -count <= value < count


def _flat(given: Sequence[Any]) -> list[Any]:
    return list(given[0]) if len(given) == 1 and isinstance(given[0], tuple) else list(given)


def _weights(given: Sequence[Any], named: Mapping[str, Any]) -> bool:
    return any(isinstance(one, _Weight) for one in (*given, *named.values()))
