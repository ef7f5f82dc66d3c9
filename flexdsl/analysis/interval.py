"""Transfer functions: what each op does to intervals and truths, in one table.

Every function is sound: the result holds every value that the op gives on operands within. Those of
index arithmetic are here, those of floats in `float_interval.py`. Leaves and loads are not in the
table: their values come from a box, in `truth.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from flexdsl.analysis import float_interval as floats
from flexdsl.analysis.domain import (
    HALF,
    LIMIT,
    UNBOUNDED,
    Array,
    Interval,
    Truth,
    Value,
    index_interval,
)
from flexdsl.errors import InternalError
from flexdsl.ir import Op

Binary = Callable[[Interval, Interval], Interval]
Transfer = Callable[..., Value]


def _corners(a: Interval, b: Interval, function: Callable[[Array, Array], Array]) -> Interval:
    """The hull of a function that is monotone in each operand; magnitudes are the caller's."""
    ends = [function(x, y) for x in (a.lo, a.hi) for y in (b.lo, b.hi)]
    lo = np.minimum(np.minimum(ends[0], ends[1]), np.minimum(ends[2], ends[3]))
    hi = np.maximum(np.maximum(ends[0], ends[1]), np.maximum(ends[2], ends[3]))
    return Interval(lo, hi, max(a.magnitude, b.magnitude))


def _unless(bad: Array | np.bool_, result: Interval) -> Interval:
    """`result`, unbounded in the lanes that are `bad`."""
    if not np.any(bad):
        return result
    return Interval(np.where(bad, -LIMIT, result.lo), np.where(bad, LIMIT, result.hi), LIMIT)


def _add(a: Interval, b: Interval) -> Interval:
    return index_interval(a.lo + b.lo, a.hi + b.hi, a.magnitude + b.magnitude)


def _sub(a: Interval, b: Interval) -> Interval:
    return index_interval(a.lo - b.hi, a.hi - b.lo, a.magnitude + b.magnitude)


def _mul(a: Interval, b: Interval) -> Interval:
    magnitude = a.magnitude * b.magnitude
    if magnitude >= HALF:
        return UNBOUNDED
    hull = _corners(a, b, np.multiply)
    return Interval(hull.lo, hull.hi, magnitude)


def _is_positive(b: Interval) -> bool:
    """Is it one positive number in all lanes, as divisors nearly always are?"""
    return b.lo.ndim == 0 and bool(b.lo == b.hi) and bool(b.lo > 0)


def _floordiv(a: Interval, b: Interval) -> Interval:
    """Monotone in each operand while the divisor keeps its sign."""
    if a.magnitude >= HALF:
        return UNBOUNDED
    if _is_positive(b):
        return Interval(a.lo // b.lo, a.hi // b.lo, a.magnitude)
    zero = (b.lo <= 0) & (b.hi >= 0)
    divisor = Interval(np.where(zero, 1, b.lo), np.where(zero, 1, b.hi))
    hull = _corners(a, divisor, np.floor_divide)
    return _unless(zero, Interval(hull.lo, hull.hi, a.magnitude + 1))


def _mod(a: Interval, b: Interval) -> Interval:
    """Exact for one divisor where the range stays within one period; else all remainders."""
    if b.magnitude >= HALF:
        return UNBOUNDED
    if _is_positive(b) and a.magnitude < HALF:
        first, last = a.lo // b.lo * b.lo, a.hi // b.lo * b.lo
        same = first == last
        lo, hi = np.where(same, a.lo - first, 0), np.where(same, a.hi - last, b.lo - 1)
        return Interval(lo, hi, b.magnitude)
    zero = (b.lo <= 0) & (b.hi >= 0)
    lo = np.where(b.lo > 0, 0, b.lo + 1)
    hi = np.where(b.lo > 0, b.hi - 1, 0)
    if a.magnitude < HALF:
        divisor = np.where(zero, 1, b.lo)
        period = (b.lo == b.hi) & (a.lo // divisor == a.hi // divisor)
        inside = (a.lo >= 0) & (a.hi < b.lo)
        lo = np.where(inside, a.lo, np.where(period, a.lo % divisor, lo))
        hi = np.where(inside, a.hi, np.where(period, a.hi % divisor, hi))
        hi = np.where((a.lo >= 0) & (b.lo > 0), np.minimum(hi, a.hi), hi)
    return _unless(zero, Interval(lo, hi, b.magnitude))


def _neg(a: Interval) -> Interval:
    return Interval(-a.hi, -a.lo, a.magnitude)


def _abs(a: Interval) -> Interval:
    crosses = (a.lo <= 0) & (a.hi >= 0)
    lo, hi = np.abs(a.lo), np.abs(a.hi)
    return Interval(np.where(crosses, 0, np.minimum(lo, hi)), np.maximum(lo, hi), a.magnitude)


def _min(a: Interval, b: Interval) -> Interval:
    return Interval(np.minimum(a.lo, b.lo), np.minimum(a.hi, b.hi), max(a.magnitude, b.magnitude))


def _max(a: Interval, b: Interval) -> Interval:
    return Interval(np.maximum(a.lo, b.lo), np.maximum(a.hi, b.hi), max(a.magnitude, b.magnitude))


def _bits(a: Interval) -> tuple[Array, Array]:
    """Bits that are one in every number of the interval, and those that may be one."""
    unknown: Array = a.lo ^ a.hi
    for shift in (1, 2, 4, 8, 16, 32):
        # The sign may be set: a shift that brings it in fills from the top, which is what we want.
        unknown = unknown | (unknown >> shift)
    ones = a.lo & ~unknown
    return ones, ones | unknown


def _from_bits(ones: Array, possible: Array) -> Interval:
    """Between the bits that are one and those that may be; unbounded if the sign is not known."""
    result = Interval(ones, possible, LIMIT)
    return _unless((ones >= 0) & (possible < 0), result)


def _bounded_bits(function: Binary) -> Binary:
    """Without unbounded operands, whose bounds are no bit patterns."""

    def transfer(a: Interval, b: Interval) -> Interval:
        if max(a.magnitude, b.magnitude) >= HALF:
            return UNBOUNDED
        result = function(a, b)
        # Two's complement of k bits is closed under all three operations.
        bound = (1 << max(a.magnitude, b.magnitude).bit_length()) - 1
        lo, hi = np.maximum(result.lo, -bound - 1), np.minimum(result.hi, bound)
        return Interval(lo, hi, bound + 1)

    return transfer


@_bounded_bits
def _bitand(a: Interval, b: Interval) -> Interval:
    (a_ones, a_possible), (b_ones, b_possible) = _bits(a), _bits(b)
    result = _from_bits(a_ones & b_ones, a_possible & b_possible)
    hi = np.where(a.lo >= 0, np.minimum(result.hi, a.hi), result.hi)
    hi = np.where(b.lo >= 0, np.minimum(hi, b.hi), hi)
    lo = np.where((a.lo >= 0) | (b.lo >= 0), np.maximum(result.lo, 0), result.lo)
    return Interval(lo, hi, result.magnitude)


@_bounded_bits
def _bitor(a: Interval, b: Interval) -> Interval:
    (a_ones, a_possible), (b_ones, b_possible) = _bits(a), _bits(b)
    result = _from_bits(a_ones | b_ones, a_possible | b_possible)
    natural = (a.lo >= 0) & (b.lo >= 0)
    lo = np.where(natural, np.maximum(result.lo, np.maximum(a.lo, b.lo)), result.lo)
    return Interval(lo, result.hi, result.magnitude)


@_bounded_bits
def _bitxor(a: Interval, b: Interval) -> Interval:
    (a_ones, a_possible), (b_ones, b_possible) = _bits(a), _bits(b)
    unknown = (a_ones ^ a_possible) | (b_ones ^ b_possible)
    ones = (a_ones ^ b_ones) & ~unknown
    return _from_bits(ones, ones | unknown)


def _shl(a: Interval, b: Interval) -> Interval:
    if b.magnitude >= 62 or a.magnitude << b.magnitude >= HALF:
        return UNBOUNDED
    shift = Interval(np.maximum(b.lo, 0), np.maximum(b.hi, 0))
    hull = _corners(a, shift, np.left_shift)
    return _unless(b.lo < 0, Interval(hull.lo, hull.hi, a.magnitude << b.magnitude))


def _shr(a: Interval, b: Interval) -> Interval:
    if a.magnitude >= HALF:
        return UNBOUNDED
    shift = Interval(np.clip(b.lo, 0, 63), np.clip(b.hi, 0, 63))
    hull = _corners(a, shift, np.right_shift)
    return _unless((b.lo < 0) | (b.hi > 63), Interval(hull.lo, hull.hi, a.magnitude))


def _less(a: Interval, b: Interval) -> Truth:
    return Truth((a.hi < b.lo) & ~(a.nan | b.nan), a.lo < b.hi)


def _less_equal(a: Interval, b: Interval) -> Truth:
    return Truth((a.hi <= b.lo) & ~(a.nan | b.nan), a.lo <= b.hi)


def _equal(a: Value, b: Value) -> Truth:
    if isinstance(a, Truth) and isinstance(b, Truth):
        return a.both(b).either(a.negated().both(b.negated()))
    if isinstance(a, Interval) and isinstance(b, Interval):
        point = (a.lo == a.hi) & (b.lo == b.hi) & (a.lo == b.lo)
        return Truth(point & ~(a.nan | b.nan), (a.lo <= b.hi) & (b.lo <= a.hi))
    raise InternalError("a bool was compared with a number")


def _where(condition: Truth, a: Value, b: Value) -> Value:
    """One branch where the condition is decided, else the hull of both."""
    if isinstance(a, Truth) and isinstance(b, Truth):
        chosen = condition.both(a).either(condition.negated().both(b))
        return Truth(chosen.always | (a.always & b.always), chosen.possible)
    if isinstance(a, Interval) and isinstance(b, Interval):
        always, never = condition.always, ~condition.possible
        lo = np.where(always, a.lo, np.where(never, b.lo, np.minimum(a.lo, b.lo)))
        hi = np.where(always, a.hi, np.where(never, b.hi, np.maximum(a.hi, b.hi)))
        nan = (a.nan & ~never) | (b.nan & ~always)
        return Interval(lo, hi, max(a.magnitude, b.magnitude), nan)
    raise InternalError("where() of a bool and a number")


def _numeric(of_indices: Callable[..., Interval], of_floats: Callable[..., Interval]) -> Transfer:
    """The function for the type that the operands have."""

    def transfer(*args: Interval) -> Interval:
        return (of_indices if args[0].is_index else of_floats)(*args)

    return transfer


TRANSFER: dict[Op, Transfer] = {
    Op.AND: Truth.both,
    Op.OR: Truth.either,
    Op.NOT: Truth.negated,
    Op.LT: _less,
    Op.LE: _less_equal,
    Op.GT: lambda a, b: _less(b, a),
    Op.GE: lambda a, b: _less_equal(b, a),
    Op.EQ: _equal,
    Op.NE: lambda a, b: _equal(a, b).negated(),
    Op.ADD: _numeric(_add, floats.add),
    Op.SUB: _numeric(_sub, floats.sub),
    Op.MUL: _numeric(_mul, floats.mul),
    Op.DIV: floats.div,
    Op.FLOORDIV: _floordiv,
    Op.MOD: _mod,
    Op.NEG: _numeric(_neg, floats.neg),
    Op.MIN: _numeric(_min, floats.minimum),
    Op.MAX: _numeric(_max, floats.maximum),
    Op.ABS: _numeric(_abs, floats.absolute),
    Op.BITAND: _bitand,
    Op.BITOR: _bitor,
    Op.BITXOR: _bitxor,
    Op.SHL: _shl,
    Op.SHR: _shr,
    Op.WHERE: _where,
    Op.TO_FLOAT: floats.from_index,
    Op.TO_INDEX: floats.to_index,
    Op.EXP: floats.exp,
    Op.EXP2: floats.exp2,
    Op.LOG: floats.log,
    Op.LOG2: floats.log2,
    Op.SQRT: floats.sqrt,
    Op.RSQRT: floats.rsqrt,
    Op.SIN: floats.sin,
    Op.COS: floats.cos,
    Op.TANH: floats.tanh,
    Op.SIGMOID: floats.sigmoid,
    Op.FLOOR: floats.floor,
}
