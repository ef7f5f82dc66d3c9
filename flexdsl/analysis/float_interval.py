"""Transfer functions of float operations.

Kernels compute in float32 and tests in float64, so results are widened outward by more than either
rounds: RELATIVE of the value and TINY around zero, where float32 has no small numbers left. Bounds
past float32's range become infinite. Whatever can be NaN says so and is unbounded.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from flexdsl.analysis.domain import HALF, LIMIT, Array, Interval

RELATIVE = 1e-6
TRANSCENDENTAL = 2e-5  # of exponentials, which kernels compute as exp2(x * log2(e))
ABSOLUTE = 2e-7  # of tanh and sigmoid, which may be computed as differences from 1
TINY = 1e-37
LARGEST = float(np.finfo(np.float32).max)
EXACT_INDEX = 2**24  # float32 holds every integer up to here
MAX_ANGLE = 1e4  # sine and cosine of larger float32 angles are not trusted

Function = Callable[[Array], Array]


def _make(lo: Array, hi: Array, nan: Array | np.bool_, relative: float = RELATIVE) -> Interval:
    """Widened, cut at float32's range, unbounded where NaN is possible."""
    with np.errstate(all="ignore"):
        if relative:
            lo = lo - np.abs(lo) * relative - TINY
            hi = hi + np.abs(hi) * relative + TINY
        nan = nan | np.isnan(lo) | np.isnan(hi)
        lo = np.where(nan | (lo < -LARGEST), -np.inf, np.minimum(lo, LARGEST))
        hi = np.where(nan | (hi > LARGEST), np.inf, np.maximum(hi, -LARGEST))
    return Interval(lo, hi, 0, nan)


def _infinite(a: Interval) -> Array:
    return np.asarray(np.isinf(a.lo) | np.isinf(a.hi))


def add(a: Interval, b: Interval) -> Interval:
    """Sum; two infinite operands may be opposite."""
    with np.errstate(all="ignore"):
        nan = a.nan | b.nan | (_infinite(a) & _infinite(b))
        return _make(a.lo + b.lo, a.hi + b.hi, nan)


def sub(a: Interval, b: Interval) -> Interval:
    """Difference."""
    return add(a, neg(b))


def mul(a: Interval, b: Interval) -> Interval:
    """Product; infinity times zero is NaN."""
    with np.errstate(all="ignore"):
        ends = [x * y for x in (a.lo, a.hi) for y in (b.lo, b.hi)]
        nan = a.nan | b.nan | _infinite(a) | _infinite(b)
        return _make(np.minimum.reduce(ends), np.maximum.reduce(ends), nan)


def div(a: Interval, b: Interval) -> Interval:
    """Quotient; a divisor that can be zero leaves nothing known."""
    with np.errstate(all="ignore"):
        ends = [x / y for x in (a.lo, a.hi) for y in (b.lo, b.hi)]
        zero = (b.lo <= TINY) & (b.hi >= -TINY)
        nan = a.nan | b.nan | zero | _infinite(a) | _infinite(b)
        return _make(np.minimum.reduce(ends), np.maximum.reduce(ends), nan)


def neg(a: Interval) -> Interval:
    """Negation, which is exact."""
    return Interval(-a.hi, -a.lo, 0, a.nan)


def minimum(a: Interval, b: Interval) -> Interval:
    """The smaller, exact; with NaN the kernels and numpy differ, so nothing is known."""
    return _make(np.minimum(a.lo, b.lo), np.minimum(a.hi, b.hi), a.nan | b.nan, 0)


def maximum(a: Interval, b: Interval) -> Interval:
    """The larger; see `minimum`."""
    return _make(np.maximum(a.lo, b.lo), np.maximum(a.hi, b.hi), a.nan | b.nan, 0)


def absolute(a: Interval) -> Interval:
    """Absolute value, which is exact."""
    crosses = (a.lo <= 0) & (a.hi >= 0)
    lo, hi = np.abs(a.lo), np.abs(a.hi)
    return _make(np.where(crosses, 0.0, np.minimum(lo, hi)), np.maximum(lo, hi), a.nan, 0)


def from_index(a: Interval) -> Interval:
    """An index as a float; float32 rounds large ones."""
    lo = np.where(a.lo <= -LIMIT, -np.inf, a.lo.astype(np.float64))
    hi = np.where(a.hi >= LIMIT, np.inf, a.hi.astype(np.float64))
    return _make(lo, hi, np.False_, RELATIVE if a.magnitude > EXACT_INDEX else 0)


def to_index(a: Interval) -> Interval:
    """Cut toward zero; what a NaN or a huge float becomes is not defined."""
    bad = a.nan | (np.maximum(np.abs(a.lo), np.abs(a.hi)) > 2.0**31)
    lo = np.trunc(np.where(bad, 0.0, a.lo)).astype(np.int64)
    hi = np.trunc(np.where(bad, 0.0, a.hi)).astype(np.int64)
    if not np.any(bad):
        return Interval(lo, hi, 2**31)
    return Interval(np.where(bad, -LIMIT, lo), np.where(bad, LIMIT, hi), max(LIMIT, HALF))


def _increasing(
    function: Function, low: float = -np.inf, relative: float = RELATIVE, absolute: float = 0.0
) -> Callable[[Interval], Interval]:
    """A function that never decreases and is NaN below `low`."""

    def transfer(a: Interval) -> Interval:
        with np.errstate(all="ignore"):
            lo, hi = function(np.maximum(a.lo, low)), function(np.maximum(a.hi, low))
            return _make(lo - absolute, hi + absolute, a.nan | (a.lo < low), relative)

    return transfer


def _sigmoid(x: Array) -> Array:
    return np.asarray(1.0 / (1.0 + np.exp(-x)))


exp = _increasing(np.exp, relative=TRANSCENDENTAL)
exp2 = _increasing(np.exp2, relative=TRANSCENDENTAL)
tanh = _increasing(np.tanh, absolute=ABSOLUTE)
sigmoid = _increasing(_sigmoid, absolute=ABSOLUTE)
sqrt = _increasing(np.sqrt, low=0.0)
floor = _increasing(np.floor, relative=0)


def _logarithm(function: Function) -> Callable[[Interval], Interval]:
    """Near 1 the result is near 0, where a relative error of the operand is an absolute one."""

    def transfer(a: Interval) -> Interval:
        with np.errstate(all="ignore"):
            lo, hi = function(np.maximum(a.lo, 0.0)), function(np.maximum(a.hi, 0.0))
            return _make(lo - RELATIVE, hi + RELATIVE, a.nan | (a.lo < 0))

    return transfer


log = _logarithm(np.log)
log2 = _logarithm(np.log2)


def rsqrt(a: Interval) -> Interval:
    """1 / sqrt(x): decreasing, infinite at zero, NaN below."""
    with np.errstate(all="ignore"):
        lo, hi = 1.0 / np.sqrt(np.maximum(a.hi, 0.0)), 1.0 / np.sqrt(np.maximum(a.lo, 0.0))
        return _make(lo, hi, a.nan | (a.lo < 0))


def cos(a: Interval) -> Interval:
    """1 where a multiple of 2 pi is inside, -1 where an odd multiple of pi is."""
    with np.errstate(all="ignore"):
        turn = 2 * np.pi
        at_lo, at_hi = np.cos(a.lo), np.cos(a.hi)
        wild = a.nan | (np.maximum(np.abs(a.lo), np.abs(a.hi)) > MAX_ANGLE)
        top = np.floor(a.hi / turn) >= np.ceil(a.lo / turn)
        bottom = np.floor((a.hi - np.pi) / turn) >= np.ceil((a.lo - np.pi) / turn)
        hi = np.where(wild | top, 1.0, np.maximum(at_lo, at_hi))
        lo = np.where(wild | bottom, -1.0, np.minimum(at_lo, at_hi))
    result = _make(lo - 1e-5, hi + 1e-5, np.False_)
    return Interval(result.lo, result.hi, 0, a.nan | _infinite(a))


def sin(a: Interval) -> Interval:
    """The cosine, a quarter turn later."""
    quarter = np.pi / 2
    return cos(Interval(a.lo - quarter, a.hi - quarter, 0, a.nan))
