"""How long and how many: the largest sizes at which no captured tensor is read outside its range.

They are found by trying: `check_loads` proves or refutes that every index is in range. A larger
call has all pairs of a smaller one, so what does not fit never fits again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

from flexdsl.analysis import check_loads
from flexdsl.errors import IndexRangeError
from flexdsl.testing.subject import Subject


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The largest sizes that are drawn.

    Attributes:
        batch, heads: numbers of batches and query heads.
        q_positions: end of the queries' positions, q_offset + q_len.
        kv_len: number of keys.
    """

    batch: int
    heads: int
    q_positions: int
    kv_len: int

    def __str__(self) -> str:
        return (
            f"batches up to {self.batch}, query heads up to {self.heads}, "
            f"query positions up to {self.q_positions}, keys up to {self.kv_len}"
        )


NAMES = tuple(f.name for f in fields(Limits))


def check_sizes(subject: Subject, sizes: Limits) -> None:
    """Prove that captured tensors are long enough for calls of these sizes.

    Raises:
        IndexRangeError: one is not.
    """
    mask, score = subject.mask_program, subject.score_program
    for program, under in ((mask, None), (score, mask)):
        if program is None:
            continue
        values = {**program.values, **({} if under is None else under.values)}
        axes = sizes.q_positions, sizes.kv_len, sizes.batch, sizes.heads, 0
        condition = None if under is None else under.expr
        check_loads(program.expr, condition, *axes, values, program.spans)


def find_limits(subject: Subject, least: Limits, most: Limits) -> Limits:
    """Sizes from `least` to `most`, none of which can grow alone.

    Raises:
        IndexRangeError: not even `least` fits.
    """

    def fits(sizes: Limits) -> bool:
        try:
            check_sizes(subject, sizes)
        except IndexRangeError:
            return False
        return True

    if fits(most):
        return most
    check_sizes(subject, least)

    # Each axis beside the least of the others, all of them together, then each as far as it goes.
    alone = replace(least, **{n: _grown(fits, least, n, getattr(most, n)) for n in NAMES})
    if fits(alone):
        return alone

    def cut(length: int) -> Limits:
        sizes = {n: max(getattr(least, n), min(getattr(alone, n), length)) for n in NAMES}
        return Limits(**sizes)

    longest = max(getattr(alone, n) for n in NAMES)
    found = cut(_largest(lambda n: fits(cut(n)), 0, longest))
    for name in NAMES:
        found = replace(found, **{name: _grown(fits, found, name, getattr(alone, name))})
    return found


def _grown(fits: Callable[[Limits], bool], sizes: Limits, name: str, most: int) -> int:
    return _largest(lambda n: fits(replace(sizes, **{name: n})), getattr(sizes, name), most)


def _largest(fits: Callable[[int], bool], low: int, high: int) -> int:
    """The largest n in [low, high] that fits, where `low` does and what fits is a prefix."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
