"""The kernel that looks at the pairs of tiles that no proof decided, and only at those.

A program has some key tiles of one query tile. Of each partial one it counts the allowed pairs,
piece by piece, until an allowed and an excluded one were seen: after it states equal brute force.
This costs far less than the tile in attention, where it would be computed for every head.

A piece ends in one sum, whose latency is nearly all that a piece takes: programs are of a single
warp, in which a sum waits for nobody.
"""

from __future__ import annotations

from flexdsl.ir import Expr

from .kernel import Argument, Kernel, KernelSpec, Role
from .lower import Lowering, Scope
from .of_mask import kernel_of_mask, lowering_of_mask, mask_of
from .writer import Block

LANES = 256  # key tiles of a program
PIECE = (32, 64)  # rows and keys that are looked at at once
_SIZES = ("q_len", "kv_len", "q_offset", "heads", "q_tiles", "kv_tiles")


def generate_plan_refine(spec: KernelSpec) -> Kernel:
    """The kernel that makes the states of tiles exact; only the mask of `spec` is looked at.

    Returns:
        A kernel whose entry is `plan_refine`, and whose grid is cdiv(kv_tiles, LANES) * q_tiles *
        batch * heads, where batch and heads are 1 if the mask does not depend on them.
    """
    fixed = (
        Argument("states", Role.STATES, "states"),
        *(Argument(s, Role.SIZE, s) for s in _SIZES),
    )
    lowering = lowering_of_mask(spec, fixed, ("seen", "allowed_here"))
    body = Block(1)
    scope = Scope(body.block(), None, {"b": "b", "h": "h"})
    _write_tiles(scope.block)
    with body.indented("while kv_tile < kv_tiles:") as tile:
        tile.line("columns = tl.minimum(kv_len - kv_tile * BLOCK_N, BLOCK_N)")
        tile.line("some = 0")
        tile.line("seen = 0")
        _write_count(tile, mask_of(spec), lowering, scope)
        tile.line("state = tl.where(some == 0, 0, tl.where(some == seen, 2, 1))")
        tile.line("tl.store(states + kv_tile, state.to(tl.int8))")
        tile.line("kv_tile = tl.min(tl.where(unknown & (tiles > kv_tile), tiles, kv_tiles), 0)")
    title = "States of tiles of a plan, made exact"
    return kernel_of_mask(title, "plan_refine", spec, fixed, lowering, body)


def _write_tiles(block: Block) -> None:
    """Write which tiles the program has, and the first of them that is not known."""
    block.line(f"LANES: tl.constexpr = {LANES}")
    block.line(f"ROWS: tl.constexpr = {PIECE[0]}")
    block.line(f"COLUMNS: tl.constexpr = {PIECE[1]}")
    block.line("columns_of_tiles = tl.cdiv(kv_tiles, LANES)")
    block.line("program = tl.program_id(0)")
    block.line("row_of_tiles = program // columns_of_tiles")
    block.line("q_tile = row_of_tiles % q_tiles")
    block.line("b = row_of_tiles // q_tiles // heads")
    block.line("h = row_of_tiles // q_tiles % heads")
    block.line("rows = tl.minimum(q_len - q_tile * BLOCK_M, BLOCK_M)")
    block.line("states += row_of_tiles.to(tl.int64) * kv_tiles")
    block.line("tiles = program % columns_of_tiles * LANES + tl.arange(0, LANES)")
    block.line("unknown = tl.load(states + tiles, mask=tiles < kv_tiles, other=0) == 1")
    block.line("kv_tile = tl.min(tl.where(unknown, tiles, kv_tiles), 0)")


def _write_count(tile: Block, mask: Expr, lowering: Lowering, scope: Scope) -> None:
    """Write the pieces of a tile, until both kinds of pairs were `seen`: `some` are allowed."""
    with (
        tile.indented("for row in range(0, rows, ROWS):") as rows,
        rows.indented("for column in range(0, columns, COLUMNS):") as columns,
        columns.indented("if (some == 0) | (some == seen):") as piece,
    ):
        _write_positions(piece)
        inner = Scope(piece.block(), scope, {**scope.variables, "q": "q", "kv": "kv"})
        (allowed,) = lowering.lower([mask], inner, "allowed")
        piece.line(f"allowed_here = tl.broadcast_to({allowed}, [ROWS, COLUMNS])")
        piece.line("some += tl.sum(tl.where(allowed_here, 1, 0))")
        piece.line("seen += ROWS * COLUMNS")


def _write_positions(block: Block) -> None:
    """Write the positions of a piece of a tile.

    Those past its end stand for the last one: pairs that count twice change no state.
    """
    block.line("in_tile = tl.minimum(row + tl.arange(0, ROWS)[:, None], rows - 1)")
    block.line("key_in_tile = tl.minimum(column + tl.arange(0, COLUMNS)[None, :], columns - 1)")
    block.line("q = q_offset + q_tile * BLOCK_M + in_tile")
    block.line("kv = kv_tile * BLOCK_N + key_in_tile")
