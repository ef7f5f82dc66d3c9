"""The kernel that fills tables of q - kv: what scores compute from that alone, once a difference.

    of_difference_0 [b, h, table_length]    element i is the number at q - kv == i - zero_at

`differences` runs before the kernels of attention, which load from the tables as from captured
tensors. Which terms are tables: `analysis/differences.py`. All tables of a call are written by one
launch, and have the same planes: one for each head, or batch, where any of them depends on it.
"""

from __future__ import annotations

from dataclasses import replace

from flexdsl.analysis.differences import depends_on
from flexdsl.ir import Op, walk

from .kernel import Argument, Kernel, KernelSpec, Role
from .lower import Lowering, Scope
from .module import write_module
from .tiles import names_of_kernel
from .writer import Block

# Numbers before those of a call's differences, and after. Positions of a tile may lie so far past
# the last row or key: a program without a live tile takes the one behind them all. So no kernel has
# to hold positions inside for a table, which costs it a register for each key.
MARGIN = 512
_STEP = 16  # of the length of a plane: Triton compiles no kernel anew for another such stride
_SIZES = ("differences", "table_length", "difference_tiles", "heads")


def table_length(differences: int) -> int:
    """The numbers of a plane of a table, for so many differences of pairs."""
    return -(-(differences + 2 * MARGIN) // _STEP) * _STEP


def generate_differences(spec: KernelSpec) -> Kernel:
    """The kernel of all tables; its programs have BLOCK_N differences each.

    Returns:
        A kernel whose entry is `differences`, with difference_tiles programs for each plane.
    """
    tables = [Argument(t.capture.name, Role.DIFFERENCES, t.capture.name) for t in spec.tables]
    fixed = (*tables, *(Argument(s, Role.SIZE, s) for s in _SIZES))
    numbers = [t.number for t in spec.tables]
    # A load may leave its tensor at differences whose pairs do not count.
    loads = frozenset(n for n in walk(*numbers) if n.op is Op.LOAD)
    lowering = Lowering(names_of_kernel(fixed), loads, spec.wide)
    body = Block(1)
    body.line("program = tl.program_id(0)")
    body.line("plane = program // difference_tiles")
    variables = {"q": "q"}
    of_batch, of_head = (depends_on(spec.tables, n) for n in ("b", "h"))
    if of_head:
        body.line("h = plane % heads")
        variables["h"] = "h"
    if of_batch:
        body.line(f"b = plane{' // heads' if of_head else ''}")
        variables["b"] = "b"
    body.line("place = program % difference_tiles * BLOCK_N + tl.arange(0, BLOCK_N)")
    body.comment("q is q - kv here. Places outside of what pairs have stand for the first or last.")
    zero = lowering.argument(Role.PARAMETER, str(spec.tables[0].zero_at.attribute))
    clipped = f"tl.minimum(tl.maximum(place, {MARGIN}), {MARGIN - 1} + differences)"
    body.line(f"q = {clipped} - {zero}")
    scope = Scope(body.block(), None, variables)
    for table, text in zip(spec.tables, lowering.lower(numbers, scope, "number"), strict=True):
        at = f"{table.capture.name} + plane.to(tl.int64) * table_length + place"
        scope.block.line(f"tl.store({at}, {text}, mask=place < table_length)")
    arguments = (*fixed, *lowering.arguments.values())
    title = "Tables of what a score computes from q - kv"
    # The same whatever the mask is.
    spec = replace(spec, mask=None)
    text = write_module(title, "differences", spec, arguments, lowering.helpers, body)
    return Kernel(text, "differences", arguments)
