"""Is a modified score so small, at all pairs and whatever the products are, that a softmax needs no
running maximum?

It has one so that no exponential overflows. A softcap proves that none does: weights are the
exponentials themselves then, and no earlier sum is ever rescaled. Known of a score are its numbers
and positions; elements of captured tensors count as unknown, and are not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from flexdsl.analysis.float_interval import LARGEST
from flexdsl.analysis.steps import Box, interval_of, plain_ranges
from flexdsl.analysis.values import Arrays, Bindings, specialise
from flexdsl.ir import Program, params_of

# Natural logarithms. exp(52) is 2**75, so that float32 has 2**51 left above for the number of keys
# times the largest value, and 2**51 below for the smallest one that counts. Gemma 2 caps at 50.
MOST = 52.0


def is_bounded(score: Program, positions: Mapping[str, range]) -> bool:
    """Is the modified score in [-MOST, MOST] at every pair, for any finite score?

    Args:
        positions: of b, h, q and kv; none is empty.
    """
    names = [str(p.attribute) for p in params_of(score.expr)]
    if any(n not in score.values for n in names):  # what kernels are told of their own tables
        return False
    numbers: dict[str, Any] = {n: score.values[n] for n in names}
    known = Bindings(numbers, Arrays({}))
    expr = specialise(score.expr, known)
    box: Box = {
        **{n: (np.asarray(r[0]), np.asarray(r[-1])) for n, r in positions.items()},
        "score": (np.asarray(-LARGEST), np.asarray(LARGEST)),
    }
    found = interval_of(plain_ranges([expr], known, box)[expr])
    return bool(np.all(~found.nan & (found.lo >= -MOST) & (found.hi <= MOST)))
