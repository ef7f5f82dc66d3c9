"""What every op computes on numpy arrays, and the evaluator of whole expressions.

The arrays broadcast. Index arithmetic is int64, float arithmetic is of the dtype asked for. A load
outside a captured tensor reads the nearest element, as the kernels do on pairs that the mask
excludes; whether that can happen on an allowed pair is checked elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from flexdsl.ir.expr import Capture, Expr, walk
from flexdsl.ir.ops import Op
from flexdsl.ir.types import Type

Array = Any  # a numpy array or scalar of bool, int64 or a float dtype


def _sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, e) / (1.0 + e)


NUMPY: dict[Op, Callable[..., Array]] = {
    Op.AND: np.logical_and,
    Op.OR: np.logical_or,
    Op.NOT: np.logical_not,
    Op.LT: np.less,
    Op.LE: np.less_equal,
    Op.GT: np.greater,
    Op.GE: np.greater_equal,
    Op.EQ: np.equal,
    Op.NE: np.not_equal,
    Op.ADD: np.add,
    Op.SUB: np.subtract,
    Op.MUL: np.multiply,
    Op.DIV: np.divide,
    Op.FLOORDIV: np.floor_divide,
    Op.MOD: np.mod,
    Op.NEG: np.negative,
    Op.MIN: np.minimum,
    Op.MAX: np.maximum,
    Op.ABS: np.abs,
    Op.BITAND: np.bitwise_and,
    Op.BITOR: np.bitwise_or,
    Op.BITXOR: np.bitwise_xor,
    Op.SHL: np.left_shift,
    Op.SHR: np.right_shift,
    Op.WHERE: np.where,
    Op.EXP: np.exp,
    Op.EXP2: np.exp2,
    Op.LOG: np.log,
    Op.LOG2: np.log2,
    Op.SQRT: np.sqrt,
    Op.RSQRT: lambda x: 1.0 / np.sqrt(x),
    Op.SIN: np.sin,
    Op.COS: np.cos,
    Op.TANH: np.tanh,
    Op.SIGMOID: _sigmoid,
    Op.FLOOR: np.floor,
}


DTYPES: dict[Type, Any] = {Type.BOOL: np.bool_, Type.INDEX: np.int64}  # a float's is asked for

# A node, its function where that needs the operands alone, and those that no later node needs.
_Step = tuple[Expr, Callable[..., Array] | None, tuple[Expr, ...]]


def evaluate(
    expr: Expr,
    variables: Mapping[str, Array],
    values: Mapping[str, Array],
    float_dtype: Any = np.float64,
) -> Array:
    """The value of `expr` at every point of `variables`.

    Args:
        variables: an integer array for each of b, h, q, kv, and floats for `score`, that broadcast.
        values: the number of each parameter and the array of each capture, by name.
        float_dtype: numpy dtype of float arithmetic.

    Returns:
        An array of the variables' broadcast shape, or one that broadcasts to it.
    """
    return evaluate_all((expr,), variables, values, float_dtype)[0]


def evaluate_all(
    exprs: tuple[Expr, ...],
    variables: Mapping[str, Array],
    values: Mapping[str, Array],
    float_dtype: Any = np.float64,
) -> list[Array]:
    """`evaluate` of several expressions, what they share once."""
    done: dict[Expr, Array] = {}
    with np.errstate(all="ignore"):
        for node, function, finished in _in_order(exprs):
            if function is None:
                done[node] = _evaluate_node(node, done, variables, values, float_dtype)
            else:
                done[node] = function(*[done[a] for a in node.args])
            for operand in finished:
                del done[operand]
    return [done[expr] for expr in exprs]


@lru_cache(maxsize=512)
def _in_order(exprs: tuple[Expr, ...]) -> tuple[_Step, ...]:
    """The nodes of expressions, operands first. The analysis asks of one mask many times."""
    order = list(walk(*exprs))
    last_use = {operand: node for node in order for operand in node.args}
    finished: dict[Expr, list[Expr]] = {node: [] for node in order}
    for operand, node in last_use.items():
        if operand not in exprs:
            finished[node].append(operand)
    return tuple((node, NUMPY.get(node.op), tuple(finished[node])) for node in order)


def _evaluate_node(
    node: Expr,
    done: Mapping[Expr, Array],
    variables: Mapping[str, Array],
    values: Mapping[str, Array],
    float_dtype: Any,
) -> Array:
    dtype = DTYPES.get(node.type, float_dtype)
    args = [done[a] for a in node.args]
    match node.op:
        case Op.CONST:
            return dtype(node.attribute)
        case Op.VAR:
            return np.asarray(variables[str(node.attribute)]).astype(dtype, copy=False)
        case Op.PARAM:
            return dtype(values[str(node.attribute)])
        case Op.LOAD:
            assert isinstance(node.attribute, Capture)
            array = values[node.attribute.name]
            if len(args) == 1:  # the same in one step: masks read their ids at every position
                found = np.take(np.asarray(array), args[0], mode="clip")
                return np.asarray(found).astype(dtype, copy=False)
            cut = zip(args, array.shape, strict=True)
            clipped = tuple(np.minimum(np.maximum(i, 0), n - 1) for i, n in cut)
            return np.asarray(array[clipped]).astype(dtype, copy=False)
        case _:  # a conversion
            return args[0].astype(dtype)
