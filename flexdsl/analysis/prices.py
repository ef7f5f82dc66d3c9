"""What an operation of a pair costs beside the others: an addition is 1.

Rough, and the same for all GPUs: it tells what is worth doing otherwise, not how long it takes. A
multiprocessor of compute capability 9.0 has 128 additions or multiply-adds of float32 a clock, and
16 exponentials of base 2 (CUDA C++ Programming Guide, "Arithmetic Instructions"), each with one
multiplication for its base: 8 or 9 additions by throughput. They run in a unit of their own beside
the others, and count for half of that: retention's decay, an exponential and operations for 7,
took as long as a load forward, 11, and less backward (H200, torch 2.11.0+cu130, triton 3.6.0,
2026-11-26). The other functions are made of several instructions; tanh, of an exponential, a
division and some more.
"""

from __future__ import annotations

from flexdsl.ir import Op

_PRICES = {
    **dict.fromkeys((Op.TO_FLOAT, Op.TO_INDEX), 2),
    **dict.fromkeys((Op.EXP, Op.EXP2), 4),
    **dict.fromkeys((Op.DIV, Op.FLOORDIV, Op.MOD, Op.SQRT, Op.RSQRT, Op.LOAD), 8),
    **dict.fromkeys((Op.LOG, Op.LOG2, Op.SIN, Op.COS, Op.TANH, Op.SIGMOID), 20),
}


def price_of(op: Op) -> int:
    """The price of one operation."""
    return _PRICES.get(op, 1)
