"""The kernels that evaluate the mask once for each pair of masked tiles, and write it as bits.

A plan's masked tiles are partial ones, and full ones that reach past an end. A program has some of
one row of the run table, in the order in which kernels go through them: the runs of the row one
after the other. Tile `first_bits[row] + n` of bits is that of the row's masked tile n.

The outer positions of a tile are queries, or keys where the table is of keys; the inner ones are
the others. Bits lie as the scores of a matrix product on Hopper do, outer by inner positions, among
threads (PTX ISA, wgmma, accumulator D). A thread has int32 words that follow on each other, one for
each 64 inner positions, and bit n of word w is that of the thread's score 32 w + n: the pair of
outer position r and inner position c is in the word

    (r // 16 * 32 + r % 8 * 4 + c % 8 // 2) * WORDS + c // 64,    WORDS = cdiv(inner block, 64)

of the tile, as bit c % 64 // 8 * 4 + r % 16 // 8 * 2 + c % 2. Pairs past the ends of queries and of
keys have 0, those past a tile of fewer inner positions have any bits. Which calls read bits, and
where they lie, is the runtime's to say.
"""

from __future__ import annotations

from flexdsl.ir import Expr

from .kernel import Argument, Kernel, KernelSpec, Role
from .loops import KEYS, QUERIES, Axis
from .lower import Lowering, Scope
from .of_mask import kernel_of_mask, lowering_of_mask, mask_of
from .writer import Block

PARTS = 8  # programs of a row of the run table
LANES = 16  # outer positions of one half of a tile that are looked at at once, each with one more
_TABLE = ("offsets", "full_ends", "starts", "stops", "first_bits")


def bytes_of_tile(outer: int, inner: int) -> int:
    """Bytes of the bits of a tile of `outer` by `inner` positions; `outer` is a multiple of 32."""
    return outer * 8 * -(-inner // 64)


def generate_mask_bits(spec: KernelSpec) -> Kernel:
    """The kernel that writes the bits of masked tiles; only the mask of `spec` is looked at.

    Returns:
        A kernel whose entry is `mask_bits`, and whose grid is PARTS programs for each row of the
        run table.
    """
    return _generate(spec, "mask_bits", KEYS)


def generate_mask_bits_of_keys(spec: KernelSpec) -> Kernel:
    """The same where the run table is of queries for each key tile; its entry: `mask_bits_key`."""
    return _generate(spec, "mask_bits_key", QUERIES)


def _generate(spec: KernelSpec, entry: str, axis: Axis) -> Kernel:
    """The kernel of a table whose inner axis is `axis`."""
    sizes = ("q_len", "kv_len", "q_offset", "heads", f"{axis.outer_tile}s")
    fixed = (
        Argument("mask_words", Role.MASK_BITS, "mask_words"),
        *(Argument(t, Role.TABLE, t) for t in _TABLE),
        *(Argument(s, Role.SIZE, s) for s in sizes),
    )
    lowering = lowering_of_mask(spec, fixed, _NAMES)
    body = Block(1)
    scope = Scope(body.block(), None, {"b": "b", "h": "h"})
    _write_row(scope.block, axis)
    with body.indented("for run in range(full_end, last_run):") as runs:
        runs.line("run_start = tl.load(starts + run)")
        runs.line("run_stop = tl.load(stops + run)")
        runs.comment("The first tile of the run whose number in the row is one of this part's.")
        runs.line("own = run_start + (part + PARTS - before % PARTS) % PARTS")
        with runs.indented(f"for {axis.tile} in range(own, run_stop, PARTS):") as tile:
            tile.line(f"bits_tile = first + before + {axis.tile} - run_start")
            _write_tile(tile, axis, mask_of(spec), lowering, scope)
        runs.line("before += run_stop - run_start")
    title = "The mask of a plan's masked tiles, as bits"
    return kernel_of_mask(title, entry, spec, fixed, lowering, body)


_NAMES = (
    *("PARTS", "WORDS", "OUTER", "own", "part", "before", "bits_tile", "lane", "word", "bit"),
    *("words", "bits", "first_lane"),
)


def _write_row(block: Block, axis: Axis) -> None:
    """Write which row of the run table the program has, and which part of its masked tiles."""
    outer = {"BLOCK_N": "BLOCK_M", "BLOCK_M": "BLOCK_N"}[axis.block]
    block.line(f"PARTS: tl.constexpr = {PARTS}")
    block.line(f"LANES: tl.constexpr = {LANES}")
    block.line(f"OUTER: tl.constexpr = {outer}")
    block.line(f"WORDS: tl.constexpr = ({axis.block} + 63) // 64")
    block.line("program = tl.program_id(0)")
    block.line("row_of_runs = program // PARTS")
    block.line("part = program % PARTS")
    tiles = f"{axis.outer_tile}s"
    block.line(f"{axis.outer_tile} = row_of_runs % {tiles}")
    block.line(f"b = row_of_runs // {tiles} // heads")
    block.line(f"h = row_of_runs // {tiles} % heads")
    block.line("full_end = tl.load(full_ends + row_of_runs)")
    block.line("last_run = tl.load(offsets + row_of_runs + 1)")
    block.line("first = tl.load(first_bits + row_of_runs)")
    block.line("before = 0")


def _write_tile(tile: Block, axis: Axis, mask: Expr, lowering: Lowering, outer: Scope) -> None:
    """Write the words of a tile, those of LANES outer positions and of 8 more than each at once."""
    inner = "word % WORDS * 64 + bit // 4 * 8 + word // WORDS * 2 + bit % 2"
    rows, keys = "lane // 8 * 16 + bit % 4 // 2 * 8 + lane % 8", inner
    if axis is QUERIES:
        rows, keys = keys, rows
    with tile.indented("for first_lane in range(0, OUTER // 2, LANES):") as lanes:
        lanes.line("lane = first_lane + tl.arange(0, LANES)[:, None, None]")
        lanes.line("word = tl.arange(0, 4 * WORDS)[None, :, None]")
        lanes.line("bit = tl.arange(0, 32)[None, None, :]")
        lanes.line(f"row_index = q_tile * BLOCK_M + {rows}")
        lanes.line(f"key_index = kv_tile * BLOCK_N + {keys}")
        lanes.line("q = q_offset + tl.minimum(row_index, q_len - 1)")
        lanes.line("kv = tl.minimum(key_index, kv_len - 1)")
        scope = Scope(lanes.block(), outer, {**outer.variables, "q": "q", "kv": "kv"})
        (allowed,) = lowering.lower([mask], scope, "allowed")
        inside = "(row_index < q_len) & (key_index < kv_len)"
        # Each bit is added once, so that the sum is the word, also where its sign is a bit.
        lanes.line(f"bits = tl.where({allowed} & {inside}, 1 << bit, 0)")
        lanes.line("words = tl.sum(tl.broadcast_to(bits, [LANES, 4 * WORDS, 32]), 2)")
        lanes.line("at = (bits_tile * (OUTER // 2) + lane) * (4 * WORDS) + word")
        lanes.line("tl.store(mask_words + tl.reshape(at, [LANES, 4 * WORDS]), words)")
