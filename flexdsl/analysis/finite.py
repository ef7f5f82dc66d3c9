"""Is a derivative of a score finite, at pairs that a mask excludes too?

The weight of such a pair is 0, and times what is infinite it would be no number, and spoil the
gradients of a whole tile: kernels put 0 in the place of derivatives that may be infinite there.
Judged by the form alone: scores, positions and parameters are finite, and elements of captured
tensors need not be. No value is computed.
"""

from __future__ import annotations

import math

from flexdsl.ir import Expr, Op, Type

# Infinite or no number for some finite operands; so is a quotient.
_UNBOUNDED = frozenset({Op.EXP, Op.EXP2, Op.LOG, Op.LOG2, Op.SQRT, Op.RSQRT})
_OF_PAIRS = frozenset({"q", "kv", "score"})


def is_finite(number: Expr) -> bool:
    """Is a number finite at all pairs of a batch and head if it is at those that count?

    What is the same for all pairs is.
    """
    stack, seen = [number], set[Expr]()
    while stack:
        node = stack.pop()
        if node.type is not Type.FLOAT or node in seen:
            continue
        seen.add(node)
        if node.op is Op.CONST and not math.isfinite(float(str(node.attribute))):
            return False
        if not node.variables & _OF_PAIRS:
            continue
        if node.op is Op.LOAD or node.op in _UNBOUNDED:
            return False
        if node.op is Op.DIV and node.args[1].variables & _OF_PAIRS:
            return False
        stack.extend(node.args)
    return True
