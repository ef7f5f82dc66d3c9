"""Which tile of which head a program of an attention kernel has.

A GPU starts programs by their number, so the longest tiles of a head are to come first: for one
that starts last, most of the GPU waits at the end. With formulas the last tile is the longest, or
no order is known. A table has an order of its outer tiles, longest first, which the runtime makes
(`runtime/run_table.py`): of a mask with a few global tokens some tiles have all others to go
through where most have ten, wherever they stand. Its longest tiles start first of all heads.

Some heads stand side by side, tile after tile: of one head after the other, the last one's largest
tiles would start when all else is nearly done. The more of them there are, the more memory is in
use at a time, which should be in the GPU's cache. So their number goes by how much the work of
tiles differs, and is small where a table says which are the longest.

Formulas, on an H200 (torch 2.11.0+cu130, triton 3.6.0, 2026-11-26), microseconds with 1, 2, 4 and 8
heads: full, forward 1715, 1723, 1713 and 1765, backward 4926, 4853, - and 5118; causal, forward
937, 903, 901 and 917, backward 2656, 2537, - and 2536; packed documents, by rows, backward 1202,
1119, - and 1015. Tables, 16384 tokens and 16 heads, on an H100 (same versions and date), with 8
heads and tiles by their number, and longest first with 1, 2, 4 and 8 heads: BigBird forward 678,
398, 381, 408 and 420, backward 1960, 1270, 1346, 1504 and 1612; MaxViT's grid forward 429, 269,
281, 320 and 421, backward 1544, 850, 918, 1149 and 1537; radial, forward 2415, 2318, 2334, 2245 and
2376, backward 9254, 6011, 6219, 6356 and 7897; elastic windows forward 912, 898, 872, 864 and 864,
backward 2455, 2619, 2652, 2535 and 2518.
"""

from __future__ import annotations

from .kernel import KernelSpec, Role, heavy_last
from .lower import Lowering
from .writer import Block

# The part of a table's outer tiles, the longest ones, that start first of all heads.
_FIRST = 16


def _side_by_side(spec: KernelSpec) -> int:
    """How many heads: fewest where all tiles have the same work, or a table has their order."""
    form = spec.closed_form
    if form is None or spec.mask is None:
        return 2
    return 8 if form.by_rows else 4


def write_head(
    body: Block,
    spec: KernelSpec,
    tile: str,
    language: str,
    *,
    heads: str,
    count: str,
    first_head: str = "",
) -> None:
    """Write the head of `program`, a number: `flat_head`, which counts all heads, and `b`.

    Which of the head's tiles it has, `nth_tile`, is for `write_tile` to look up.

    Args:
        tile: name of the tile; that of their number has an s behind it.
        heads: source of how many heads a batch has.
        count: source of how many heads of all batches the grid has programs of.
        first_head: source of the first head that the grid has programs of; "" for 0.
    """
    table, side_by_side = spec.closed_form is None, _side_by_side(spec)
    number, tiles, first = "program", f"{tile}s", f"{first_head} + " if first_head else ""
    if table:
        body.comment("The longest tiles of all heads, and then of those that stand side by side.")
        body.line(f"longest = {tiles} // {_FIRST}")
        number, tiles = f"(program - longest * {count})", f"({tiles} - longest)"
    body.comment(f"{side_by_side} heads side by side, tile after tile.")
    body.line(f"heads_before = {number} // ({side_by_side} * {tiles}) * {side_by_side}")
    body.line(f"heads_here = {language}.minimum({count} - heads_before, {side_by_side})")
    body.line(f"place = {number} - heads_before * {tiles}")
    body.line("nth_tile = place // heads_here")
    body.line(f"flat_head = {first}heads_before + place % heads_here")
    if table:
        is_first = f"program < longest * {count}"
        of_all = f"program // {count}", f"{first}program % {count}"
        body.line(f"nth_tile = {language}.where({is_first}, {of_all[0]}, longest + nth_tile)")
        body.line(f"flat_head = {language}.where({is_first}, {of_all[1]}, flat_head)")
    body.line(f"b = flat_head // {heads}")


def write_tile(
    body: Block, spec: KernelSpec, tile: str, lowering: Lowering, head: str = "h"
) -> None:
    """Write the tile of `program`, after its head.

    Args:
        tile: its name; that of the number of tiles has an s behind it.
        head: source of the query head whose tiles the table orders.
    """
    if spec.closed_form is None:
        body.comment("The tiles that have the most work start first.")
        order = lowering.argument(Role.TABLE, "order")
        at = f"{first_row(lowering, head)} + nth_tile"
        body.line(f"{tile} = {lowering.language}.load({order} + {at})")
    elif heavy_last(spec.closed_form):
        body.comment("The last tiles have the most work: they start first.")
        body.line(f"{tile} = {tile}s - 1 - nth_tile")
    else:
        body.line(f"{tile} = nth_tile")


def first_row(lowering: Lowering, head: str = "h") -> str:
    """The source of the run table's row of the first outer tile of `b` and a query head."""
    strides = [lowering.argument(Role.TABLE_STRIDE, n, 0, f"table_stride_{n}") for n in "bh"]
    return f"b * {strides[0]} + {head} * {strides[1]}"
