"""Masks beyond the vectors: second definitions, invariants, and densities at the papers' sizes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flexdsl as fx
from flexdsl import stdlib


def dense(mask: fx.Mod, q_len: int, kv_len: int | None = None) -> np.ndarray:
    """The mask of batch 0 and head 0 by plain numbers: bool [q_len, kv_len]."""
    keys = range(kv_len or q_len)
    return np.array([[bool(mask(0, 0, q, kv)) for kv in keys] for q in range(q_len)])


def window(x: int, length: int, k: int, stride: int, dilation: int, causal: bool) -> list[int]:
    """What x sees on an axis of neighborhood attention, by the start and end of its window."""
    members = list(range(x % dilation, length, dilation))
    n, place = len(members), x // dilation
    if causal:
        leader = min(place // stride * stride + stride - 1, n - 1)
        return members[max(leader - k + 1, 0) : place + 1]
    leader = min(place // stride * stride + stride // 2, n - 1)
    left, right = k // 2, k // 2 + k % 2 - 1
    start = max(leader - left, 0) + (leader + right >= n) * (n - right - leader - 1)
    return members[start : start + k]


@st.composite
def axes(draw: st.DrawFn) -> tuple[int, int, int, int, bool]:
    length = draw(st.integers(2, 13))
    dilation = draw(st.integers(1, length // 2))
    k = draw(st.integers(2, length // dilation))
    return length, k, draw(st.integers(1, k)), dilation, draw(st.booleans())


@given(axes())
def test_neighborhoods_by_their_start(axis):
    length, k, stride, dilation, causal = axis
    mask = stdlib.neighborhood(length, k, stride=stride, dilation=dilation, causal=causal)
    found = dense(mask, length)
    for x in range(length):
        assert found[x].nonzero()[0].tolist() == window(x, *axis)
        assert causal or found[x].sum() == k


@given(axes(), axes())
def test_neighborhoods_are_products_of_their_axes(a, b):
    shape, k, stride, dilation, causal = zip(a, b, strict=True)
    mask = stdlib.neighborhood(shape, k, stride=stride, dilation=dilation, causal=causal)
    n = shape[0] * shape[1]
    by_axis = [
        np.array([[y in window(x, *axis) for y in range(axis[0])] for x in range(axis[0])])
        for axis in (a, b)
    ]
    assert (
        fx.plan(mask, n, n, tile=(16, 16)).to_dense(tokens=True)[0, 0] == np.kron(*by_axis)
    ).all()


def test_extra_keys_are_seen_by_all():
    mask = stdlib.neighborhood((3, 4), 3, extra=5)
    found = dense(mask, 12, 17)
    assert found[:, 12:].all()
    assert (found[:, :12] == dense(stdlib.neighborhood((3, 4), 3), 12)).all()


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.data())
def test_shifted_windows_by_rolling_the_image(size, down, across, data):
    shift = data.draw(st.integers(0, size - 1))
    shape = (size * down, size * across)
    mask = stdlib.shifted_window(shape, size, shift)
    if min(shape) <= size:
        shift = 0

    def part(x: int, n: int) -> int:
        return 0 if x < n - size else 1 if x < n - shift else 2

    def label(token: int) -> tuple[int, ...]:
        rolled = [(x - shift) % n for x, n in zip(divmod(token, shape[1]), shape, strict=True)]
        parts = [part(x, n) for x, n in zip(rolled, shape, strict=True)] if shift else []
        return (*(x // size for x in rolled), *parts)

    n = shape[0] * shape[1]
    labels = [label(t) for t in range(n)]
    assert (dense(mask, n) == [[a == b for b in labels] for a in labels]).all()


@given(st.integers(1, 9), st.integers(1, 9), st.booleans())
def test_radial_tokens_by_logarithms(frames, size, first):
    mask = stdlib.radial_token(frames, size, first_frame=first)
    for q, kv in np.ndindex(frames * size, frames * size):
        distance, k, m = abs(q // size - kv // size), q % size, kv % size
        power = 2 ** int(np.floor(np.log2(max(distance, 1))))
        near = power <= size and abs(k - m) + 1 <= size / power
        on_line = k == m and distance % int(np.ceil(power / size)) == 0
        assert mask(0, 0, q, kv) == (near or on_line or (first and kv < size))


RADIAL = [
    ((18 * 3840, 18 * 3840, 18, 0.2, "wan"), 0.28713),
    ((30 * 3840 + 256, 30 * 3840, 30, 0.95, "hunyuan"), 0.27785),
    ((128 * 3840 + 256, 128 * 3840, 128, 0.95, "hunyuan"), 0.11094),
]


@pytest.mark.parametrize(("video", "density"), RADIAL)
def test_density_of_radial_blocks(video, density):
    assert stdlib.radial_block_table(*video).mean() == pytest.approx(density, abs=5e-6)


def test_radial_blocks_of_frames_that_blocks_do_not_divide():
    table = stdlib.radial_block_table(1280, 1200, 6, 0.95, "hunyuan")
    assert table[0].nonzero()[0].tolist() == [0, 1, 2, 3, 4, 6, 7, 9]
    video = (18 * 128, 18 * 128, 18, 0.95, "hunyuan")
    table = stdlib.radial_block_table(*video)
    assert table[9].nonzero()[0].tolist() == [1, 5, 7, 8, 9, 10, 11, 13, 17]
    plan = fx.plan(stdlib.radial_blocks(*video), 18 * 128, 18 * 128).to_dense()[0, 0]
    assert (plan == 2 * table).all()  # each block is full or empty


TILES = {(3, 3, 3): 0.09, (3, 3, 5): 0.15, (5, 1, 10): 1 / 6, (1, 5, 7): 7 / 60, (5, 6, 1): 0.1}


@pytest.mark.parametrize("kernel", TILES)
def test_density_of_sliding_tiles(kernel):
    n = 30 * 48 * 80
    plan = fx.plan(stdlib.sliding_tile((30, 48, 80), kernel, even="left"), n, n)
    assert plan.pairs / n**2 == pytest.approx(TILES[kernel])
    assert plan.live_tiles * 128 * 128 == plan.pairs  # each tile is full or empty


def test_sliding_tiles_of_each_head():
    canvas, tile = (2, 6, 8), (1, 2, 2)
    kernels = [(1, 3, 3), (1, 1, 1), (2, 3, 4)]
    mask = stdlib.sliding_tile(canvas, kernels, tile, text=3, even="left")
    n = 2 * 6 * 8 + 4  # three of text, one of padding
    found = fx.plan(mask, n, n, heads=3, tile=(4, 4)).to_dense(tokens=True)[0]
    for head, kernel in enumerate(kernels):
        alone = stdlib.sliding_tile(canvas, kernel, tile, text=3, even="left")
        assert (found[head] == fx.plan(alone, n, n).to_dense(tokens=True)[0, 0]).all()


def test_densities_of_causal_block_masks():
    n = 32768
    power = fx.plan(stdlib.power_attention(256, 5, 1), n, n, tile=(256, 256))
    assert 1 - power.live_tiles / (128 * 129 / 2) == pytest.approx(0.8618, abs=5e-5)
    s2 = fx.plan(stdlib.strided_heads(64, 16, 16, 16), n, n, heads=16, tile=(64, 64)).to_dense()
    live = (s2[0] > 0).sum((1, 2)) / (512 * 513 / 2)
    assert live[[0, 5]] == pytest.approx([0.1219, 0.1193], abs=5e-5)
    assert (s2[0] > 0).any(axis=0).sum() == 512 * 513 / 2  # heads together see every block


def test_density_of_views_and_times():
    n = 4 * 16 * 128
    plan = fx.plan(stdlib.view_time(4, 16, 128), n, n)
    assert plan.pairs / n**2 == 0.296875 and not (plan.to_dense() == 1).any()
