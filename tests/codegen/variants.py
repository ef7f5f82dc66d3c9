"""The mods whose kernels are golden files, are executed, and are compiled for every target.

One for each way that a kernel can look: loops from formulas with one interval and with several,
from the ends of rows, from a table, no mask; scores with and without captures; helpers for `//`,
`%` and tanh.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import flexdsl as fx
from flexdsl import stdlib
from flexdsl.mod import Mod

HEADS, LENGTH = 4, 96
_DOCUMENT = np.repeat(np.arange(6, dtype=np.int32), 16)
_OFFSETS = [0, 13, 14, 45, 45, 96]
_SLOPES = np.array([0.5, 0.25, 0.125, 0.0625], np.float32)
_TABLE = np.linspace(-1.0, 1.0, HEADS * 2 * LENGTH, dtype=np.float32).reshape(HEADS, 2 * LENGTH)
_FACTORS = np.random.default_rng(1).normal(size=(2, HEADS, LENGTH)).astype(np.float32)


@dataclass(frozen=True)
class Variant:
    """A mask and a score modification with the head dimensions that its golden file has."""

    mask: Mod | None = None
    score: Mod | None = None
    head_dim: int = 64
    value_dim: int = 64


def _sliding(keys: int) -> Mod:
    return fx.mask_mod(lambda b, h, q, kv: q >= kv and q - kv < keys)


def _sinks(sinks: int, keys: int) -> Mod:
    return fx.mask_mod(lambda b, h, q, kv: q >= kv and (kv < sinks or q - kv < keys))


def _document(ids: np.ndarray) -> Mod:
    return fx.mask_mod(lambda b, h, q, kv: ids[q] == ids[kv] and q >= kv)


def _grid(width: int, reach: int) -> Mod:
    def near(b, h, q, kv):
        return abs(q // width - kv // width) <= reach and abs(q % width - kv % width) <= reach

    return fx.mask_mod(near)


def _dilated(step: int) -> Mod:
    return fx.mask_mod(lambda b, h, q, kv: (q - kv) % step == 0 and abs(q - kv) < 5 * step)


def _per_head(keys: int) -> Mod:
    return fx.mask_mod(lambda b, h, q, kv: q >= kv and q - kv < keys * (h + 1))


def _alibi(slopes: np.ndarray) -> Mod:
    return fx.score_mod(lambda score, b, h, q, kv: score + slopes[h] * (kv - q))


def _softcap(cap: float) -> Mod:
    return fx.score_mod(lambda score, b, h, q, kv: cap * fx.tanh(score / cap))


def _relative(table: np.ndarray, shift: int) -> Mod:
    return fx.score_mod(lambda score, b, h, q, kv: score + table[h, q - kv + shift])


def _decay(slopes: np.ndarray) -> Mod:
    """A table of q - kv for each head."""
    return fx.score_mod(lambda s, b, h, q, kv: s * (1.0 - fx.tanh(slopes[h] * abs(q - kv))))


def _products(x: np.ndarray, y: np.ndarray) -> Mod:
    """Two products: of one the numbers of the rows, of the other those of the keys, by head."""
    return fx.score_mod(
        lambda s, b, h, q, kv: s + x[h, q] * y[0, kv] - 0.5 * x[0, q] * y[h, kv] + y[1, kv]
    )


CAUSAL = fx.mask_mod(lambda b, h, q, kv: q >= kv)

VARIANTS: dict[str, Variant] = {
    "full": Variant(),
    "causal": Variant(CAUSAL),
    "causal_192_128": Variant(CAUSAL, None, 192, 128),
    "sliding_window": Variant(_sliding(20)),
    "sinks": Variant(_sinks(4, 16)),
    "prefix": Variant(fx.mask_mod(lambda b, h, q, kv: kv < 20 or q >= kv)),
    "document": Variant(_document(_DOCUMENT)),
    "packed": Variant(stdlib.document(offsets=_OFFSETS)),
    "packed_causal": Variant(stdlib.document_causal(offsets=_OFFSETS)),
    "neighborhood": Variant(_grid(8, 1)),
    "dilated": Variant(_dilated(3)),
    "strided": Variant(stdlib.strided(300)),
    "strided_heads": Variant(stdlib.strided_heads(4, 3, 5, HEADS)),
    "per_head_window": Variant(_per_head(7)),
    "nothing": Variant(fx.mask_mod(lambda b, h, q, kv: False)),
    "later_keys_only": Variant(fx.mask_mod(lambda b, h, q, kv: kv > q + 10)),
    "alibi": Variant(CAUSAL, _alibi(_SLOPES)),
    "softcap": Variant(_sliding(30), _softcap(20.0)),
    "relative_bias": Variant(None, _relative(_TABLE, LENGTH), 96, 48),
    "products": Variant(CAUSAL, _products(_FACTORS[0], _FACTORS[1])),
    "decay": Variant(CAUSAL, _decay(_SLOPES)),
    "masking_score": Variant(
        None, fx.score_mod(lambda s, b, h, q, kv: s if q >= kv else -float("inf"))
    ),
}

# Scores that are a tangent times a number: below 0, 0, none, and another one for each head.
TANGENTS: dict[str, Mod] = {
    "negative": _softcap(-3.0),
    "nought": fx.score_mod(lambda score, b, h, q, kv: 0.0 * fx.tanh(score)),
    "plain": fx.score_mod(lambda score, b, h, q, kv: fx.tanh(score * score - 1.0)),
    "of each head": fx.score_mod(lambda score, b, h, q, kv: fx.tanh(score / 2) * _SLOPES[h]),
}

# Scores whose softmax needs no maximum where weights are bfloat16: up to the largest such numbers.
BOUNDED: dict[str, Mod] = {
    "softcap": _softcap(20.0),
    "negative": TANGENTS["negative"],
    "nought": TANGENTS["nought"],
    "of wide range": fx.score_mod(lambda score, b, h, q, kv: 51.0 * fx.tanh(score)),
    "clamped": fx.score_mod(lambda score, b, h, q, kv: fx.minimum(fx.maximum(score, -1.0), 2.0)),
    "with a bias": fx.score_mod(lambda s, b, h, q, kv: 9.0 * fx.tanh(s) + 0.01 * (kv - q)),
}
