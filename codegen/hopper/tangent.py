"""A score that is a tangent times a number, as softcap's, in the forward kernel for Hopper.

    cap * tanh(y) = cap + 2 * |cap| * half,    half = sign(cap) * (tanh(y) - 1) / 2

Weights are the same without the first term, which the logsumexp takes, and the factor of the second
one joins that of the exponentials' base. So `half`, an exponential and a reciprocal, is all that is
computed of a pair. On an H100 (torch 2.11.0+cu130, triton 3.6.0, 2026-11-26) softcap under a causal
mask takes 1256 microseconds so, and 1317 with a product and a sum more for each pair; at D 64 2170
and 2229. Slower by 1 to 30 %: reciprocals by Newton's method, and one for two or for four pairs.
"""

from __future__ import annotations

from flexdsl.ir import Expr, Op, const, walk

from ..kernel import KernelSpec
from ..lower import Lowering, Scope, tangent_in

# The scores come from 16-bit elements: the absolute error is what counts.
HALF_TANGENT = '''\
@gluon.jit
def half_tangent(x, factor, sign):
    """sign * (tanh(x * factor) - 1) / 2, whose absolute error is below 1.5e-7; sign is 1 or -1."""
    divisor = -sign - sign * gl.exp2(x * (2.8853900817779268 * factor))
    reciprocal: gl.constexpr = "rcp.approx.ftz.f32 $0, $1;"
    return gl.inline_asm_elementwise(reciprocal, "=f,f", [divisor], gl.float32, True, 1)
'''

_LEAST_CAP = "1e-30"  # 0 times the score of a masked pair were no number


def tangent_of(spec: KernelSpec) -> tuple[Expr, Expr] | None:
    """The tangent that the score is, and what it is multiplied by; None where it is not one.

    What the tangent is of is computed from the score, constants and parameters alone.
    """
    if spec.score is None:
        return None
    expr = spec.score.expr
    found = tangent_in(expr) if expr.op is Op.MUL else expr if expr.op is Op.TANH else None
    if found is None:
        return None
    (of,) = found.args
    if of.variables != {"score"} or any(n.op is Op.LOAD for n in walk(of)):
        return None
    (by,) = (a for a in expr.args if a is not found) if expr is not found else (const(1.0),)
    return found, by


def functions(spec: KernelSpec) -> list[str]:
    """The text of the function that a kernel needs for such a score."""
    return [HALF_TANGENT] if tangent_of(spec) else []


def write_factors(spec: KernelSpec, lowering: Lowering, scope: Scope) -> None:
    """Write what is the same for all pairs of a work: cap, its sign, and the factor of weights."""
    tangent = tangent_of(spec)
    if tangent is None:
        return
    (cap,) = lowering.lower([tangent[1]], scope)
    scope.block.line(f"tangent_cap = gl.to_tensor({cap})")
    scope.block.line("tangent_sign = gl.where(tangent_cap < 0, -1.0, 1.0)")
    factor = f"gl.maximum(gl.abs(tangent_cap), {_LEAST_CAP})"
    scope.block.line(f"tangent_factor = 2.0 * LOG2E * {factor}")


def write_score(spec: KernelSpec, lowering: Lowering, scope: Scope) -> str | None:
    """Write the scores of a tile, and give the factor of their weights; None for others."""
    tangent = tangent_of(spec)
    if tangent is None:
        return None
    (of,) = tangent[0].args
    lowering.lower([of], scope)
    x, factor = lowering.factor_of(of, scope)
    scope.block.line(f"scores = half_tangent({x}, {factor}, tangent_sign)")
    return "tangent_factor"
