"""One clear error for each wrong argument: it names the parameter and the rule."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import flexdsl as fx
from flexdsl import stdlib

DOC = [0, 0, 0, 1]
ZEROS = np.zeros((4, 4), np.float32)

CALLS = [
    (lambda: stdlib.sliding_window(0), "keys_including_self is 0"),
    (lambda: stdlib.sliding_window(1.5), "keys_including_self is 1.5"),
    (lambda: stdlib.sliding_window(True), "keys_including_self is True"),
    (lambda: stdlib.attention_sink(-1, 3), "sinks is -1"),
    (lambda: stdlib.prefix_lm("3"), "prefix is '3'"),
    (lambda: stdlib.causal_bottom_right(3, 0), "kv_len is 0"),
    (lambda: stdlib.flash_window(3, 3, -2, 0), "left is -2"),
    (lambda: stdlib.document(), "by ids or by offsets"),
    (lambda: stdlib.document(DOC, offsets=[0, 4]), "by ids or by offsets"),
    (lambda: stdlib.document([0.5, 1.5]), r"ids is float64 of shape \(2,\)"),
    (lambda: stdlib.document([[[0]]]), r"ids is int32 of shape \(1, 1, 1\)"),
    (lambda: stdlib.document([[0], [0, 1]]), "ids is a list"),
    (lambda: stdlib.document([]), "not empty"),
    (lambda: stdlib.document_causal(offsets=[0, 3, 2]), "must ascend from 0"),
    (lambda: stdlib.document_causal(offsets=[1, 3]), "must ascend from 0"),
    (lambda: stdlib.document(offsets=[0, 0]), "must ascend from 0"),
    (lambda: stdlib.document(offsets=[0, 3], length=2), "offsets end at 3, but length is 2"),
    (lambda: stdlib.document(offsets=[0, 3], length=0), "length is 0"),
    (lambda: stdlib.document(DOC, length=4), "length= is for documents by offsets"),
    (lambda: stdlib.document_causal(DOC, length=4), "length= is for documents by offsets"),
    (lambda: stdlib.document([[0, 1]], within=stdlib.causal()), "one-dimensional ids"),
    (lambda: stdlib.shared_prefix([2, 3], [0]), "prefix_of is .*2 integers"),
    (lambda: stdlib.shared_prefix([2, 3], [1, 1]), "must not come after its user"),
    (lambda: stdlib.flamingo([[0, 1, 2]], 2), r"intervals has shape \(1, 3\)"),
    (lambda: stdlib.tree([-1, 1]), r"parents\[1\] is 1"),
    (lambda: stdlib.tree([]), "parents is empty"),
    (lambda: stdlib.medusa_parents([[0], [1, 0]]), r"\(1, 0\), that is no child"),
    (lambda: stdlib.medusa_parents([[0], [0]]), "repeated"),
    (lambda: stdlib.longformer(2, global_tokens=[0, 1]), "global_tokens is int32"),
    (lambda: stdlib.sparse_fixed(4, 3, 2), "summary \\* patterns is 6"),
    (lambda: stdlib.bigbird([[0], [1]]), "at least 3"),
    (lambda: stdlib.strided_heads(1, 2, 4, 6, kv_heads=4), "does not divide heads, 6"),
    (lambda: stdlib.strided_heads(1, 2, 4, 4, dense_heads=5), "dense_heads is 5"),
    (lambda: stdlib.elastic_window([1], [2, 3]), r"local_blocks has shape \(2,\)"),
    (lambda: stdlib.moa_spans([0.0], [0.1, 0.2], 64), r"beta has shape \(2,\)"),
    # A window larger than the grid; an even kernel where odd is meant; tiles that do not divide.
    (lambda: stdlib.neighborhood((8, 4), 5), "axis 1 has 4 tokens, kernel 5"),
    (lambda: stdlib.neighborhood(8, 3, dilation=3), "axis 0 has 8 tokens, kernel 3, dilation 3"),
    (lambda: stdlib.neighborhood(8, 3, stride=4), "stride 4"),
    (lambda: stdlib.neighborhood(8, 1), r"kernel\[0\] is 1|kernel is 1"),
    (lambda: stdlib.neighborhood((8, 8), (3, 3, 3)), "kernel is .*2 integers"),
    (lambda: stdlib.neighborhood((8, 8), 3, causal=(True,)), "causal is .*2 bools"),
    (lambda: stdlib.neighborhood((2, 2, 2, 2), 2), "1 to 3 axes"),
    (lambda: stdlib.sliding_tile((5, 8, 8), (1, 1, 1)), r"tile\[0\] is 6.*canvas\[0\], 5"),
    (lambda: stdlib.sliding_tile((6, 8, 8), (1, 1, 3)), r"kernel is \[3\] on axis 2.*1 to 1"),
    (lambda: stdlib.sliding_tile((6, 32, 8), (1, 2, 1)), "kernel is even on axis 1"),
    (lambda: stdlib.sliding_tile((6, 32, 8), (1, 2, 1), even="x"), "there is no even 'x'"),
    (lambda: stdlib.window_2d((7, 8), 4), r"window is 4, which does not divide shape\[0\], 7"),
    (lambda: stdlib.grid_2d((8, 7), 2), r"tokens is 2, which does not divide shape\[1\], 7"),
    (lambda: stdlib.shifted_window((6, 9), 4), r"window is 4, which does not divide shape\[0\], 6"),
    (lambda: stdlib.shifted_window((8, 8), 4, 4), "shift is 4"),
    (lambda: stdlib.radial_blocks(64, 60, 7, 0.2, "wan", 4), "video is 60"),
    (lambda: stdlib.radial_blocks(64, 60, 6, 0.2, "sora", 4), "there is no model 'sora'"),
    (lambda: stdlib.svg_wan(5, -1), "frames_wide is -1"),
    (lambda: stdlib.block_table([[0, 1]]), "table is int32"),
    (lambda: stdlib.block_table([[True]], (1, 2, 3)), "block is .*2 integers"),
    (lambda: stdlib.alibi(), "a number of heads or slopes"),
    (lambda: stdlib.alibi(0), "heads is 0"),
    (lambda: stdlib.alibi(slopes=["steep"]), "slopes is a list"),
    (lambda: stdlib.alibi(8, rule="straight"), "no rule 'straight'"),
    (lambda: stdlib.softcap(0), "cap is 0"),
    (lambda: stdlib.softcap(float("nan")), "cap is nan"),
    (lambda: stdlib.softcap("50"), "cap is '50'"),
    (lambda: stdlib.t5_bias(np.zeros((30, 2))), "buckets is 30"),
    (lambda: stdlib.t5_buckets(32, 8), "max_distance is 8"),
    (lambda: stdlib.swin_bias(ZEROS, 2), r"table has shape \(4, 4\), but it must be \[9, any\]"),
    (lambda: stdlib.sandwich(4, 7), "dim is 7"),
    (lambda: stdlib.spatial_distance(ZEROS, ZEROS[:, :2]), r"keys has shape \(4, 2\)"),
    (lambda: stdlib.ipa_points([[[[0, 0]]]], [[[[0, 0]]]], [1.0]), r"q_points has shape"),
    (lambda: stdlib.dual_chunk_bias(ZEROS, 4, 1), r"table has shape \(4, 4\)"),
    (lambda: stdlib.dual_chunk_bias(ZEROS, 3, 3), "local is 3"),
    (lambda: stdlib.retention(), "heads or decays"),
    (lambda: stdlib.learned_bias(ZEROS, "hz"), "axes is 'hz'"),
    (lambda: stdlib.learned_bias(ZEROS, "hr"), "axis r of table has 4 entries"),
    (lambda: stdlib.learned_bias(ZEROS, "h"), "1-dimensional"),
    (lambda: stdlib.lowrank_bias(ZEROS, ZEROS[:, :2]), r"k_factors has shape \(4, 2\)"),
    (lambda: stdlib.approximate(ZEROS), "a rank or an energy"),
    (lambda: stdlib.approximate(ZEROS, rank=5), "rank is 5"),
    (lambda: stdlib.approximate(ZEROS, energy=1.5), "energy is 1.5"),
    (lambda: stdlib.TileOrder((8, 8), 16), r"tile\[0\] is 16, but the grid has 8"),
    (lambda: stdlib.TileOrder((8, 8), (2, 2, 2)), "tile is .*2 integers"),
    (lambda: stdlib.TileOrder((8, 8), 1, dilation=9), r"dilation\[0\] is 9, but the grid has 8"),
    (lambda: stdlib.TileOrder((8, 8), 2, dilation=(2, 0)), r"dilation\[1\] is 0"),
    (
        lambda: stdlib.TileOrder((8, 9), 4, dilation=(2, 3)),
        r"tile\[1\] is 4, but the grid has 3 tokens of each of 3 classes there",
    ),
    (lambda: stdlib.TileOrder((8, 8), 4).apply(np.zeros((60, 2))), "must have 64 entries"),
    (lambda: stdlib.TileOrder((7, 8), 4).undo(np.zeros((56, 2))), "must have 64 entries"),
    (lambda: stdlib.grid((0, 3)), r"shape\[0\] is 0"),
]


@pytest.mark.parametrize(("call", "message"), CALLS)
def test_bad_arguments(call, message):
    with pytest.raises(fx.errors.ArgumentError, match=message):
        call()


# Heads and lengths are known when attention is called: 6 heads, 8 tokens.
OF_THE_CALL = [
    ({"score": stdlib.alibi(4)}, r"slope has 4 .* element 5 is read(\n.*)*each head .* has 6"),
    ({"score": stdlib.retention(4)}, "gamma has 4 elements"),
    ({"score": stdlib.learned_bias(ZEROS, "hq")}, "biases has 4 elements"),
    ({"mask": stdlib.elastic_window([1, 1], [1, 2], 4)}, "sinks has 2 elements"),
    ({"mask": stdlib.document(DOC)}, "doc has 4 elements along dimension 0, but element 7 is"),
    ({"mask": stdlib.document_causal(DOC)}, "doc has 4 elements"),
    ({"mask": stdlib.document_causal(offsets=[0, 3, 5])}, "first has 5 elements"),
]


@pytest.mark.parametrize(("mods", "message"), OF_THE_CALL)
def test_what_is_too_short_for_the_call(mods, message):
    import torch

    q, k, v = (torch.randn(1, 6, 8, 16) for _ in range(3))
    with pytest.raises(fx.errors.IndexRangeError, match=message):
        fx.attention(q, k, v, **mods)


OF_MORE_HEADS = [
    ({"score": stdlib.alibi(8)}, "slope, which alibi captures, has 8 entries .* 6 query heads"),
    ({"score": stdlib.retention(7)}, "gamma, .* has 7 entries along dimension 0"),
    ({"score": stdlib.T5RelativeBias(8)}, "has 8 entries along dimension 1"),
    ({"mask": stdlib.elastic_window([1] * 8, [2] * 8, 4)}, "sinks, .* has 8 entries"),
]


@pytest.mark.parametrize(("mods", "message"), OF_MORE_HEADS)
def test_what_is_of_more_heads_than_the_call(mods, message):
    import torch

    q, k, v = (torch.randn(1, 6, 8, 16) for _ in range(3))
    with pytest.warns(fx.errors.HeadsWarning, match=message):
        fx.attention(q, k, v, **mods)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fx.attention(q, k, v, score=stdlib.alibi(6))
        fx.attention(q, k, v, score=stdlib.alibi(slopes=stdlib.alibi_slopes(8)[:6]))
