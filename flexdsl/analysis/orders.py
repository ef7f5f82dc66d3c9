"""Other orders of the tokens of a line or a grid: what they would make of a plan, with figures.

Windows over a row-major grid have their tokens together in patches; masks that compare remainders,
in classes of equal remainders. The mask is written for tokens that stand so, and planned for the
same lengths. Nothing is moved here: `stdlib.TileOrder` moves tokens, and has the formula.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import TYPE_CHECKING

from flexdsl.analysis.values import substitute
from flexdsl.ir import Expr, Op, Program, apply, const, var, walk

if TYPE_CHECKING:
    from flexdsl.analysis.plan import BlockPlan

Q, KV = var("q"), var("kv")
_MOST_TILES = 1 << 22  # of a plan for which another one is made


@dataclass(frozen=True)
class _Order:
    """An order of tokens, by the numbers of `stdlib.TileOrder`: one of each for an axis."""

    shape: tuple[int, ...]
    tile: tuple[int, ...]
    dilation: tuple[int, ...]

    def __str__(self) -> str:
        dilation = f", dilation={self.dilation}" if max(self.dilation) > 1 else ""
        return f"TileOrder({self.shape}, {self.tile}{dilation})"

    def coordinates(self, place: Expr) -> list[Expr]:
        """The index on each axis of the token at a place."""
        volume = prod(self.tile)
        axes = zip(self.shape, self.tile, self.dilation, strict=True)
        counts = [size // (part * step) for size, part, step in axes]
        tile = _by(Op.FLOORDIV, place, volume)
        inside = _digits(_by(Op.MOD, place, volume), self.tile)
        classes = _digits(_by(Op.FLOORDIV, tile, prod(counts)), self.dilation)
        if max(self.dilation) > 1:
            tile = _by(Op.MOD, tile, prod(counts))
        found: list[Expr] = []
        for axis, number in enumerate(_digits(tile, counts)):
            index = apply(Op.ADD, _by(Op.MUL, number, self.tile[axis]), inside[axis])
            own = _by(Op.MOD, classes[axis], self.dilation[axis])
            found.append(apply(Op.ADD, _by(Op.MUL, index, self.dilation[axis]), own))
        return found

    def describe(self, size: int) -> str:
        """What is so in row-major order, and how the tokens stand in this one."""
        tile, steps = (" x ".join(map(str, x)) for x in (self.tile, self.dilation))
        if max(self.dilation) > 1:
            tiles = f"patches of {tile}" if len(self.tile) > 1 else f"tiles of {tile}"
            return f"remainders by {steps}: with tokens of equal ones together, in {tiles}"
        width = self.shape[-1]
        straddle = f"straddle rows of {width}" if size > width else f"are pieces of rows of {width}"
        return (
            f"row-major 2-D window: tiles of {size} tokens {straddle}; with the tokens in patches"
            f" of {tile}, one patch after the other"
        )


def advice_on_order(plan: BlockPlan, mask: Program) -> Iterator[str]:
    """The order of tokens, if there is one, in which the plan has the fewest live tiles."""
    size = max(plan.tile_shape)
    if plan.q_offset or plan.q_len != plan.kv_len or any(size % n for n in plan.tile_shape):
        return
    if plan.q_tiles * plan.kv_tiles > _MOST_TILES:
        return
    best, orders = None, _orders(mask.expr, plan.q_len, size)
    live, full = plan.live_tiles, plan.full_tiles
    for order, expr in orders:
        other = plan.with_mask(replace(mask, expr=expr))
        if (other.live_tiles, -other.full_tiles) < (live, -full):
            best, live, full = order, other.live_tiles, other.full_tiles
    if best is not None:
        before = plan.full_tiles / plan.live_tiles
        yield (
            f"{best.describe(size)}, {live} tiles are live (now {plan.live_tiles}),"
            f" {full / max(live, 1):.0%} of them full (now {before:.0%}); stdlib.{best} orders"
            " tokens so, and mask.in_order(order) the mask"
        )


def _orders(expr: Expr, length: int, size: int) -> Iterator[tuple[_Order, Expr]]:
    """Orders that may be better, and the mask for tokens that stand so."""
    width = _width_of_grid(expr)
    if width is None:
        for step in _divisors(expr, {Q, KV}):
            if length % (size * step) == 0:
                order = _Order((length,), (size,), (step,))
                yield order, substitute(expr, {x: order.coordinates(x)[0] for x in (Q, KV)})
    elif length % width == 0:
        axes = [{_by(op, x, width): x for x in (Q, KV)} for op in (Op.FLOORDIV, Op.MOD)]
        steps = ([1, *_divisors(expr, set(axis))] for axis in axes)
        for dilation in product(*steps):
            tile = _patch((length // width, width), dilation, size)
            if tile is not None:
                order = _Order((length // width, width), tile, dilation)
                new = {n: order.coordinates(x)[i] for i, a in enumerate(axes) for n, x in a.items()}
                yield order, substitute(expr, new)


def _width_of_grid(expr: Expr) -> int | None:
    """w where q and kv stand in `x // w` and `x % w` only, both of them in each."""
    coordinates = {n for n in walk(expr) if n.op in (Op.FLOORDIV, Op.MOD) and n.args[0] in (Q, KV)}
    widths = {n.args[1] for n in coordinates}
    if len(coordinates) != 4 or len(widths) != 1:
        return None
    rest = substitute(expr, dict.fromkeys(coordinates, const(0)))
    width = widths.pop().attribute
    if rest.variables & {"q", "kv"} or not isinstance(width, int) or width < 2:
        return None
    return width


def _divisors(expr: Expr, positions: set[Expr]) -> list[int]:
    """n of remainders by n that know no other positions than those."""
    found: dict[int, None] = {}
    for node in walk(expr):
        if node.op is not Op.MOD or node in positions:
            continue
        number = node.args[1].attribute
        rest = substitute(node.args[0], dict.fromkeys(positions, const(0)))
        if rest is not node.args[0] and not rest.variables & {"q", "kv"}:
            found |= {number: None} if isinstance(number, int) and number > 1 else {}
    return list(found)


def _patch(shape: tuple[int, int], dilation: tuple[int, ...], size: int) -> tuple[int, int] | None:
    """The squarest patch of `size` tokens that the grid is made of; of classes, a half or quarter.

    A class may have fewer tokens than `size`.
    """
    rows, columns = (n // step for n, step in zip(shape, dilation, strict=True))
    if any(n % step for n, step in zip(shape, dilation, strict=True)):
        return None
    for volume in (size, size // 2, size // 4) if max(dilation) > 1 else (size,):
        shapes = ((n, volume // n) for n in range(2, volume + 1) if volume % n == 0)
        fitting = [(n, m) for n, m in shapes if rows % n == 0 and columns % m == 0]
        if fitting:
            return min(fitting, key=lambda shape: abs(shape[0] - shape[1]))
    return None


def _by(op: Op, x: Expr, n: int) -> Expr:
    return apply(op, x, const(n))


def _digits(x: Expr, sizes: list[int] | tuple[int, ...]) -> list[Expr]:
    """Row-major coordinates; the first one is not reduced, as it is small enough."""
    strides = [prod(sizes[axis + 1 :]) for axis in range(len(sizes))]
    first, *others = (_by(Op.FLOORDIV, x, stride) for stride in strides)
    return [first, *(_by(Op.MOD, y, n) for y, n in zip(others, sizes[1:], strict=True))]
