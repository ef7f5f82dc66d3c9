"""Tokens in tile order: permutations and their inverses, and masks in either order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import flexdsl as fx
from flexdsl import stdlib


@st.composite
def orders(draw: st.DrawFn) -> fx.stdlib.TileOrder:
    shape = draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    dilation = [draw(st.sampled_from([1, 1, min(2, n), min(3, n)])) for n in shape]
    tile = [draw(st.integers(1, -(-n // d))) for n, d in zip(shape, dilation, strict=True)]
    return stdlib.TileOrder(shape, tile, dilation=dilation, extra=draw(st.integers(0, 3)))


@given(orders())
def test_undo_is_the_inverse_of_apply(order):
    tokens = int(np.prod(order.shape)) + order.extra
    x = np.arange(1, 2 * tokens + 1).reshape(2, tokens, 1)
    there = order.apply(x)
    assert there.shape == (2, order.length, 1)
    assert (order.undo(there) == x).all()
    assert sorted(there[0].ravel())[-tokens:] == list(range(1, tokens + 1))
    assert there.sum() == x.sum()  # padding is zero
    # What stands at a place is what the order says, by plain numbers.
    flat = order.apply(x[0, :, 0], dim=-1)
    for place in range(order.length):
        if order.has_token(place):
            assert flat[place] == 1 + order.original(place)
        else:
            assert flat[place] == 0
            assert 0 <= order.original(place) < tokens
    assert sum(bool(order.has_token(p)) for p in range(order.length)) == tokens


def test_a_tile_stands_together():
    order = stdlib.TileOrder((4, 6), (2, 3))
    rows = order.apply(np.arange(24), dim=0).reshape(4, 2, 3)
    assert rows[0].tolist() == [[0, 1, 2], [6, 7, 8]]
    assert rows[1].tolist() == [[3, 4, 5], [9, 10, 11]]
    assert rows[2].tolist() == [[12, 13, 14], [18, 19, 20]]
    assert [order.coordinates(p) for p in (0, 3, 6, 23)] == [(0, 0), (1, 0), (0, 3), (3, 5)]


def test_a_class_stands_together():
    order = stdlib.TileOrder((4, 6), (2, 3), dilation=(1, 2))
    rows = order.apply(np.arange(24), dim=0).reshape(4, 2, 3)
    assert rows[0].tolist() == [[0, 2, 4], [6, 8, 10]]
    assert rows[1].tolist() == [[12, 14, 16], [18, 20, 22]]
    assert rows[2].tolist() == [[1, 3, 5], [7, 9, 11]]
    assert [order.coordinates(p) for p in (0, 3, 6, 23)] == [(0, 0), (1, 0), (2, 0), (3, 5)]
    assert repr(order) == "TileOrder((4, 6), (2, 3), dilation=(1, 2))"


def test_gradients_go_through():
    order = stdlib.TileOrder((5, 7), (2, 4), dilation=(2, 1), extra=2)
    x = torch.randn(2, 3, 37, 4, requires_grad=True)
    weights = torch.randn(2, 3, order.length, 4)
    (order.apply(x) * weights).sum().backward()
    torch.testing.assert_close(x.grad, order.undo(weights))


GRIDS = [
    ((6, 8), (2, 4), 3),
    ((5, 7), (2, 4), (3, 4)),
    ((4, 3, 5), (2, 2, 2), (3, 2, 3)),
    (9, 4, 5),
]


def in_either_order(mask, order):
    """Hold a mask in order against the permuted dense one, and its plan against itself."""
    tokens = int(np.prod(order.shape))
    dense = fx.plan(mask, tokens, tokens).to_dense(tokens=True)[0, 0]
    expected = order.apply(order.apply(dense, dim=0), dim=1)
    moved = mask.in_order(order)
    n = order.length
    found = np.array([[bool(moved(0, 0, q, kv)) for kv in range(n)] for q in range(n)])
    planned = fx.plan(moved, n, n, tile=(8, 8)).to_dense(tokens=True)[0, 0]
    assert (planned == found).all()
    real = [p for p in range(n) if order.has_token(p)]
    assert (found[real] == expected[real]).all()
    assert not found[:, sorted(set(range(n)) - set(real))].any()


@pytest.mark.parametrize(("shape", "tile", "kernel"), GRIDS)
def test_a_mask_in_order_is_the_mask_of_the_permuted_tokens(shape, tile, kernel):
    order = stdlib.TileOrder([shape] if isinstance(shape, int) else shape, tile)
    in_either_order(stdlib.neighborhood(shape, kernel), order)


DILATED = {
    "window": (stdlib.dilated_window(9, 3), (24, 4, 3)),
    "window, padded": (stdlib.dilated_window(9, 3), (25, 4, 3)),
    "neighborhood": (stdlib.neighborhood((8, 12), 3, dilation=(2, 3)), ((8, 12), (4, 2), (2, 3))),
    "one axis": (stdlib.neighborhood((7, 9), 3, dilation=(1, 2)), ((7, 9), (4, 2), (1, 2))),
    "grid": (stdlib.grid_2d((8, 6), (4, 2)), ((8, 6), (4, 2), (2, 3))),
    "other classes": (stdlib.neighborhood((8, 12), 3), ((8, 12), (2, 2), (2, 3))),
    "video": (stdlib.neighborhood((4, 5, 6), 2, dilation=2), ((4, 5, 6), (2, 2, 3), 2)),
}


@pytest.mark.parametrize("name", DILATED)
def test_a_mask_in_an_order_of_classes(name):
    mask, (shape, tile, dilation) = DILATED[name]
    in_either_order(mask, stdlib.TileOrder(shape, tile, dilation=dilation))


def test_dilated_masks_have_fewer_live_tiles_in_an_order_of_classes():
    grid, window = stdlib.grid_2d((64, 64), (8, 8)), stdlib.dilated_window(512, 2)
    classes = stdlib.TileOrder((64, 64), 8, dilation=8), stdlib.TileOrder(4096, 128, dilation=2)
    plans = [
        [fx.plan(m, 4096, 4096, tile=(64, 64)) for m in (mask, mask.in_order(order))]
        for mask, order in zip((grid, window), classes, strict=True)
    ]
    (rows, tiles), (line, halves) = plans
    assert (rows.live_tiles, rows.full_tiles) == (512, 0)
    assert (tiles.live_tiles, tiles.full_tiles) == (64, 64)
    assert line.full_tiles == 0 and halves.full_tiles > 0.7 * halves.live_tiles
    assert halves.live_tiles < 0.6 * line.live_tiles
    assert halves.pairs == line.pairs and tiles.pairs == rows.pairs


def test_a_user_s_mask_in_grid_coordinates_is_analysed_in_either_order():
    place, order = stdlib.grid((12, 16)), stdlib.TileOrder((12, 16), (4, 4))

    @fx.mask_mod
    def near(b, h, q, kv):
        (row, column), (other_row, other_column) = place(q), place(kv)
        return abs(row - other_row) <= 1 and abs(column - other_column) <= 2

    moved = near.in_order(order)
    # What was flattened to an index is not taken apart again.
    row = "q // 64 * 4 + q % 16 // 4", "kv // 64 * 4 + kv % 16 // 4"
    column = "q // 16 % 4 * 4 + q % 4", "kv // 16 % 4 * 4 + kv % 4"
    rows, columns = (f"abs({a} - ({b}))" for a, b in (row, column))
    assert moved.expr is fx.parse(f"{rows} <= 1 and {columns} <= 2").expr
    dense = fx.plan(near, 192, 192).to_dense(tokens=True)[0, 0]
    found = fx.plan(moved, 192, 192, tile=(16, 16)).to_dense(tokens=True)[0, 0]
    assert (found == order.apply(order.apply(dense, dim=0), dim=1)).all()


def test_text_after_a_video_stays_after_it():
    order = stdlib.TileOrder((3, 4, 5), (2, 2, 2), extra=6)
    mask = stdlib.svg_hunyuan(3, 20, 4, 1, 4)  # 60 tokens of video, 4 of text, 2 of padding
    n = order.length
    assert n == 4 * 4 * 6 + 6
    moved = fx.plan(mask.in_order(order), n, n, tile=(8, 8)).to_dense(tokens=True)[0, 0]
    whole = fx.plan(mask, 66, 66).to_dense(tokens=True)[0, 0]
    expected = order.apply(order.apply(whole, dim=0), dim=1)
    real = [p for p in range(n) if order.has_token(p)]
    assert (moved[real] == expected[real]).all()
    q, k, v = (torch.randn(1, 2, 66, 8, dtype=torch.float64) for _ in range(3))
    found = fx.attention(*(order.apply(x) for x in (q, k, v)), mask=mask.in_order(order))
    torch.testing.assert_close(order.undo(found), fx.attention(q, k, v, mask=mask))


@pytest.mark.parametrize(("shape", "tile", "kernel"), GRIDS[1:3])
def test_attention_in_either_order_is_the_same(shape, tile, kernel):
    order = stdlib.TileOrder(shape, tile)
    mask, tokens = stdlib.neighborhood(shape, kernel), int(np.prod(shape))
    score = stdlib.spatial_distance(np.random.default_rng(0).normal(size=(tokens, 2)))
    q, k, v = (torch.randn(1, 2, tokens, 8, dtype=torch.float64) for _ in range(3))
    expected = fx.attention(q, k, v, mask=mask, score=score)
    inputs = [order.apply(x) for x in (q, k, v)]
    found = fx.attention(*inputs, mask=mask.in_order(order), score=score.in_order(order))
    torch.testing.assert_close(order.undo(found), expected)


def test_a_neighbourhood_has_fewer_live_tiles_in_tile_order():
    mask, order = stdlib.neighborhood((96, 96), 13), stdlib.TileOrder((96, 96), (8, 16))
    before, after = (fx.plan(m, 9216, 9216) for m in (mask, mask.in_order(order)))
    assert after.pairs == before.pairs == 9216 * 169
    assert after.density < 0.7 * before.density
    # Half of a whole tile is 7 positions away from the middle: more than the 6 of 13 x 13, so that
    # full tiles begin with a window of 31 columns.
    wide = fx.plan(stdlib.neighborhood((96, 96), 31).in_order(order), 9216, 9216)
    assert (wide.to_dense() == 2).any() and not (after.to_dense() == 2).any()


def test_a_sliding_tile_mask_is_a_strided_neighbourhood_in_tile_order():
    canvas, tile = (2, 6, 8), (1, 2, 2)
    order = stdlib.TileOrder(canvas, tile)
    tiles = stdlib.sliding_tile(canvas, (1, 3, 3), tile)
    plan = fx.plan(tiles, order.length, order.length, tile=(4, 4))
    assert not (plan.to_dense() == 1).any()
    # On the grid: a stride and a window of whole tiles.
    same = stdlib.neighborhood((6, 8), (6, 6), stride=(2, 2))
    n = 48
    flat = stdlib.TileOrder((6, 8), (2, 2))
    assert fx.plan(same.in_order(flat), n, n).pairs == plan.pairs / 2
