"""The kernel that evaluates the mask once for each pair of masked tiles, and writes it as bits.

A plan's masked tiles are partial ones, and full ones that the keys do not fill. A program has some
of one row of the run table, in the order in which kernels go through them: the runs of the row one
after the other. Tile `first_bits[row] + n` of bits is that of the row's masked tile n. A tile of
bits is int32 words [BLOCK_M, 4]. Word (r, t) has the keys of row r whose place in the tile, c, has
(c % 8) // 2 == t, as thread t of four has them that share a row of the scores of a matrix product
on Hopper; key c is its bit c // 8 * 2 + c % 2. Bits past the end of the keys are 0, rows past the
end of the queries have any bits, and so have bits past BLOCK_N // 4. Which calls read bits, and
where they lie, is the runtime's to say.
"""

from __future__ import annotations

from flexdsl.ir import Expr

from .kernel import Argument, Kernel, KernelSpec, Role
from .lower import Lowering, Scope
from .of_mask import kernel_of_mask, lowering_of_mask, mask_of
from .writer import Block

PARTS = 8  # programs of a row of the run table
ROWS = 32  # rows of a tile that are looked at at once; a tile has a multiple of them
_TABLE = ("offsets", "full_ends", "starts", "stops", "first_bits")
_SIZES = ("q_len", "kv_len", "q_offset", "heads", "q_tiles")


def bytes_of_tile(block_m: int) -> int:
    """Bytes of a tile of bits, whatever its number of keys: there are 128 at the most."""
    return block_m * 16


def generate_mask_bits(spec: KernelSpec) -> Kernel:
    """The kernel that writes the bits of masked tiles; only the mask of `spec` is looked at.

    Returns:
        A kernel whose entry is `mask_bits`, and whose grid is PARTS programs for each row of the
        run table.
    """
    fixed = (
        Argument("mask_words", Role.MASK_BITS, "mask_words"),
        *(Argument(t, Role.TABLE, t) for t in _TABLE),
        *(Argument(s, Role.SIZE, s) for s in _SIZES),
    )
    lowering = lowering_of_mask(spec, fixed, _NAMES)
    body = Block(1)
    scope = Scope(body.block(), None, {"b": "b", "h": "h"})
    _write_row(scope.block)
    with body.indented("for run in range(full_end, last_run):") as runs:
        runs.line("run_start = tl.load(starts + run)")
        runs.line("run_stop = tl.load(stops + run)")
        runs.comment("The first tile of the run whose number in the row is one of this part's.")
        runs.line("own = run_start + (part + PARTS - before % PARTS) % PARTS")
        with runs.indented("for kv_tile in range(own, run_stop, PARTS):") as tile:
            tile.line("bits_tile = first + before + kv_tile - run_start")
            _write_tile(tile, mask_of(spec), lowering, scope)
        runs.line("before += run_stop - run_start")
    title = "The mask of a plan's masked tiles, as bits"
    return kernel_of_mask(title, "mask_bits", spec, fixed, lowering, body)


_NAMES = ("PARTS", "BITS", "own", "part", "before", "bits_tile", "thread", "bit", "words", "first")


def _write_row(block: Block) -> None:
    """Write which row of the run table the program has, and which part of its masked tiles."""
    block.line(f"PARTS: tl.constexpr = {PARTS}")
    block.line(f"ROWS: tl.constexpr = {ROWS}")
    block.line("BITS: tl.constexpr = BLOCK_N // 4")
    block.line("program = tl.program_id(0)")
    block.line("row_of_runs = program // PARTS")
    block.line("part = program % PARTS")
    block.line("q_tile = row_of_runs % q_tiles")
    block.line("b = row_of_runs // q_tiles // heads")
    block.line("h = row_of_runs // q_tiles % heads")
    block.line("full_end = tl.load(full_ends + row_of_runs)")
    block.line("last_run = tl.load(offsets + row_of_runs + 1)")
    block.line("first = tl.load(first_bits + row_of_runs)")
    block.line("before = 0")


def _write_tile(tile: Block, mask: Expr, lowering: Lowering, outer: Scope) -> None:
    """Write the words of a tile, ROWS rows after the other."""
    with tile.indented("for row in range(0, BLOCK_M, ROWS):") as rows:
        rows.line("in_tile = row + tl.arange(0, ROWS)[:, None, None]")
        rows.line("thread = tl.arange(0, 4)[None, :, None]")
        rows.line("bit = tl.arange(0, BITS)[None, None, :]")
        rows.line("key_index = kv_tile * BLOCK_N + bit // 2 * 8 + thread * 2 + bit % 2")
        rows.line("q = q_offset + tl.minimum(q_tile * BLOCK_M + in_tile, q_len - 1)")
        rows.line("kv = tl.minimum(key_index, kv_len - 1)")
        scope = Scope(rows.block(), outer, {**outer.variables, "q": "q", "kv": "kv"})
        (allowed,) = lowering.lower([mask], scope, "allowed")
        # Each bit is added once, so that the sum is the word, also where its sign is a bit.
        rows.line(f"bits = tl.where({allowed} & (key_index < kv_len), 1 << bit, 0)")
        rows.line("words = tl.sum(tl.broadcast_to(bits, [ROWS, 4, BITS]), 2)")
        rows.line("at = (bits_tile * BLOCK_M + in_tile) * 4 + thread")
        rows.line("tl.store(mask_words + tl.reshape(at, [ROWS, 4]), words)")
