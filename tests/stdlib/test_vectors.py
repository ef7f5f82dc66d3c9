"""The variants against vectors that independent code computed from the papers' definitions.

Masks: the allowed keys of each query. Biases: (head, q, kv, what is added to the score).
"""

from __future__ import annotations

import numpy as np
import pytest

import flexdsl as fx
from flexdsl import stdlib

DOC = [0, 0, 0, 1, 1, 2, 2, 2, 2, 3]
OFFSETS = [0, 3, 5, 9, 10]


def upto(n: int) -> list[int]:
    return list(range(n))


MASKS = [
    (stdlib.causal(), 5, [upto(1), upto(2), upto(3), upto(4), upto(5)]),
    (stdlib.causal_bottom_right(3, 7), 7, [upto(5), upto(6), upto(7)]),
    # sq=6, sk=4: the first rows see nothing.
    (stdlib.causal_bottom_right(6, 4), 4, [[], [], upto(1), upto(2), upto(3), upto(4)]),
    (stdlib.sliding_window(1), 4, [[0], [1], [2], [3]]),
    (
        stdlib.sliding_window(3),
        8,
        [[0], [0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5], [4, 5, 6], [5, 6, 7]],
    ),
    (
        stdlib.attention_sink(2, 3),
        10,
        [
            [0],
            [0, 1],
            [0, 1, 2],
            [0, 1, 2, 3],
            [0, 1, 2, 3, 4],
            [0, 1, 3, 4, 5],
            [0, 1, 4, 5, 6],
            [0, 1, 5, 6, 7],
            [0, 1, 6, 7, 8],
            [0, 1, 7, 8, 9],
        ],
    ),
    (stdlib.attention_sink(0, 2), 4, [[0], [0, 1], [1, 2], [2, 3]]),
    (stdlib.prefix_lm(3), 7, [upto(3), upto(3), upto(3), upto(4), upto(5), upto(6), upto(7)]),
    (stdlib.prefix_lm(0), 3, [[0], [0, 1], [0, 1, 2]]),
    (stdlib.prefix_lm(9), 3, [upto(3)] * 3),
    (stdlib.document(DOC), 10, [[0, 1, 2]] * 3 + [[3, 4]] * 2 + [[5, 6, 7, 8]] * 4 + [[9]]),
    (
        stdlib.document_causal(DOC),
        10,
        [[0], [0, 1], [0, 1, 2], [3], [3, 4], [5], [5, 6], [5, 6, 7], [5, 6, 7, 8], [9]],
    ),
    (
        stdlib.document(DOC) & stdlib.sliding_window(2),
        10,
        [[0], [0, 1], [1, 2], [3], [3, 4], [5], [5, 6], [6, 7], [7, 8], [9]],
    ),
    (
        stdlib.document(DOC, within=stdlib.prefix_lm(2)),
        10,
        [
            [0, 1],
            [0, 1],
            [0, 1, 2],
            [3, 4],
            [3, 4],
            [5, 6],
            [5, 6],
            [5, 6, 7],
            [5, 6, 7, 8],
            [9],
        ],
    ),
]


def allowed(mask: fx.Mod, rows: int, keys: int, batch: int = 0) -> list[list[int]]:
    return [[kv for kv in range(keys) if mask(batch, 0, q, kv)] for q in range(rows)]


@pytest.mark.parametrize(("mask", "keys", "expected"), MASKS, ids=lambda x: getattr(x, "name", ""))
def test_masks(mask, keys, expected):
    assert allowed(mask, len(expected), keys) == expected
    # The traced expression, which kernels are made of, agrees with the function.
    again = fx.parse(mask.text).program
    assert again.expr is mask.expr


def test_documents_by_offsets_are_documents_by_ids():
    for variant in (stdlib.document, stdlib.document_causal):
        assert allowed(variant(offsets=OFFSETS), 10, 10) == allowed(variant(DOC), 10, 10)
    # An empty document between two others.
    assert allowed(stdlib.document(offsets=[0, 1, 1, 2]), 2, 2) == [[0], [1]]


def test_documents_of_each_batch():
    for array in (np.array([[0, 0, 1], [0, 1, 1]]), [[0, 0, 1], [0, 1, 1]]):
        mask = stdlib.document(array)
        assert allowed(mask, 3, 3, batch=0) == [[0, 1], [0, 1], [2]]
        assert allowed(mask, 3, 3, batch=1) == [[0], [1, 2], [1, 2]]
        assert allowed(stdlib.document_causal(array), 3, 3, batch=1) == [[0], [1], [1, 2]]


SLOPES = {
    1: [0.00390625],
    2: [0.0625, 0.00390625],
    6: [0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125],
    8: [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.00390625],
}


@pytest.mark.parametrize("heads", SLOPES)
def test_alibi_slopes(heads):
    slopes = stdlib.alibi_slopes(heads)
    assert slopes.dtype == np.float32
    np.testing.assert_array_equal(slopes, np.float32(SLOPES[heads]))


def test_alibi_slopes_of_twelve_heads_end_with_every_other_of_sixteen():
    expected = [0.7071067811865476, 0.3535533905932738, 0.1767766952966369, 0.08838834764831845]
    np.testing.assert_allclose(stdlib.alibi_slopes(12)[8:], expected, rtol=1e-7)


ALIBI = [
    (stdlib.alibi(8), [(0, 3, 0, -1.5), (0, 7, 7, 0.0), (7, 3, 0, -0.01171875)]),
    (stdlib.alibi(6), [(0, 3, 0, -0.75), (4, 3, 0, -1.5), (5, 7, 2, -0.625)]),
    (
        stdlib.alibi(6, rule="geometric"),
        [(0, 3, 0, -1.1905507889761497), (0, 0, 3, 1.1905507889761497), (5, 3, 0, -0.01171875)],
    ),
    # FlashAttention's with 3 queries and 5 keys: positions of queries begin at 2.
    (
        stdlib.alibi_bidirectional(4),
        [(0, 2, 0, -0.5), (0, 2, 2, 0.0), (0, 2, 4, -0.5), (0, 4, 0, -1.0), (2, 4, 0, -0.0625)],
    ),
    (stdlib.alibi(slopes=np.array([0.5, 1.5])), [(1, 4, 0, -6.0)]),
]


@pytest.mark.parametrize(("mod", "entries"), ALIBI)
def test_alibi(mod, entries):
    for h, q, kv, bias in entries:
        assert mod(0.0, 0, h, q, kv) == pytest.approx(bias, rel=1e-6)
        assert mod(3.0, 0, h, q, kv) == pytest.approx(3.0 + bias, rel=1e-6)


def test_softcap():
    mod = stdlib.softcap(50.0)
    points = [
        (-200.0, -49.966464986953355),
        (-50.0, -38.079707797788245),
        (-1.0, -0.9998666879965465),
        (0.0, 0.0),
        (3.0, 2.9964051764571753),
        (50.0, 38.079707797788245),
        (120.0, 49.18374288468401),
    ]
    for score, expected in points:
        assert mod(score, 0, 0, 0, 0) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stdlib.sliding_window(0), "keys_including_self is 0"),
        (lambda: stdlib.sliding_window(1.5), "keys_including_self is 1.5"),
        (lambda: stdlib.sliding_window(True), "keys_including_self is True"),
        (lambda: stdlib.attention_sink(-1, 3), "sinks is -1"),
        (lambda: stdlib.prefix_lm("3"), "prefix is '3'"),
        (lambda: stdlib.causal_bottom_right(3, 0), "kv_len is 0"),
        (lambda: stdlib.document(), "by ids or by offsets"),
        (lambda: stdlib.document(DOC, offsets=OFFSETS), "by ids or by offsets"),
        (lambda: stdlib.document([0.5, 1.5]), r"ids is float64 of shape \(2,\)"),
        (lambda: stdlib.document([[[0]]]), r"ids is int64 of shape \(1, 1, 1\)"),
        (lambda: stdlib.document([[0], [0, 1]]), "ids is a list"),
        (lambda: stdlib.document([]), "not empty"),
        (lambda: stdlib.document_causal(offsets=[0, 3, 2]), "must ascend from 0"),
        (lambda: stdlib.document_causal(offsets=[1, 3]), "must ascend from 0"),
        (lambda: stdlib.document([[0, 1]], within=stdlib.causal()), "one-dimensional ids"),
        (lambda: stdlib.alibi(), "a number of heads or slopes"),
        (lambda: stdlib.alibi(0), "heads is 0"),
        (lambda: stdlib.alibi(slopes=["steep"]), "slopes is a list"),
        (lambda: stdlib.alibi(8, rule="straight"), "no rule 'straight'"),
        (lambda: stdlib.softcap(0), "cap is 0"),
        (lambda: stdlib.softcap(float("nan")), "cap is nan"),
        (lambda: stdlib.softcap("50"), "cap is '50'"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(fx.errors.ArgumentError, match=message):
        call()
