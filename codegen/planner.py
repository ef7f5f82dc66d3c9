"""The kernel of a plan on a GPU: the state of every tile, by the interval semantics of the mask.

A program has some query tiles and some key tiles. What depends on one axis is computed once for
each of its tiles, and combined by broadcasting: ranges of q along the rows of a block of tiles,
those of kv along its columns. A state is a proof as on the host: empty and full are right, partial
may be either. Runs are made of the states in `compaction.py`; summaries of captured tensors are the
runtime's (`extremes.py` says which). What stays partial is looked at in `refinement.py`.
"""

from __future__ import annotations

from .abstract import Range, Truth
from .intervals import LARGEST, Intervals
from .kernel import Argument, Kernel, KernelSpec, Role
from .lower import Lowering
from .of_mask import kernel_of_mask, mask_of
from .tiles import names_of_kernel
from .writer import Block

ROWS, COLUMNS = 8, 256  # query and key tiles of a program: more do not fit in registers
_SIZES = ("q_len", "kv_len", "q_offset", "heads", "q_tiles", "kv_tiles")
_HERE = {
    "b": Range("b", "b", LARGEST),
    "h": Range("h", "h", LARGEST),
    "q": Range("q_low", "q_high", LARGEST),
    "kv": Range("kv_low", "kv_high", LARGEST),
}


def generate_plan_states(spec: KernelSpec) -> Kernel:
    """The kernel of the states of tiles; only the mask of `spec` is looked at.

    Returns:
        A kernel whose entry is `plan_states`, and which writes int8 [batch, heads, q_tiles,
        kv_tiles]. Its grid is cdiv(q_tiles, ROWS) * cdiv(kv_tiles, COLUMNS) * batch * heads, where
        batch and heads are 1 if the mask does not depend on them.
    """
    fixed = (
        Argument("states", Role.STATES, "states"),
        *(Argument(s, Role.SIZE, s) for s in _SIZES),
    )
    lowering = Lowering(names_of_kernel(fixed))
    body = Block(1)
    _write_tiles(body)
    intervals = Intervals(lowering, body, dict(_HERE))
    truth = intervals.truth(mask_of(spec))
    body.line(f"state = {_state(truth)}")
    for unknown in dict.fromkeys(intervals.unknown):
        body.line(f"state = tl.where({unknown}, 1, state)")
    body.line("place = (of_head * q_tiles + q_tile).to(tl.int64) * kv_tiles + kv_tile")
    body.line("inside = (q_tile < q_tiles) & (kv_tile < kv_tiles)")
    body.line("state = tl.broadcast_to(state, [ROWS, COLUMNS]).to(tl.int8)")
    body.line("tl.store(states + place, state, mask=inside)")
    title = "States of the tiles of a plan"
    return kernel_of_mask(title, "plan_states", spec, fixed, lowering, body)


def _write_tiles(body: Block) -> None:
    """Write which tiles the program has, and the positions of their first and last rows and keys.

    Tiles past the end stand for the last position, so that loads stay inside.
    """
    body.line(f"ROWS: tl.constexpr = {ROWS}")
    body.line(f"COLUMNS: tl.constexpr = {COLUMNS}")
    body.line("rows, columns = tl.cdiv(q_tiles, ROWS), tl.cdiv(kv_tiles, COLUMNS)")
    body.line("program = tl.program_id(0)")
    body.line("q_tile = program // columns % rows * ROWS + tl.arange(0, ROWS)[:, None]")
    body.line("kv_tile = program % columns * COLUMNS + tl.arange(0, COLUMNS)[None, :]")
    body.line("of_head = program // columns // rows")
    body.line("b = (of_head // heads).to(tl.int64)")
    body.line("h = (of_head % heads).to(tl.int64)")
    body.line("zero = tl.zeros([1, 1], tl.int64)")
    body.line("one = tl.full([], 1, tl.int64)")
    body.line("q_low = tl.minimum(q_tile.to(tl.int64) * BLOCK_M, q_len - 1) + q_offset")
    body.line("q_high = tl.minimum((q_tile.to(tl.int64) + 1) * BLOCK_M, q_len) - 1 + q_offset")
    body.line("kv_low = tl.minimum(kv_tile.to(tl.int64) * BLOCK_N, kv_len - 1)")
    body.line("kv_high = tl.minimum((kv_tile.to(tl.int64) + 1) * BLOCK_N, kv_len) - 1")


def _state(truth: Truth) -> str:
    if truth.always == "True":
        return "tl.full([1, 1], 2, tl.int32)"
    if truth.possible == "False":
        return "tl.full([1, 1], 0, tl.int32)"
    live = "1" if truth.possible == "True" else f"tl.where({truth.possible}, 1, 0)"
    if truth.always == "False":
        return f"{live} + tl.full([1, 1], 0, tl.int32)"
    return f"tl.where({truth.always}, 2, {live})"
