"""Which calls compute terms of q - kv once for each difference, and load them from tables.

Which terms of a score those are: `analysis/differences.py`. The tables are a pass's own tensors,
which a kernel fills before all others (`passes.py`), so that whatever they are computed from may
change from call to call. The numbers are those of the score as it is written, for every dtype.

A table pays where many pairs have each difference. In decoding a row has each once: the table would
be computed, stored and loaded again for nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from flexdsl.analysis.differences import depends_on, describe_tables, take_tables, with_loads
from flexdsl.codegen import MARGIN, table_length
from flexdsl.ir import DType
from flexdsl.runtime.bind import Bound, Lengths

FEWEST_PAIRS = 8  # of a head for each of its differences
_ELEMENTS = {DType.F32: torch.float32, DType.I32: torch.int32, DType.I64: torch.int64}


def with_tables(bound: Bound) -> Bound:
    """A call whose kernels load what its score computes from q - kv alone, where that pays."""
    if _reason_against(bound.lengths):
        return bound
    taken = frozenset((*bound.mask_values, *bound.score_values))
    tables, score = take_tables(bound.score, frozenset(bound.learned), taken)
    if not tables:
        return bound
    with_table = replace(bound, score=score, tables=tables)
    lengths, values = bound.lengths, dict(bound.score_values)
    values[str(tables[0].zero_at.attribute)] = MARGIN + lengths.kv_len - 1 - lengths.q_offset
    for name, shape, dtype in tables_of(with_table):
        values[name] = torch.empty(shape, dtype=dtype, device="meta")
    loads = frozenset(with_loads(n, tables) for n in bound.clamped)
    return replace(with_table, score_values=values, clamped=loads)


def tables_of(bound: Bound) -> Iterator[tuple[str, tuple[int, ...], torch.dtype]]:
    """The name, shape and elements of each table of a call."""
    lengths = bound.lengths
    axes = ("b", lengths.batch), ("h", lengths.heads)
    planes = (n for name, n in axes if depends_on(bound.tables, name))
    shape = (*planes, table_length(differences_of(lengths)))
    return ((t.capture.name, shape, _ELEMENTS[t.capture.dtype]) for t in bound.tables)


def differences_of(lengths: Lengths) -> int:
    """How many differences q - kv the pairs of a call have."""
    return lengths.q_len + lengths.kv_len - 1


def explain_tables(bound: Bound) -> Iterator[str]:
    """A line for each term of q - kv that is worth a table: has it one in this call, and why?"""
    if bound.score is None:
        return
    against = _reason_against(bound.lengths)
    backward = list(describe_tables(bound.score.expr, frozenset(bound.learned)))
    forward = list(describe_tables(bound.score.expr))
    for line in forward:
        if against:
            yield f"{line}; not in this call: {against}"
        elif line in backward:
            yield f"{line}, forward and backward"
        else:
            yield f"{line}, forward; not backward: {', '.join(bound.learned)} is learned"
    if not against:
        yield from (f"{line}, backward" for line in backward if line not in forward)


def _reason_against(lengths: Lengths) -> str:
    """Why tables do not pay for a call of these lengths; "" where they do."""
    pairs, differences = lengths.q_len * lengths.kv_len, differences_of(lengths)
    if pairs >= FEWEST_PAIRS * differences:
        return ""
    return (
        f"a head has {pairs} pairs and {differences} differences, and a table pays from"
        f" {FEWEST_PAIRS} pairs for each on"
    )
