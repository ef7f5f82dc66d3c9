"""Which tile of which head a program of an attention kernel has.

A GPU starts programs by their number. Some heads stand side by side, tile after tile: of one head
after the other, the last one's largest tiles would start when all else is nearly done, and most of
the GPU would wait for them. The more of them there are, the more memory is in use at a time, which
should be in the GPU's cache. So their number goes by how much the work of tiles differs. On an H200
(torch 2.11.0+cu130, triton 3.6.0, 2026-11-26), microseconds with 1, 2, 4 and 8 heads: full, forward
1715, 1723, 1713 and 1765, backward 4926, 4853, - and 5118; causal, forward 937, 903, 901 and 917,
backward 2656, 2537, - and 2536; packed documents, backward 1202, 1119, - and 1015.
"""

from __future__ import annotations

from .kernel import KernelSpec
from .writer import Block


def _side_by_side(spec: KernelSpec) -> int:
    """How many heads: fewest where all tiles have the same work, most where nothing is known."""
    form = spec.closed_form
    if form is None or form.by_rows:
        return 8
    return 2 if spec.mask is None else 4


def write_program(
    body: Block,
    spec: KernelSpec,
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
    side_by_side = _side_by_side(spec)
    body.comment(f"{side_by_side} heads side by side, tile after tile.")
    body.line(f"heads_before = program // ({side_by_side} * {tile}s) * {side_by_side}")
    body.line(f"heads_here = {language}.minimum({count} - heads_before, {side_by_side})")
    body.line(f"place = program - heads_before * {tile}s")
    if last_first:
        body.comment("The last tiles have the most work: they start first.")
        body.line(f"{tile} = {tile}s - 1 - place // heads_here")
    else:
        body.line(f"{tile} = place // heads_here")
    before = f"{first_head} + heads_before" if first_head else "heads_before"
    body.line(f"flat_head = {before} + place % heads_here")
    body.line(f"b = flat_head // {heads}")
