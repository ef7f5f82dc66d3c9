"""Which tile of which head a program of an attention kernel has.

A GPU starts programs by their number. Heads stand side by side in fours, tile after tile: one head
after the other, the last head's largest tiles would start when all else is nearly done, and most of
the GPU would wait for them. More heads at a time would want more of the cache for their tensors.
"""

from __future__ import annotations

from .writer import Block

_HEADS = 4


def write_program(
    body: Block, tile: str, language: str, *, heads: str, first_head: str = "", last_first: bool
) -> None:
    """Write the program's tile, `flat_head`, which counts heads of all batches, and `b`.

    Args:
        tile: name of the tile; that of their number has an s behind it.
        heads: source of how many heads a batch has.
        first_head: source of the first head that the grid has programs of; "" for 0.
        last_first: the last tiles have the most work.
    """
    body.line(f"program = {language}.program_id(0)")
    body.comment(f"{_HEADS} heads side by side, tile after tile.")
    body.line(f"heads_before = program // ({_HEADS} * {tile}s) * {_HEADS}")
    left = f"{language}.num_programs(0) // {tile}s - heads_before"
    body.line(f"heads_here = {language}.minimum({left}, {_HEADS})")
    body.line(f"place = program - heads_before * {tile}s")
    if last_first:
        body.comment("The last tiles have the most work: they start first.")
        body.line(f"{tile} = {tile}s - 1 - place // heads_here")
    else:
        body.line(f"{tile} = place // heads_here")
    before = f"{first_head} + heads_before" if first_head else "heads_before"
    body.line(f"flat_head = {before} + place % heads_here")
    body.line(f"b = flat_head // {heads}")
