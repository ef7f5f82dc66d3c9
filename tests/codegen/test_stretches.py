"""Loops through tiles that lie apart: which ones they visit, and what such kernels compute."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import flexdsl as fx
from flexdsl import stdlib
from flexdsl.analysis import make_plan
from flexdsl.codegen import KernelSpec, Role
from flexdsl.codegen.loops import KEYS, QUERIES, write_is_live, write_loops
from flexdsl.codegen.lower import Lowering, Scope
from flexdsl.codegen.writer import Block, Names
from support.fuzz import at_most
from support.masks import Shape, shapes
from support.on_ints import Functions, with_helpers
from tests.analysis.test_strided import ALL, strided
from tests.codegen.oracle import expect, expect_gradients


class Kernel:
    """The loops of a plan, as text that runs on ints.

    Attributes:
        given: names in it that are known before: of the outer tile, and parameters.
    """

    def __init__(self, plan: Any) -> None:
        self.plan = plan
        spec = KernelSpec(plan.mask, None, plan.closed_form, 16, 16)
        self.axis = KEYS if plan.outer == "q" else QUERIES
        self.outer = plan.outer
        taken = {"b", "h", "q_len", "kv_len", "q_offset", "BLOCK_M", "BLOCK_N", "visited"}
        self.lowering = Lowering(Names(taken), frozenset(), frozenset())
        known = {n: n for n in ("b", "h", self.outer, f"{self.outer}_first", f"{self.outer}_last")}
        self.block = Block()
        scope = Scope(self.block.block(), None, known)
        for loop in write_loops(self.axis, spec, self.lowering, scope, self.block):
            loop.body.line(f"visited.append(({self.axis.tile}, {loop.masked}))")
        scope = Scope(self.block.block(), None, known)
        with self.block.indented(f"for {self.axis.tile} in range(inner_tiles):") as body:
            live = write_is_live(self.axis, spec, self.lowering, scope)
            body.line(f"live.append(bool({live}))")
        text = str(self.block).replace(".to(tl.int32)", "")
        self.code = compile(text, "<loops>", "exec")
        self.helpers = with_helpers(self.lowering.helpers, "tl", Functions())

    def visited(self, h: int, tile: int) -> tuple[list[tuple[int, bool]], list[bool]]:
        """Tiles that an outer tile visits, and whether with the mask; what is called live."""
        plan, outer = self.plan, self.outer
        size = plan.tile_shape[0 if outer == "q" else 1]
        length = plan.q_len if outer == "q" else plan.kv_len
        first = plan.q_offset * (outer == "q")
        rows = first + np.minimum(np.arange(tile * size, tile * size + size), length - 1)
        given: dict[str, Any] = {"b": 0, "h": h, outer: rows, "visited": [], "live": []}
        given |= {f"{outer}_first": int(rows[0]), f"{outer}_last": int(rows[-1])}
        given |= {"q_len": plan.q_len, "kv_len": plan.kv_len, "q_offset": plan.q_offset}
        given |= dict(zip(("BLOCK_M", "BLOCK_N"), plan.tile_shape, strict=True))
        given["inner_tiles"] = plan.kv_tiles if outer == "q" else plan.q_tiles
        for argument in self.lowering.arguments.values():
            assert argument.role is Role.PARAMETER
            given[argument.name] = plan.mask.values[argument.of]
        exec(self.code, self.helpers | given)
        return given["visited"], given["live"]


@pytest.mark.parametrize("name", ALL)
@given(shapes(), st.integers(-3, 40), st.integers(2, 45), st.integers(0, 6), st.booleans())
@example(Shape(1, 19, (1, 4), 16), 0, 3, 0, True)  # of "first ones": rows of no interval
def test_each_live_tile_is_visited_once_and_no_other(name, shape, w, s, r, turned):
    plan = make_plan(
        strided(name, w, s, r).program(),
        shape.q_len,
        shape.kv_len,
        tile=shape.tile,
        q_offset=shape.q_offset,
        heads=3,
    )
    plan = plan.transposed() if turned else plan
    if plan.kind == "table":
        return
    kernel = Kernel(plan)
    states = plan.to_dense()[0]
    states = states.swapaxes(1, 2) if turned else states
    for h, tile in np.ndindex(states.shape[:2]):
        visited, live = kernel.visited(h, tile)
        tiles = sorted(j for j, _ in visited)
        np.testing.assert_array_equal(live, states[h, tile] > 0)
        assert tiles == np.flatnonzero(live).tolist()  # and none twice
        assert all(masked or states[h, tile, j] == 2 for j, masked in visited)


APART = {
    "strided": stdlib.strided(150),
    "strided, whole tiles": stdlib.strided(128),
    "later keys too": fx.mask_mod(lambda b, h, q, kv: (q - kv + 7) % 111 < 3),
    "window": fx.mask_mod(lambda b, h, q, kv: q >= kv and q - kv < 170 and (q - kv) % 101 == 0),
    "sums": fx.mask_mod(lambda b, h, q, kv: (q + kv) % 133 == 4),
    "heads": stdlib.strided_heads(8, 5, 21, 4),
    "dense heads": stdlib.strided_heads(16, 2, 9, 4, kv_heads=2, dense_heads=1, offset=3),
    "summaries": stdlib.sparse_fixed(120, 6, 3),
    "class token": stdlib.timesformer_spatial(113),
    "by head": fx.mask_mod(lambda b, h, q, kv: kv <= q and (kv + 30 * h) % 90 < 11),
    "rows without keys": fx.mask_mod(lambda b, h, q, kv: kv < q - 30 and kv % 140 == 9),
}


@pytest.mark.parametrize("name", APART)
def test_kernels_that_go_through_tiles_apart(name: str) -> None:
    plan = fx.plan(APART[name], 210, 300, tile=(32, 32), heads=4)
    assert plan.kind == "closed-form"
    expect(APART[name], q_len=210, kv_len=300, head_dim=16, value_dim=16)
    expect(APART[name], q_len=90, kv_len=310, head_dim=16, value_dim=16, q_offset=201)
    expect_gradients(APART[name], q_len=210, kv_len=170, head_dim=16, value_dim=16)


@at_most(100)  # each runs kernels in the interpreter
@given(
    st.sampled_from(sorted(ALL)),
    *(st.integers(1, 140), st.integers(1, 140), st.integers(0, 90)),
    *(st.integers(0, 150), st.integers(2, 150), st.integers(0, 6)),
)
def test_drawn_strides(name, q_len, kv_len, q_offset, w, s, r):
    drawn = fx.mask_mod(partial(ALL[name], w=w, s=s, r=r))
    q, k, v = (torch.randn(1, 3, n, 16) for n in (q_len, kv_len, kv_len))
    found, wanted = (
        fx.attention(q, k, v, mask=drawn, q_offset=q_offset, backend=backend)
        for backend in ("triton", "reference")
    )
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=2e-5)
