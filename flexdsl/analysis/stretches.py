"""Stretches of rows in which a mask is simpler, and repeats along the diagonal.

A neighbourhood is clamped in the first and the last rows of the image only: `max(q // W, 6)` is 6
up to q == 6 * W and `q // W` from there on. Between the rows at which a condition or a clamp of q
alone changes, it is decided by proof, and what is left often repeats: `repeated.py` plans it by one
step. Which rows those are is solved for; nothing is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

from flexdsl.analysis.closed_form import Declined
from flexdsl.analysis.prove import Prover
from flexdsl.analysis.repeated import repeated_table
from flexdsl.analysis.scene import Scene
from flexdsl.analysis.solve import Solver
from flexdsl.analysis.subdivide import map_tiles
from flexdsl.analysis.table import RunTable, stacked, table_of_maps
from flexdsl.analysis.values import is_deep, specialise, substitute
from flexdsl.ir import Expr, Op, Type, apply, const, walk
from flexdsl.ir.ops import COMPARISONS

FEWEST_TILES = 512  # along q: with fewer of them there is little to save
MOST = 8  # changes of a mask along q: with more of them the stretches are short


def stretched_table(scene: Scene) -> RunTable | None:
    """The runs of kv tiles of every q tile; None where no stretch of rows is known to repeat."""
    if scene.grid.is_empty or scene.grid.q_tiles < FEWEST_TILES:
        return None
    mask = specialise(scene.expr, scene.bindings)
    cuts = [] if is_deep(mask) else _cuts(mask, scene)
    if not 2 < len(cuts) <= MOST:
        return None
    parts = [_stretch(mask, scene, first, stop) for first, stop in pairwise(cuts)]
    found = [repeated_table(part) for part in parts]
    if all(table is None for table in found):
        return None
    tables = [
        table or table_of_maps(map_tiles(part), part)
        for part, table in zip(parts, found, strict=True)
    ]
    return stacked(tables, scene.grid.batch * scene.grid.heads)


def _cuts(mask: Expr, scene: Scene) -> list[int]:
    """Rows, first ones of tiles, between which no condition of q alone changes; both ends too."""
    grid = scene.grid
    height = grid.tile[0]
    # A tile that the length cuts is a stretch by itself.
    cuts = {0, grid.q_len, grid.q_len // height * height}
    for position in _changes(mask, Prover("q", grid, scene.bindings)):
        row = position - grid.q_offset
        cuts |= {x for x in (row // height * height, -(-row // height) * height) if x >= 0}
    return sorted(x for x in cuts if x <= grid.q_len)


def _changes(mask: Expr, prover: Prover) -> Iterator[int]:
    """Positions at which a condition or a choice of q alone changes, where they can be solved."""
    for condition in dict.fromkeys(_condition(n) for n in walk(mask) if _is_choice(n)):
        try:
            pieces = Solver("q", prover).solve(condition)
        except Declined:
            continue
        for end in (end for piece in pieces for end in (piece.lower, piece.upper)):
            if isinstance(end.attribute, int):
                yield end.attribute


def _is_choice(node: Expr) -> bool:
    """Does a node of q alone compare or choose?"""
    compares = node.op in COMPARISONS or node.op in (Op.MIN, Op.MAX)
    return compares and node.variables == {"q"} and node.args[0].type is Type.INDEX


def _condition(node: Expr) -> Expr:
    return node if node.type is Type.BOOL else apply(Op.LE, *node.args)


def _stretch(mask: Expr, scene: Scene, first: int, stop: int) -> Scene:
    """The mask in rows [first, stop), without what is decided there."""
    grid = replace(scene.grid, q_len=stop - first, q_offset=scene.grid.q_offset + first)
    simple = simplified(mask, Prover("q", grid, scene.bindings))
    return replace(scene, expr=simple, grid=grid)


def simplified(mask: Expr, prover: Prover) -> Expr:
    """The mask without the conditions and choices of q alone that are decided in all rows."""
    done: dict[Expr, Expr] = {}
    for node in walk(mask):
        done[node] = substitute(node, done)
        if _is_choice(node):
            condition = _condition(node)
            if prover.always(condition):
                done[node] = _outcome(node, done, True)
            elif prover.always(apply(Op.NOT, condition)):
                done[node] = _outcome(node, done, False)
    return done[mask]


def _outcome(node: Expr, done: dict[Expr, Expr], value: bool) -> Expr:
    """What a condition is, or a min or max, where its condition is `value`."""
    if node.type is Type.BOOL:
        return const(value)
    return done[node.args[0 if value == (node.op is Op.MIN) else 1]]
