"""Functions that Triton lacks, or has dear: written into a kernel's module where they are used."""

from __future__ import annotations


def _wave(name: str, title: str, polynomial: str) -> str:
    """A sine or cosine by a polynomial in the square of the rest of x after n half turns."""
    return f'''\
@triton.jit
def {name}(x):
    """The {title}; the absolute error is below 3e-7 up to 1e6 radians.

    x is n half turns and a rest. The compiler's own has 200 instructions, for all that float32 has.
    """
    n = tl.floor(x * 0.3183098861837907 + 0.5)
    rest = tl.fma(n, -0.0009676535846665502, tl.fma(n, -3.140625, x))
    rest = tl.fma(n, -5.126688136514179e-12, rest)
    square = rest * rest
{polynomial}
    value = tl.where(n == 2.0 * tl.floor(0.5 * n), value, -value)
    return tl.where(value > 1.0, 1.0, tl.where(value < -1.0, -1.0, value))
'''


def _held(name: str, sign: str) -> str:
    """A sum or a difference that stays inside 32 bits."""
    return f'''\
@triton.jit
def {name}(a, b):
    """a {sign} b, or the nearest number of 32 bits."""
    b = tl.minimum(tl.maximum(b.to(tl.int64), -4294967296), 4294967296)
    total = a.to(tl.int64) {sign} b
    return tl.minimum(tl.maximum(total, -2147483648), 2147483647).to(tl.int32)
'''


_COSINE = """\
    value = -2.604960798e-07
    value = tl.fma(value, square, 2.476005466e-05)
    value = tl.fma(value, square, -0.001388835954)
    value = tl.fma(value, square, 0.04166663438)
    value = tl.fma(value, square, -0.5)
    value = tl.fma(value, square, 1.0)"""
_SINE = """\
    value = 2.605019517e-06
    value = tl.fma(value, square, -0.0001980898232)
    value = tl.fma(value, square, 0.008333049715)
    value = tl.fma(value, square, -0.1666665822)
    value = tl.fma(value, square, 1.0)
    value *= rest"""

HELPERS = {
    "tanh": '''\
@triton.jit
def tanh(x, factor, scale):
    """scale * tanh(x * factor); the absolute error of the tangent, from exp2, is below 2e-7."""
    y = x * (2.8853900817779268 * factor)
    e = tl.exp2(-tl.abs(y))
    t = (1.0 - e) / (1.0 + e)
    return tl.where(y < 0, -t, t) * scale
''',
    "sigmoid": '''\
@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x))."""
    return 1.0 / (1.0 + tl.exp2(-1.4426950408889634 * x))
''',
    "floor_div": '''\
@triton.jit
def floor_div(a, b):
    """Python's a // b; Triton's rounds toward zero."""
    quotient = a // b
    return tl.where((a % b != 0) & ((a < 0) != (b < 0)), quotient - 1, quotient)
''',
    "floor_mod": '''\
@triton.jit
def floor_mod(a, b):
    """Python's a % b; Triton's has the sign of a."""
    rest = a % b
    return tl.where((rest != 0) & ((rest < 0) != (b < 0)), rest + b, rest)
''',
    "bfloat16_parts": '''\
@triton.jit
def bfloat16_parts(x):
    """Three numbers that add up to x, the first one twice: as it is, and 0 if it is not finite.

    Infinity times 0 is NaN: what is not finite may meet the first part of another number only.
    """
    first = x.to(tl.bfloat16)
    known = tl.abs(first.to(tl.float32)) < float("inf")
    held = tl.where(known, first.to(tl.float32), 0.0)
    rest = tl.where(known, x - held, 0.0)
    second = rest.to(tl.bfloat16)
    third = (rest - second.to(tl.float32)).to(tl.bfloat16)
    return first, held.to(tl.bfloat16), second, third
''',
    "cos": _wave("cos", "cosine", _COSINE),
    "sin": _wave("sin", "sine", _SINE),
    "held_sum": _held("held_sum", "+"),
    "held_difference": _held("held_difference", "-"),
}
