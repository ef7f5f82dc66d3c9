"""Which tile of which head a program of an attention kernel has.

A GPU starts programs by their number. Eight heads stand side by side, tile after tile: of one head
after the other, the last one's largest tiles would start when all else is nearly done, and most of
the GPU would wait for them. For 1, 2, 4 and 8 heads at a time, packed documents, an H100 (torch
2.11.0+cu130, triton 3.6.0, 2026-11-25): forward 458, 458, 452 and 448 us, backward 1336, 1318, 1279
and 1147; causal, forward 870, 836, 839 and 845.
"""

from __future__ import annotations

from .writer import Block

_HEADS = 8


def write_program(
    body: Block,
    tile: str,
    language: str,
    *,
    heads: str,
    count: str,
    first_head: str = "",
    last_first: bool,
) -> None:
    """Write the tile of `program`, a number, `flat_head`, which counts all heads, and `b`.

    Args:
        tile: name of the tile; that of their number has an s behind it.
        heads: source of how many heads a batch has.
        count: source of how many heads of all batches the grid has programs of.
        first_head: source of the first head that the grid has programs of; "" for 0.
        last_first: the last tiles have the most work.
    """
    body.comment(f"{_HEADS} heads side by side, tile after tile.")
    body.line(f"heads_before = program // ({_HEADS} * {tile}s) * {_HEADS}")
    body.line(f"heads_here = {language}.minimum({count} - heads_before, {_HEADS})")
    body.line(f"place = program - heads_before * {tile}s")
    if last_first:
        body.comment("The last tiles have the most work: they start first.")
        body.line(f"{tile} = {tile}s - 1 - place // heads_here")
    else:
        body.line(f"{tile} = place // heads_here")
    before = f"{first_head} + heads_before" if first_head else "heads_before"
    body.line(f"flat_head = {before} + place % heads_here")
    body.line(f"b = flat_head // {heads}")
