"""Hopper's kernels where captured tensors choose blocks of 64 tokens, on such a GPU.

Against dense attention in float64, whose mask is the table with its elements repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor

import flexdsl as fx
from flexdsl import stdlib
from tests.codegen.test_hopper import DIMS, HALF_CUDA, HALVES
from tests.codegen.test_hopper_bits import expect_the_same_bits

MOST = {torch.float16: 4e-3, torch.bfloat16: 2e-2}  # of an output's error
HEADS, BLOCK = 4, 64
SKIPS = "its consumers skip tiles that have no pair for their own 64 rows"


@dataclass(frozen=True)
class Inputs:
    """A call's tensors and its table [heads, q blocks, kv blocks]."""

    q: Tensor
    k: Tensor
    v: Tensor
    table: Tensor
    q_offset: int
    causal: bool

    def mask(self) -> fx.Mod:
        mask = stdlib.block_table(self.table, BLOCK)
        return mask & stdlib.causal() if self.causal else mask

    def allowed(self) -> Tensor:
        """bool [heads, q, kv]."""
        first, rows, keys = self.q_offset, self.q.shape[2], self.k.shape[2]
        found = self.table.repeat_interleave(BLOCK, 1).repeat_interleave(BLOCK, 2)
        found = found[:, first : first + rows, :keys]
        if not self.causal:
            return found
        q, kv = torch.arange(rows, device="cuda") + first, torch.arange(keys, device="cuda")
        return found & (q[:, None] >= kv)


def inputs_of(
    dims: tuple[int, int],
    dtype: torch.dtype,
    lengths: tuple[int, int, int],
    kv_heads: int = HEADS,
    causal: bool = False,
) -> Inputs:
    """Random ones; three blocks of ten are allowed, and in the second row of blocks none."""
    (dim, value_dim), (q_len, kv_len, q_offset) = dims, lengths
    generator = torch.Generator("cuda").manual_seed(q_len + dim)
    draw = partial(torch.randn, generator=generator, device="cuda", dtype=dtype)
    blocks = HEADS, -(-(q_len + q_offset) // BLOCK), -(-kv_len // BLOCK)
    table = torch.rand(blocks, generator=generator, device="cuda") < 0.3
    table[:, 1] = False
    q = draw(2, HEADS, q_len, dim)
    k, v = draw(2, kv_heads, kv_len, dim), draw(2, kv_heads, kv_len, value_dim)
    return Inputs(q, k, v, table, q_offset, causal)


def dense(given: Inputs) -> tuple[Tensor, Tensor]:
    """Output and logsumexp in float64."""
    group = given.q.shape[1] // given.k.shape[1]
    k, v = (x.double().repeat_interleave(group, 1) for x in (given.k, given.v))
    scores = given.q.double() @ k.transpose(2, 3) * given.q.shape[3] ** -0.5
    scores = scores.masked_fill(~given.allowed(), -torch.inf)
    return scores.softmax(-1).nan_to_num(0.0) @ v, scores.logsumexp(-1)


def attention(given: Inputs, mask: fx.Mod | None = None) -> tuple[Tensor, Tensor]:
    """Output and logsumexp of the kernel."""
    options = {"q_offset": given.q_offset, "return_lse": True, "backend": "hopper"}
    mask = given.mask() if mask is None else mask
    return fx.attention(given.q, given.k, given.v, mask=mask, **options)


def expect(given: Inputs, mask: fx.Mod | None = None) -> Tensor:
    """Hold the kernel against the dense oracle; its output."""
    (out, lse), (wanted, wanted_lse) = attention(given, mask), dense(given)
    alive = wanted_lse.isfinite()
    assert torch.equal(lse.isfinite(), alive) and not out[~alive].any()
    assert (out.double() - wanted).abs().max() < MOST[out.dtype]
    assert (lse.double() - wanted_lse)[alive].abs().max() < 1e-2
    return out


LENGTHS = [(512, 512, 0), (300, 700, 0), (1000, 2100, 64)]


@pytest.mark.gpu
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("dims", DIMS, ids=str)
def test_output_of_block_tables(
    dims: tuple[int, int], dtype: torch.dtype, lengths: tuple[int, int, int], causal: bool
) -> None:
    """The same bits every time, whichever programs take which works."""
    for kv_heads in (HEADS, 2):
        given = inputs_of(dims, dtype, lengths, kv_heads, causal)
        mask = given.mask()
        first = expect(given, mask)
        for _ in range(20):
            assert torch.equal(attention(given, mask)[0], first)


@pytest.mark.gpu
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("dim", [64, 96, 128, 256])
def test_gradients_of_block_tables(
    dim: int, dtype: torch.dtype, lengths: tuple[int, int, int], causal: bool
) -> None:
    """Those of keys and values have the same bits every time."""
    for kv_heads in (HEADS, 2):
        given = inputs_of((dim, dim), dtype, lengths, kv_heads, causal)
        d_out = torch.randn_like(given.q)
        leaves = [x.requires_grad_() for x in (given.q, given.k, given.v)]
        out, _ = attention(given)
        first = torch.autograd.grad(out, leaves, d_out, retain_graph=True)
        for found, exact in zip(first, dense_gradients(given, d_out), strict=True):
            error = (found.cpu().double() - exact).norm() / exact.norm()
            assert error < (4e-3 if dtype is torch.float16 else 2e-2)
        for _ in range(5):
            again = torch.autograd.grad(out, leaves, d_out, retain_graph=True)
            assert all(map(torch.equal, again[1:], first[1:]))


def dense_gradients(given: Inputs, d_out: Tensor) -> tuple[Tensor, ...]:
    """Those of q, k and v in float64, on the CPU; a row without a key has an output of 0."""
    leaves = [x.detach().cpu().double().requires_grad_() for x in (given.q, given.k, given.v)]
    group = given.q.shape[1] // given.k.shape[1]
    q, k, v = leaves[0], *(x.repeat_interleave(group, 1) for x in leaves[1:])
    allowed = given.allowed().cpu()
    scores = (q @ k.transpose(2, 3) * q.shape[3] ** -0.5).masked_fill(~allowed, -1e30)
    return torch.autograd.grad((scores.softmax(-1) * allowed) @ v, leaves, d_out.cpu().double())


@pytest.mark.gpu
@pytest.mark.parametrize("dims", DIMS, ids=str)
def test_which_block_tables_are_skipped(dims: tuple[int, int]) -> None:
    given = inputs_of(dims, torch.float16, (512, 512, 0))
    tensors = given.q, given.k, given.v
    assert SKIPS in fx.explain(*tensors, mask=given.mask())
    wide = stdlib.block_table(given.table, 2 * BLOCK)
    assert SKIPS not in fx.explain(*tensors, mask=wide)


@pytest.mark.gpu
def test_programs_of_many_works() -> None:
    """Each goes through a dozen of them, some without a tile of one consumer or of any."""
    q, k, v = (torch.randn(4, 32, 1664, 128, **HALF_CUDA) for _ in range(3))
    table = torch.rand(32, 26, 26, device="cuda") < 0.1
    mask = stdlib.block_table(table, BLOCK)
    assert not table.any(2).all() and SKIPS in fx.explain(q, k, v, mask=mask)
    expect_the_same_bits(mask, q, k, v)


@pytest.mark.gpu
def test_tiles_follow_what_the_table_contains() -> None:
    given = inputs_of((128, 128), torch.float16, (500, 700, 0))
    mask = given.mask()
    for _ in range(3):
        expect(given, mask)
        given.table.copy_(given.table.roll(1, 2).logical_xor(given.table.roll(1, 1)))


@pytest.mark.gpu
def test_a_cuda_graph_replays_with_the_table_of_then() -> None:
    given = inputs_of((128, 128), torch.float16, (500, 700, 0))
    mask, side = given.mask(), torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        attention(given, mask)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured, _ = attention(given, mask)
    for _ in range(2):
        given.table.copy_(~given.table)
        graph.replay()
        assert (captured.double() - dense(given)[0]).abs().max() < MOST[captured.dtype]
