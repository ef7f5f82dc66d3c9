"""How the kernels of attention mask a tile of a closed form: bits of each row, made of its ends.

The form says which inner positions a row may see, as intervals, so that nothing of the mask has to
be evaluated for a pair. Of 64 rows a thread of a matrix product has two, and of each row the scores
of two columns of every eight (PTX ISA, wgmma, accumulator D). For each of these it makes a word by
two shifts: bit n of the word of column c is that of the score of column 8 n + c. Then the scores of
a word follow on each other, so that ptxas takes seven bits at a time into predicates.

Of packed documents a masked tile of the forward pass (D 128, triton 3.6.0 and 3.7.1) has 590
instructions so, 633 where a bit is tested at a time, and 842 where each pair is compared with the
ends; one without a mask has 445. Measured on an H100 (torch 2.11.0+cu130, triton 3.6.0,
2026-11-26), microseconds by comparisons and by bits, forward: documents 569 and 543, a window 270
and 256, at D 64 377 and 347, sinks 842 and 793, block diffusion 968 and 920, plain causal 888 and
872, at D 64 1175 and 1149; backward: a window 871 and 859, causal at D 64 2831 and 2783, all others
the same within what two runs differ by. A form that leaves gaps is evaluated. Where the mask is
read as bits, this is not used.
"""

from __future__ import annotations

from itertools import chain

from flexdsl.analysis.closed_form import Interval
from flexdsl.ir import Op, walk

from ..kernel import KernelSpec
from ..loops import QUERIES, Axis
from ..lower import Lowering, Scope
from ..writer import Block
from .mask_bits import KEEP
from .module import GROUP_ROWS, accumulator

_BETWEEN = '''\
@gluon.jit
def between(lower, upper, start, stop, EIGHT: gl.constexpr):
    """Words of 64 rows by 8: has bit n of column c a position start + 8 n + c in [lower, upper)?

    Those from `stop` on are in no interval. There are at most 248 from `start` to it.
    """
    lower = gl.minimum(gl.maximum(lower, start), stop)
    upper = gl.minimum(gl.maximum(upper, lower), stop)
    column = gl.arange(0, 8, gl.SliceLayout(0, EIGHT))[None, :]
    # So many of the positions of a column come before an end.
    before = (gl.convert_layout((lower - start).to(gl.int32), EIGHT) + 7 - column) >> 3
    inside = (gl.convert_layout((upper - start).to(gl.int32), EIGHT) + 7 - column) >> 3
    return (1 << inside) - (1 << before)
'''

_BY_COLUMNS = '''\
@gluon.constexpr_function
def by_columns(COLUMNS):
    """The layout of 64 rows by COLUMNS scores, a thread's scores of a word one after the other."""
    eights = [[0, 8 << n] for n in range(COLUMNS.bit_length() - 4)]
    lanes = [[0, 2], [0, 4], [1, 0], [2, 0], [4, 0]]
    warps = [[16, 0], [32, 0]]
    return gl.DistributedLinearLayout([*eights, [0, 1], [8, 0]], lanes, warps, [], [64, COLUMNS])
'''

_KEEP_COLUMNS = '''\
@gluon.jit
def keep_columns(numbers, words, other, COLUMNS: gl.constexpr):
    """The numbers whose bit is set in the word of their row and column, `other` for the rest."""
    ORDER: gl.constexpr = by_columns(COLUMNS)
    words = words.reshape([64, 1, 8])
    shape = gl.full([64, COLUMNS // 8, 8], 0, gl.int32, words.type.layout)
    words, _ = gl.broadcast(words, shape)
    words = gl.convert_layout(words.reshape([64, COLUMNS]), ORDER)
    bit = 1 << (gl.arange(0, COLUMNS, gl.SliceLayout(0, ORDER))[None, :] // 8)
    kept = keep(gl.convert_layout(numbers, ORDER), words, bit, other)
    return gl.convert_layout(kept, numbers.type.layout)
'''


def row_intervals(spec: KernelSpec) -> tuple[Interval, ...]:
    """The intervals of which a kernel makes bits; none where it does not."""
    form = spec.closed_form
    if spec.mask is None or form is None:
        return ()
    return form.intervals if all(i.sieve is None for i in form.intervals) else ()


def functions(spec: KernelSpec) -> list[str]:
    """The texts of the functions that a kernel needs for its bits."""
    return [_BETWEEN, KEEP, _BY_COLUMNS, _KEEP_COLUMNS] if row_intervals(spec) else []


def write_layout(body: Block) -> None:
    """Write the layout of words."""
    body.line(f"EIGHT: {accumulator(8)}")


def write_words(
    spec: KernelSpec, axis: Axis, lowering: Lowering, scope: Scope, rows: str = ""
) -> None:
    """Write `row_words`, those of a masked tile, into the block of `scope`.

    The ends of rows are found once for a work, and stand in registers until its end, or in each
    tile. The backward kernels have no registers for that, and the forward kernel has none beside
    outputs of more than 128 columns.

    Args:
        axis: the inner one, of the columns of the scores.
        rows: source of the bool that a row is one; "" where that does not matter.
    """
    first = axis.first.replace(" - ", "") + " + " if axis.first else ""
    block, start = scope.block, f"{axis.tile} * {axis.block}"
    block.line(f"first_column = {first}{start}")
    block.line(f"columns = gl.minimum({axis.block}, {axis.length} - {start})")
    if rows:
        block.line(f"columns = gl.where({rows}, columns, 0)")
    shape = f"[{GROUP_ROWS}, 1], 0, gl.int32, SCORES"
    block.line(f"column_stop = gl.full({shape}) + first_column + columns")
    ends = [(i.lower, i.upper) for i in row_intervals(spec)]
    loads = any(n.op is Op.LOAD for n in walk(*chain(*ends)))
    if not loads and (axis is QUERIES or spec.value_dim > 128):
        scope = _scope_of_tile(axis, scope)
    words: list[str] = []
    for pair in ends:
        lower, upper = lowering.lower(pair, scope)
        words.append(f"between({lower}, {upper}, first_column, column_stop, EIGHT)")
    block.line(f"row_words = {words[0]}")
    for more in words[1:]:
        block.line(f"row_words |= {more}")


def _scope_of_tile(axis: Axis, scope: Scope) -> Scope:
    """The scope of a tile where nothing is known of its rows but their positions.

    The compiler does not know that the number which is added to them is 0.
    """
    assert scope.outer is not None
    outer = axis.outer_tile.removesuffix("_tile")
    scope.block.line(f"position = {outer} + (note >> 31)")
    return Scope(scope.block, None, {**scope.outer.variables, outer: "position"})


def kept(numbers: str, other: str, axis: Axis) -> str:
    """The source of the numbers of a masked tile, `other` in place of those of masked pairs."""
    return f"keep_columns({numbers}, row_words, {other}, {axis.block})"
