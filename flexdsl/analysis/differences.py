"""What a score computes from q - kv alone, as tables with one number for each difference.

    score + sum of 64 cos((q - kv) * w)    ->    score + of_difference_0[q + zero_at - kv]

There are q_len + kv_len - 1 differences and q_len * kv_len pairs: what is dear is computed for the
former, before the kernels of attention, which load it. The operations and their order stay as they
are written, so that the numbers do. `zero_at` is where a table has the difference 0.

A table takes the place of the largest terms that know b, h and q - kv only, and whose operations
are worth more than a load. What is read from a tensor that is learned stays, since its gradient is
read off the load; its index may be a table. Masks have none: only tiles at their edges look at
them. Who writes the tables is for `codegen/differences.py`, which calls take them for the runtime.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from flexdsl.analysis.prices import price_of
from flexdsl.analysis.toeplitz import by_difference
from flexdsl.analysis.values import substitute
from flexdsl.ir import (
    Capture,
    DType,
    Expr,
    Op,
    Program,
    Type,
    apply,
    load,
    param,
    var,
    walk,
)

# A table costs its load, and the place of a pair in it: an addition to the address of a row, in 64
# bits. On an H200, causal, 16384 tokens, a load took about as long as ten simple operations: ALiBi,
# with four, took 25 % longer than plain causal attention, and a learned table, whose index has
# bounds, 67 % (torch 2.11.0+cu130, triton 3.6.0, 2026-11-25). Retention's decay, worth 11, took as
# long forward as it is written as by a table, and less backward: 5.5 ms beside 7.5 (2026-11-26).
PRICE = price_of(Op.LOAD) + 3
MAX_NODES = 1 << 11  # of a score that is looked at
_NAME = "of_difference"
_PAIR = frozenset({"q", "kv"})
# What the operations are called that are dearer than an addition.
_WORDS = {
    **dict.fromkeys((Op.EXP, Op.EXP2), "exponential"),
    **dict.fromkeys((Op.LOG, Op.LOG2), "logarithm"),
    **dict.fromkeys((Op.DIV, Op.FLOORDIV), "division"),
    Op.LOAD: "load",
    Op.COS: "cosine",
    Op.SIN: "sine",
    Op.TANH: "tanh",
    Op.SIGMOID: "sigmoid",
    Op.SQRT: "square root",
    Op.RSQRT: "inverse square root",
    Op.MOD: "remainder",
}


@dataclass(frozen=True, slots=True)
class DifferenceTable:
    """A term of a score that is a number of q - kv.

    Attributes:
        term: as it is written.
        number: the same, in which the variable "q" is q - kv.
        load: what is in the place of the term; its last index is the difference.
        zero_at: the parameter that says where tables have the difference 0.
    """

    term: Expr
    number: Expr
    load: Expr
    zero_at: Expr

    @property
    def capture(self) -> Capture:
        """The table as kernels of attention see it: float32, int32 or int64 [B, Hq, places].

        B and Hq are there where any table of the call depends on b, and on h.
        """
        assert isinstance(self.load.attribute, Capture)
        return self.load.attribute


def depends_on(tables: tuple[DifferenceTable, ...], name: str) -> bool:
    """Does any of the tables depend on the variable `name`, "b" or "h"? All of a call do then."""
    return any(name in t.number.variables for t in tables)


# Asked about the same few scores in each call of attention.
@lru_cache(maxsize=256)
def find_tables(
    score: Expr, learned: frozenset[str] = frozenset(), taken: frozenset[str] = frozenset()
) -> tuple[DifferenceTable, ...]:
    """The terms of a score that are better tables of q - kv, the largest ones.

    Args:
        learned: captures whose loads must stay.
        taken: names that mean something else in the call.
    """
    if sum(1 for _ in walk(score)) > MAX_NODES:
        return ()
    numbers = by_difference(score)
    terms = list(_terms(score, numbers, learned))
    planes = tuple(var(n) for n in ("b", "h") if any(n in numbers[t].variables for t in terms))
    zero_at = param(_fresh("zero_at", taken), Type.INDEX)
    # What is of the row alone is added first, once for all keys.
    place = apply(Op.SUB, apply(Op.ADD, var("q"), zero_at), var("kv"))
    found: list[DifferenceTable] = []
    for i, term in enumerate(terms):
        name = _fresh(f"{_NAME}_{i}", taken)
        capture = Capture(name, _element_of(term), len(planes) + 1)
        found.append(DifferenceTable(term, numbers[term], load(capture, *planes, place), zero_at))
    return tuple(found)


def take_tables(
    score: Program | None,
    learned: frozenset[str] = frozenset(),
    taken: frozenset[str] = frozenset(),
) -> tuple[tuple[DifferenceTable, ...], Program | None]:
    """The tables of a score, and the score that loads from them; arguments as of `find_tables`."""
    tables = () if score is None else find_tables(score.expr, learned, taken)
    if score is None or not tables:
        return (), score
    return tables, replace(score, expr=with_loads(score.expr, tables))


def with_loads(expr: Expr, tables: tuple[DifferenceTable, ...]) -> Expr:
    """The expression with loads of tables in the place of their terms."""
    return substitute(expr, {t.term: t.load for t in tables})


def without_loads(expr: Expr, tables: tuple[DifferenceTable, ...]) -> Expr:
    """The expression with terms in the place of loads of their tables."""
    return substitute(expr, {t.load: t.term for t in tables})


def describe_tables(score: Expr, learned: frozenset[str] = frozenset()) -> Iterator[str]:
    """A line for each table of a score: what is computed once for each difference."""
    for table in find_tables(score, learned):
        operations = [n.op for n in walk(table.term) if n.variables >= _PAIR]
        named = Counter(_WORDS[op] for op in operations if op in _WORDS)
        told = [f"{n} {word}{'s' * (n > 1)}" for word, n in named.items()]
        what = " and ".join(told) or f"{len(operations)} operations"
        of = " and ".join(("q - kv", *(n for n in ("h", "b") if n in table.number.variables)))
        yield f"a table of {of}: {what} once for each difference in place of each pair"


def _terms(score: Expr, numbers: dict[Expr, Expr], learned: frozenset[str]) -> Iterator[Expr]:
    """The largest terms that tables are worth for, in the order of their use."""
    seen: set[Expr] = set()
    stack = [score]
    while stack:
        node = stack.pop()
        if node in seen or not (node.variables >= _PAIR or "score" in node.variables):
            continue
        seen.add(node)
        if not _is_of_difference(node, numbers, learned):
            stack.extend(reversed(node.args))
        elif _price(node) > PRICE:
            yield node


def _is_of_difference(node: Expr, numbers: dict[Expr, Expr], learned: frozenset[str]) -> bool:
    """May the node be an element of a table?"""
    if node.type is Type.BOOL or not numbers[node].variables <= {"q", "b", "h"}:
        return False
    loads = (n.attribute for n in walk(node) if n.op is Op.LOAD)
    return not any(isinstance(c, Capture) and c.name in learned for c in loads)


def _price(term: Expr) -> int:
    """Of what is computed for each pair."""
    return sum(price_of(n.op) for n in walk(term) if n.variables >= _PAIR)


def _element_of(term: Expr) -> DType:
    """The elements of a term's table; as kernels compute the term."""
    if term.type is Type.FLOAT:
        return DType.F32
    return DType.I64 if _is_wide(term) else DType.I32


def _is_wide(index: Expr) -> bool:
    """May kernels compute an index in 64 bits, by the types of what it is made of?"""
    seen: set[Expr] = set()
    stack = [index]
    while stack:
        node = stack.pop()
        seen.add(node)
        if isinstance(node.attribute, Capture):
            if node.attribute.dtype is DType.I64:
                return True
        elif node.op is Op.PARAM:
            return True
        else:
            stack.extend(a for a in node.args if a not in seen)
    return False


def _fresh(name: str, taken: frozenset[str]) -> str:
    while name in taken:
        name += "_"
    return name
