"""What every op computes on torch tensors, and the evaluator of whole expressions.

The tensors broadcast. Index arithmetic is int64, float arithmetic of the dtype asked for; autograd
runs through the score and through captured float tensors. A load outside a captured tensor reads
the nearest element, as kernels do on pairs that the mask excludes.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from flexdsl.ir import Capture, Expr, Op, Type, walk


def _floor_divide(a: Tensor, b: Tensor) -> Tensor:
    return torch.div(a, b, rounding_mode="floor")


def _where_divisible(divide: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """`divide`, with 0 where the divisor is 0, which can only stand on excluded pairs."""

    def divided(a: Tensor, b: Tensor) -> Tensor:
        zero = b == 0
        if not bool(zero.any()):
            return divide(a, b)
        return divide(a, b.masked_fill(zero, 1)).masked_fill(zero, 0)

    return divided


TORCH: dict[Op, Callable[..., Tensor]] = {
    Op.AND: torch.logical_and,
    Op.OR: torch.logical_or,
    Op.NOT: torch.logical_not,
    Op.LT: torch.lt,
    Op.LE: torch.le,
    Op.GT: torch.gt,
    Op.GE: torch.ge,
    Op.EQ: torch.eq,
    Op.NE: torch.ne,
    Op.ADD: torch.add,
    Op.SUB: torch.sub,
    Op.MUL: torch.mul,
    Op.DIV: torch.div,
    Op.FLOORDIV: _where_divisible(_floor_divide),
    Op.MOD: _where_divisible(torch.remainder),
    Op.NEG: torch.neg,
    Op.MIN: torch.minimum,
    Op.MAX: torch.maximum,
    Op.ABS: torch.abs,
    Op.BITAND: torch.bitwise_and,
    Op.BITOR: torch.bitwise_or,
    Op.BITXOR: torch.bitwise_xor,
    Op.SHL: operator.lshift,
    Op.SHR: operator.rshift,
    Op.WHERE: torch.where,
    Op.EXP: torch.exp,
    Op.EXP2: torch.exp2,
    Op.LOG: torch.log,
    Op.LOG2: torch.log2,
    Op.SQRT: torch.sqrt,
    Op.RSQRT: torch.rsqrt,
    Op.SIN: torch.sin,
    Op.COS: torch.cos,
    Op.TANH: torch.tanh,
    Op.SIGMOID: torch.sigmoid,
    Op.FLOOR: torch.floor,
}


def evaluate(
    expr: Expr,
    variables: Mapping[str, Tensor],
    values: Mapping[str, Any],
    float_dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The value of `expr` at every point of `variables`.

    Args:
        variables: an int64 tensor for each of b, h, q, kv that `expr` uses, and for `score` one of
            `float_dtype`; they broadcast and stand on one device.
        values: the number of each parameter and the tensor of each capture, by name.
        float_dtype: dtype of float arithmetic.

    Returns:
        A tensor of bool, int64 or `float_dtype` that broadcasts to the variables' shape.
    """
    device = next((v.device for v in variables.values()), None)
    done: dict[Expr, Tensor] = {}
    for node in walk(expr):
        done[node] = _evaluate_node(node, done, variables, values, float_dtype, device)
    return done[expr]


def _evaluate_node(
    node: Expr,
    done: Mapping[Expr, Tensor],
    variables: Mapping[str, Tensor],
    values: Mapping[str, Any],
    float_dtype: torch.dtype,
    device: torch.device | None,
) -> Tensor:
    dtype = {Type.BOOL: torch.bool, Type.INDEX: torch.int64, Type.FLOAT: float_dtype}[node.type]
    args = [done[a] for a in node.args]
    match node.op:
        case Op.CONST:
            return torch.tensor(node.attribute, dtype=dtype, device=device)
        case Op.VAR:
            return variables[str(node.attribute)]
        case Op.PARAM:
            return torch.tensor(values[str(node.attribute)], dtype=dtype, device=device)
        case Op.LOAD:
            assert isinstance(node.attribute, Capture)
            tensor = values[node.attribute.name]
            clipped = [i.clamp(0, n - 1) for i, n in zip(args, tensor.shape, strict=True)]
            return tensor[tuple(clipped)].to(dtype)
        case Op.TO_FLOAT | Op.TO_INDEX:
            return args[0].to(dtype)
        case _:
            return TORCH[node.op](*args)
