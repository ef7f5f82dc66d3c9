"""A mask as a function of torch tensors (b, h, q, kv), as BlockMask and FlexAttention call it.

It is a list of steps in torch's own operations, each on what came before it, so that torch.vmap and
torch.compile can trace it. Numbers stay Python numbers. A load outside of its tensor reads the
nearest element, as in kernels.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from flexdsl.analysis.values import bind, specialise
from flexdsl.errors import InternalError
from flexdsl.ir import Capture, Expr, Op, Program, Type, walk

Function = Callable[..., Any]
_VARIABLES = ("b", "h", "q", "kv")


def _smaller(a: Any, b: Any) -> Any:
    return torch.where(a < b, a, b)


def _larger(a: Any, b: Any) -> Any:
    return torch.where(a > b, a, b)


def _floor_divide(a: Any, b: Any) -> Any:
    """0 where the divisor is 0, which can only stand on excluded pairs."""
    if not isinstance(b, Tensor):
        return a // b if b else 0
    return torch.where(b == 0, 0, a // torch.where(b == 0, 1, b))


def _remainder(a: Any, b: Any) -> Any:
    if not isinstance(b, Tensor):
        return a % b if b else 0
    return torch.where(b == 0, 0, a % torch.where(b == 0, 1, b))


_FUNCTIONS: dict[Op, Function] = {
    Op.AND: operator.and_,
    Op.OR: operator.or_,
    Op.NOT: torch.logical_not,
    Op.LT: operator.lt,
    Op.LE: operator.le,
    Op.GT: operator.gt,
    Op.GE: operator.ge,
    Op.EQ: operator.eq,
    Op.NE: operator.ne,
    Op.ADD: operator.add,
    Op.SUB: operator.sub,
    Op.MUL: operator.mul,
    Op.DIV: operator.truediv,
    Op.FLOORDIV: _floor_divide,
    Op.MOD: _remainder,
    Op.NEG: operator.neg,
    Op.MIN: _smaller,
    Op.MAX: _larger,
    Op.ABS: torch.abs,
    Op.BITAND: operator.and_,
    Op.BITOR: operator.or_,
    Op.BITXOR: operator.xor,
    Op.SHL: operator.lshift,
    Op.SHR: operator.rshift,
    Op.WHERE: torch.where,
    Op.TO_FLOAT: lambda x: x.to(torch.float32),
    Op.TO_INDEX: lambda x: x.to(torch.int64),
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


def mask_function(program: Program, q_offset: int, device: torch.device) -> Function:
    """The function (b, h, row, kv) -> bool tensor of a mask, with its values of now.

    Args:
        q_offset: position of row 0.
        device: of the captured tensors that the function holds.
    """
    expr = specialise(program.expr, bind(program.values, program.expr))
    tensors = {n: torch.as_tensor(v, device=device) for n, v in _captured(program).items()}
    place: dict[Expr, int] = {}
    known: list[Any] = [None] * len(_VARIABLES)
    steps: list[tuple[int, Function, tuple[int, ...]]] = []
    for node in walk(expr):
        if node.op is Op.VAR:
            place[node] = _VARIABLES.index(str(node.attribute))
            continue
        place[node] = len(known)
        known.append(node.attribute if node.op is Op.CONST else None)
        if node.op is not Op.CONST:
            operands = tuple(place[a] for a in node.args)
            steps.append((place[node], _function(node, tensors), operands))
    result = place[expr]

    if expr.op is Op.CONST:
        # A tensor, as BlockMask expects.
        return lambda b, h, q, kv: (q == q) if expr.attribute else (q != q)

    def mask_mod(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Any:
        values = [b, h, q + q_offset if q_offset else q, kv, *known[len(_VARIABLES) :]]
        for target, function, operands in steps:
            values[target] = function(*[values[i] for i in operands])
        return values[result]

    return mask_mod


def _captured(program: Program) -> dict[str, Any]:
    return {n: v for n, v in program.values.items() if hasattr(v, "shape")}


def _function(node: Expr, tensors: dict[str, Tensor]) -> Function:
    if node.op is Op.LOAD and isinstance(node.attribute, Capture):
        return _loader(tensors[node.attribute.name], node.type)
    if node.op not in _FUNCTIONS:
        raise InternalError(f"{node.op.value} has no meaning on tensors")
    return _FUNCTIONS[node.op]


def _loader(tensor: Tensor, type: Type) -> Function:
    dtype = {Type.BOOL: torch.bool, Type.INDEX: torch.int64, Type.FLOAT: torch.float32}[type]

    def load(*indices: Any) -> Tensor:
        inside = [_clamped(i, n) for i, n in zip(indices, tensor.shape, strict=True)]
        return tensor[tuple(inside)].to(dtype)

    return load


def _clamped(index: Any, length: int) -> Any:
    if isinstance(index, int):
        return min(max(index, 0), length - 1)
    return index.clamp(0, length - 1)
