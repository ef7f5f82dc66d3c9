"""The sums of dQ of a Hopper GPU's backward pass, for head dimensions that are tiles and for fewer.

The kernel that adds them up needs such a GPU. Here dense products stand in its place, which know
where an accumulator's registers lie and nothing of `query_sums.py`; the kernels before and after it
run under Triton's interpreter, with the sizes, parts and offsets of the runtime.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from flexdsl.codegen import Kernel, Language, Phase, Role, unbound_spec
from flexdsl.codegen.unbound import GENERATORS
from flexdsl.ir import Program
from flexdsl.runtime import bind, launch, triton_backward
from flexdsl.runtime.blocks import Blocks
from flexdsl.runtime.call import Call, value_of
from flexdsl.runtime.descriptors import describe
from flexdsl.runtime.tuning import configs
from tests.codegen.oracle import error
from tests.codegen.variants import VARIANTS

OF_TILES = {64: 64, 96: 128, 128: 128, 192: 192, 256: 256}  # columns of a tile, by those of dQ
OF_VALUES = {**OF_TILES, 96: 96, 192: 128}  # those of values, by those of queries
# Parts of 64 x 64 of a tile of so many columns: how many are left ones, and right ones; floats from
# one tile's left or right sums to the next one's.
PARTS = {64: (1, 1), 128: (1, 1), 192: (1, 2), 256: (2, 2)}
STRIDES = {64: (4096, 4096), 128: (4096, 4096), 192: (6144, 8192), 256: (8192, 8192)}
PHASES = (Phase.BACKWARD_ROWS, Phase.BACKWARD, Phase.BACKWARD_SUMS)
WITHOUT_GPU = pytest.mark.skipif(
    torch.cuda.is_available(), reason="beside a GPU kernels are not interpreted"
)


def in_registers(half: Tensor) -> Tensor:
    """64 x 64 sums as 4096 floats: by columns of 8, warp, lane, rows of 8, and the last column.

    Which thread has what: PTX ISA, "Register fragments for wgmma.mma_async.m64nNk16", D.
    """
    found = torch.empty(4096)
    for row in range(64):
        for column in range(64):
            warp, lane = row // 16, row % 8 * 4 + column % 8 // 2
            place = column // 8 * 512 + warp * 128 + lane * 4 + row % 16 // 8 * 2 + column % 2
            found[place] = half[row, column]
    return found


ORDER = in_registers(torch.arange(4096.0).reshape(64, 64)).long()


def add_part(sums: Tensor, at: int, part: Tensor) -> None:
    """Add 64 x 64 numbers to the sums that begin there."""
    sums.view(-1)[at : at + 4096] += part.reshape(-1)[ORDER].float()


@dataclass
class Dense:
    """The kernels of a backward pass, dense products in the place of the one for Hopper."""

    hopper: bool = True
    compiles: bool = True

    def backward_phases(self, call: Call) -> tuple[Phase, ...]:
        return PHASES

    def prepares(self, phases: tuple[Phase, ...], backward: bool) -> bool:
        return not phases

    def run(self, phase: Phase, call: Call) -> None:
        if phase is not Phase.BACKWARD:
            launch.run(phase, call)
            return
        assert call.heads is not None
        for place, flat_head in enumerate(call.heads):
            _of_head(call, place, flat_head)


def _of_head(call: Call, place: int, flat_head: int) -> None:
    """dK and dV of a head, which is full, and the sums of its dQ, at a place among those here."""
    sizes, lengths = call.sizes, call.bound.lengths
    b, result_head = divmod(flat_head, sizes["result_heads"])
    h = result_head * sizes["members"] + sizes["member"]
    kv_head = h // (lengths.heads // call.tensors["key"].shape[1])
    q, d_out = (call.tensors[n][b, h].double() for n in ("query", "d_out"))
    k, v = (call.tensors[n][b, kv_head].double() for n in ("key", "value"))
    lse, delta = (call.rows[n][b, h, : len(q), None].double() for n in ("lse_log2", "delta"))
    weights = (q @ k.T * call.scale - lse * torch.log(torch.tensor(2.0))).exp()
    d_scores = weights * (d_out @ v.T - delta)
    for name, found in (("d_value", weights.T @ d_out), ("d_key", d_scores.T @ q * call.scale)):
        before = call.tensors[name][b, result_head]
        before.copy_(found + before if sizes["member"] else found)
    columns = OF_TILES[q.shape[1]]
    rows = 128 if columns == 64 else 64
    q_tiles = -(-len(q) // rows)
    sums = torch.zeros(q_tiles * rows, columns, dtype=torch.float64)
    sums[: len(q), : q.shape[1]] = d_scores @ k
    first = {"left": place * sizes["left_tiles"], "right": place * q_tiles}
    for i, tile in enumerate(sums.split(rows)):
        parts = iter(tile.split(64, 0 if columns == 64 else 1))
        for (half, begin), count, stride in zip(
            first.items(), PARTS[columns], STRIDES[columns], strict=True
        ):
            for n in range(count):
                add_part(call.sums[half], (begin + i) * stride + n * 4096, next(parts))


@WITHOUT_GPU
@pytest.mark.parametrize("dim", OF_TILES)
@pytest.mark.parametrize(("length", "large"), [(128, 0), (130, 0), (60, 0), (128, 2**23)])
@pytest.mark.parametrize(("kv_heads", "enough"), [(4, 1), (2, 1), (1, 1), (1, 999)])
def test_gradients_of_dense_sums(
    large: int, kv_heads: int, enough: int, length: int, dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heads in parts, or dK and dV of each query head; with tiles that are whole, cut and wider.

    Sums inside of dQ, and beside it.
    """
    monkeypatch.setattr(triton_backward, "_ENOUGH", enough)
    monkeypatch.setattr(triton_backward, "_LARGE", large)
    generator = torch.Generator().manual_seed(dim + length)
    of_keys = ((kv_heads, dim), (kv_heads, OF_VALUES[dim]))
    shapes = [(3, heads, length, d) for heads, d in ((4, dim), *of_keys, (4, OF_VALUES[dim]))]
    q, k, v, d_out = (torch.randn(s, generator=generator).half() for s in shapes)
    bound = bind.bind(*bind_nothing(q, k), (64, 64), ())
    scale = dim**-0.5
    exact = [x.double().requires_grad_() for x in (q, k, v)]
    group = 4 // kv_heads
    of_q = [exact[0], *(x.repeat_interleave(group, 1) for x in exact[1:])]
    dense = torch.nn.functional.scaled_dot_product_attention(*of_q)
    wanted = torch.autograd.grad(dense, exact, d_out.double())
    lse = (of_q[0] @ of_q[1].mT * scale).logsumexp(-1).detach().float()
    given = q, k, v, dense.detach().half(), d_out, lse
    run = triton_backward.backward(Dense(), bound, scale, *given)
    for name, x, y in zip("qkv", run(*given), wanted, strict=True):
        assert x.shape == y.shape and error(x, y) < 2e-3, name


def bind_nothing(q: Tensor, k: Tensor) -> tuple[Any, Any, bind.Lengths]:
    """No mask, no score, and the lengths of such tensors."""
    lengths = bind.lengths_of(q, k, 0)
    reading = bind.read(None, None, lengths, q.device)
    return reading.mask, reading.score, lengths


@pytest.mark.parametrize("name", ["causal", "document", "softcap", "products"])
@pytest.mark.parametrize("mask_bits", [False, True])
def test_the_kernel_knows_the_columns_of_tiles_alone(name: str, mask_bits: bool) -> None:
    """What was read, compiled and timed of D 128 is so of D 96."""
    mods = (VARIANTS[name].mask, VARIANTS[name].score)
    programs: list[Program | None] = [None if m is None else m.program for m in mods]
    for phase, language in (
        (Phase.BACKWARD, Language.GLUON),
        (Phase.BACKWARD_SUMS, Language.TRITON),
    ):
        texts: dict[int, str] = {}
        for dim in (64, 96, 128):
            spec = unbound_spec(*programs, dim, dim, phase, products=True)
            if mask_bits:
                spec = replace(spec, mask=None, closed_form=None, mask_bits=True)
            texts[dim] = GENERATORS[phase, language](spec).source
        assert texts[96] == texts[128] != texts[64]


@pytest.mark.parametrize("dim", OF_TILES)
@pytest.mark.parametrize("phase", PHASES[1:])
def test_descriptors_have_blocks_of_tiles_and_lengths_of_tensors(phase: Phase, dim: int) -> None:
    (config, *_) = configs(phase, 90, dim, 2, hopper=True)
    value_dim = OF_VALUES[dim]
    spec = unbound_spec(None, None, dim, value_dim, phase)
    kernel: Kernel = GENERATORS[phase, config.language](spec)
    dims = dict.fromkeys(("query", "key", "d_query", "d_key"), dim)
    dims |= dict.fromkeys(("value", "d_out", "d_value"), value_dim)
    tensors = {n: torch.zeros(2, 4, 130, d, dtype=torch.bfloat16) for n, d in dims.items()}
    bound = bind.bind(*bind_nothing(tensors["query"], tensors["key"]), (64, 64), ())
    call = Call(bound, 1.0, tensors, {}, hopper=True)
    rows = dict.fromkeys(("query", "d_out"), 128 if dim == 64 else 64)
    found = [a for a in kernel.arguments if a.role is Role.DESCRIPTOR]
    if phase is Phase.BACKWARD:
        names = dims.keys() - {"d_query"}
        widths = {n: {128, 64} if dims[n] == 192 else {OF_TILES[dims[n]]} for n in names}
    else:
        widths = {"d_query": {64}}
    assert {(a.of, a.index) for a in found} == {(n, w) for n, ws in widths.items() for w in ws}
    for argument in found:
        blocks = value_of(argument, call, None, None, config)
        assert isinstance(blocks, Blocks)
        assert blocks.shape == [2, 4, 130, dims[argument.of]]
        assert blocks.block == [1, 1, rows.get(argument.of, 64), argument.index]
        assert blocks.strides[2] * 2 % 16 == 0
        described = describe(blocks, config.language)
        assert getattr(described, "padding", "zero") == "zero"
