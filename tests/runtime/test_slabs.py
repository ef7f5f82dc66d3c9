"""How plans are cut: every row once, every live key, the mask where it is needed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import flexdsl as fx
from flexdsl import stdlib
from flexdsl.runtime import slabs
from support.calls import MASKS


@given(
    st.sampled_from(list(MASKS)),
    st.integers(0, 2),
    st.integers(1, 2),
    st.integers(1, 3),
    st.integers(0, 40),
    st.integers(0, 40),
    st.sampled_from([1, 100, 5000]),
)
def test_slabs_cover_the_plan(name, batch, kv_heads, group, q_len, kv_len, budget):
    heads = kv_heads * group
    plan = fx.plan(MASKS[name], q_len, kv_len, batch=batch, heads=heads, tile=(16, 8))
    rows = np.zeros((batch * kv_heads, group, q_len), int)
    seen = np.zeros((batch * kv_heads, group, q_len, kv_len), int)
    masked = np.zeros_like(seen)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slabs, "SLAB_SCORES", budget)
        patch.setattr(slabs, "LEAST_ROWS", 2)
        for slab in slabs.slabs(plan, batch, kv_heads, group):
            index = slab.heads, slab.groups, slab.rows
            rows[index] += 1
            keys = np.concatenate([np.arange(0), *(np.r_[s] for s in slab.keys.segments)])
            assert len(keys) == slab.keys.count
            for segment in slab.keys.segments:
                seen[(*index, segment)] += 1
            for columns in slab.keys.partial:
                for key in keys[columns]:
                    masked[(*index, key)] += 1
    assert (rows == 1).all() and seen.max(initial=0) <= 1 and (masked <= seen).all()
    allowed = plan.to_dense(tokens=True).reshape(seen.shape)
    assert (seen[allowed] == 1).all(), "an allowed key is missing"
    assert allowed[(seen == 1) & (masked == 0)].all(), "an excluded key is not masked"


def test_neighbouring_runs_are_joined():
    plan = fx.plan("q >= kv and q - kv < 40", 64, 64, tile=(16, 8))
    keys = slabs.live_keys(plan, 0, 0, 3)
    assert keys.segments == (slice(8, 64),) and keys.count == 56
    assert keys.partial == (slice(0, 16), slice(40, 56))


def test_a_wide_slab_takes_fewer_rows_and_heads(monkeypatch):
    monkeypatch.setattr(slabs, "SLAB_SCORES", 64 * 32)
    plan = fx.plan(None, 64, 256, tile=(64, 64))
    found = list(slabs.slabs(plan, 1, 4, 1))
    assert len(found) == 4 * 4 and all(s.rows.stop - s.rows.start == 16 for s in found)
    assert [s.heads for s in found[::4]] == [slice(n, n + 1, 1) for n in range(4)]


CHOSEN = np.random.default_rng(0).random((5, 6)) < 0.4


@pytest.mark.parametrize(
    ("mask", "q_offset", "tile"),
    [
        (None, 0, (128, 128)),
        (stdlib.causal(), 0, (128, 128)),
        (stdlib.block_table(CHOSEN, 64), 0, (64, 64)),
        (stdlib.block_table(CHOSEN, (64, 128)) & stdlib.causal(), 0, (64, 128)),
        (stdlib.block_table(CHOSEN, 64), 128, (64, 64)),
        (stdlib.block_table(CHOSEN, 64), 32, (128, 128)),
        (stdlib.block_table(CHOSEN, 32), 0, (128, 128)),
        (stdlib.block_table(CHOSEN, 256), 0, (128, 128)),
    ],
)
def test_blocks_that_tables_choose_are_tiles(mask, q_offset, tile):
    q, k, v = (torch.randn(1, 2, length, 8) for length in (100, 150, 150))
    assert slabs.tile_for(None if mask is None else mask.program, q_offset) == tile
    words = f"in {tile[0]} x {tile[1]} tiles"
    assert words in fx.explain(q, k, v, mask=mask, q_offset=q_offset, backend="cpu")
    found, wanted = (
        fx.attention(q, k, v, mask=mask, q_offset=q_offset, backend=backend)
        for backend in ("cpu", "reference")
    )
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)
