"""The numbers and arrays that a program holds now, as the analysis reads them: plain numpy.

Tensors are recognised by what they can do (`detach`, `cpu`, `numpy`), so that no tensor library is
imported. Contents are read, never changed, and not before they are asked for: a tensor on a GPU is
copied to the host then, and its shape is known without that. Nothing here knows of masks or tiles.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexdsl.analysis.ranges import RangeTable
from flexdsl.errors import CaptureError
from flexdsl.ir import Capture, Expr, Op, Type, apply, captures_of, const, load, params_of, walk

Array = NDArray[Any]


def to_numpy(value: Any) -> Array:
    """A captured tensor as a numpy array of the same shape; bfloat16 becomes float32."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":
            value = value.float()
        value = value.numpy()
    return np.asarray(value)


class Arrays(Mapping[str, Array]):
    """Captured tensors as numpy arrays, by name; each is read when it is first asked for."""

    def __init__(self, tensors: Mapping[str, Any]) -> None:
        self._tensors = tensors
        self._read: dict[str, Array] = {}

    def __getitem__(self, name: str) -> Array:
        if name not in self._read:
            self._read[name] = to_numpy(self._tensors[name])
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """The lengths of a tensor, whose contents are not read."""
        return tuple(self._tensors[name].shape)

    def is_remote(self, name: str) -> bool:
        """Are the contents of a tensor elsewhere than on the host?"""
        return getattr(getattr(self._tensors[name], "device", None), "type", "cpu") != "cpu"


@dataclass(frozen=True, eq=False)
class Bindings:
    """Values of an expression's parameters and captures.

    Attributes:
        numbers: the number of each parameter, by name.
        arrays: the array of each capture, by name.
        ranges: least and largest value of each parameter of which no number is known, by name.
    """

    numbers: Mapping[str, int | float]
    arrays: Arrays
    ranges: Mapping[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    _tables: dict[str, RangeTable] = field(default_factory=dict[str, RangeTable])

    @property
    def all(self) -> Mapping[str, Any]:
        """Both, by name, as `ir.evaluate` takes them; only what it asks for is read."""
        return ChainMap(dict(self.numbers), self.arrays)  # type: ignore[arg-type]  # read only

    @property
    def unread(self) -> Bindings:
        """The same numbers, and arrays of which nothing is known."""
        return Bindings(self.numbers, Arrays({}), self.ranges)

    def table(self, name: str) -> RangeTable:
        """Minimum and maximum over index ranges of the capture `name`, made once."""
        if name not in self._tables:
            self._tables[name] = RangeTable(self.arrays[name])
        return self._tables[name]


def bind(values: Mapping[str, Any], *exprs: Expr) -> Bindings:
    """The values that `exprs` need.

    Raises:
        CaptureError: a parameter or a capture has no value, or its rank is another one.
    """
    return bind_ranges(values, {}, *exprs)


def bind_ranges(
    values: Mapping[str, Any], ranges: Mapping[str, tuple[int, int]], *exprs: Expr
) -> Bindings:
    """The values that `exprs` need, where of some parameters only a range is known.

    Args:
        ranges: least and largest value of such integer parameters, by name.

    Raises:
        CaptureError: a parameter or a capture has no value, or its rank is another one.
    """
    numbers: dict[str, int | float] = {}
    tensors: dict[str, Any] = {}
    for expr in exprs:
        for node in params_of(expr):
            name = str(node.attribute)
            if name in ranges:
                continue
            number = _value(values, name)
            numbers[name] = int(number) if node.type is Type.INDEX else float(number)
        for capture in captures_of(expr):
            if capture.name not in tensors:
                tensors[capture.name] = _tensor(values, capture)
    return Bindings(numbers, Arrays(tensors), ranges)


def _value(values: Mapping[str, Any], name: str) -> Any:
    value = values.get(name)
    if value is None:
        raise CaptureError(
            f"{name} has no value",
            why="a program parsed from text names its captures without their contents",
            fix=f"bind a tensor or a number to {name} before planning",
        )
    return value


def _tensor(values: Mapping[str, Any], capture: Capture) -> Any:
    tensor = _value(values, capture.name)
    if tensor.ndim != capture.rank:
        raise CaptureError(
            f"{capture.name} has {tensor.ndim} dimensions, but it is indexed with {capture.rank}",
            fix=f"a tensor of {capture.rank} dimensions",
        )
    return tensor


def substitute(expr: Expr, new: Mapping[Expr, Expr]) -> Expr:
    """`expr` with every node that is a key of `new` replaced, simplified again on the way up."""
    done = dict(new)
    for node in walk(expr):
        if node in done:
            continue
        args = tuple(done[a] for a in node.args)
        if args == node.args:
            done[node] = node
        elif isinstance(node.attribute, Capture):
            done[node] = load(node.attribute, *args)
        else:
            done[node] = apply(node.op, *args)
    return done[expr]


def specialise(expr: Expr, bindings: Bindings) -> Expr:
    """`expr` with the parameters' numbers in it as constants, as far as they are known."""
    params = (p for p in params_of(expr) if str(p.attribute) not in bindings.ranges)
    numbers = {p: const(bindings.numbers[str(p.attribute)]) for p in params}
    return substitute(expr, numbers) if numbers else expr


def is_constant(expr: Expr, value: bool | int) -> bool:
    """Is `expr` the constant `value`?"""
    return expr.op is Op.CONST and expr.attribute is not None and expr.attribute == value


MAX_DEPTH = 64  # of what is taken apart by functions that call themselves


def is_deep(expr: Expr) -> bool:
    """Are more operations nested than such functions go down? A chain of `and`, or `or`, is one."""
    depth: dict[Expr, int] = {}
    for node in walk(expr):
        chained = node.op in (Op.AND, Op.OR)
        below = (depth[a] + (not chained or a.op is not node.op) for a in node.args)
        depth[node] = max(below, default=0)
    return depth[expr] > MAX_DEPTH
