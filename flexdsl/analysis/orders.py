"""Other orders of the tokens of a line or a grid: what they would make of a plan, with figures.

Windows over a row-major grid have their tokens together in patches; masks that compare remainders,
in classes of equal remainders. The mask is written for tokens that stand so, and planned for the
same lengths. Nothing is moved here: `stdlib.TileOrder` moves tokens, and has the formula.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice, product
from math import prod
from typing import TYPE_CHECKING

from flexdsl.analysis.values import substitute
from flexdsl.ir import Expr, Op, Program, apply, const, var, walk

if TYPE_CHECKING:
    from flexdsl.analysis.plan import BlockPlan

Q, KV = var("q"), var("kv")
_MOST_TILES = 1 << 22  # of a plan for which others are made
_MOST_ORDERS = 16  # that are tried


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
            f"row-major {len(self.tile)}-D window: tiles of {size} tokens {straddle}; with the"
            f" tokens in patches of {tile}, one patch after the other"
        )


def advice_on_order(plan: BlockPlan, mask: Program) -> Iterator[str]:
    """The order of tokens, if there is one, in which the plan has the fewest live tiles."""
    size = max(plan.tile_shape)
    if plan.q_offset or plan.q_len != plan.kv_len or any(size % n for n in plan.tile_shape):
        return
    if plan.q_tiles * plan.kv_tiles > _MOST_TILES:
        return
    best, live, full = None, plan.live_tiles, plan.full_tiles
    for order, expr in islice(_orders(mask.expr, plan.q_len, size), _MOST_ORDERS):
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
    grids = list(_grids(expr, length))
    for step in [] if grids else _divisors(expr, {Q, KV}):
        if length % (size * step) == 0:
            order = _Order((length,), (size,), (step,))
            yield order, substitute(expr, {x: order.coordinates(x)[0] for x in (Q, KV)})
    for shape, axes in grids:
        plain, *dilations = product(*(_steps(expr, axis) for axis in axes))
        # A mask that is dilated on several axes is to have its classes on all of them.
        dilations.sort(key=lambda steps: -sum(step > 1 for step in steps))
        for dilation in (plain, *dilations):
            for tile in _patches(shape, dilation, size):
                order = _Order(shape, tile, dilation)
                yield order, substitute(expr, dict(_moved(order, axes)))


def _steps(expr: Expr, axis: dict[Expr, _Coordinate]) -> list[int]:
    """Dilations of an axis that may be better; 1 for none is the first."""
    rests = [c.number for c in axis.values() if c.rest]
    return list(dict.fromkeys([1, *_divisors(expr, set(axis)), *rests]))


def _moved(order: _Order, axes: _Axes) -> Iterator[tuple[Expr, Expr]]:
    """Each coordinate, and what it is of the token at the same place in an order."""
    at = {x: order.coordinates(x) for x in (Q, KV)}
    for number, axis in enumerate(axes):
        for node, coordinate in axis.items():
            yield node, coordinate.of(at[coordinate.position][number])


@dataclass(frozen=True, slots=True)
class _Coordinate:
    """What a node is: a coordinate of a position divided by a number, or the rest of that."""

    position: Expr
    number: int = 1
    rest: bool = False

    def of(self, coordinate: Expr) -> Expr:
        """The same of another coordinate."""
        return _by(Op.MOD if self.rest else Op.FLOORDIV, coordinate, self.number)


_Axes = list[dict[Expr, _Coordinate]]


def _grids(expr: Expr, length: int) -> Iterator[tuple[tuple[int, ...], _Axes]]:
    """Grids of whose coordinates the mask is made, of 3 axes or of 2, and their nodes by axis."""
    widths = [(width,) for width in _divisors_of(expr, {Q, KV})]
    planes = (
        (height, width)
        for (width,) in widths
        for height in _divisors_of(expr, {_by(Op.FLOORDIV, x, width) for x in (Q, KV)})
    )
    for inner in (*planes, *widths):
        shape = (length // prod(inner), *inner)
        axes = _coordinates(expr, shape)
        rest = substitute(expr, {n: const(0) for axis in axes for n in axis})
        whole = prod(shape) == length and min(shape) > 1
        if whole and all(axes) and not rest.variables & {"q", "kv"}:
            yield shape, axes


def _coordinates(expr: Expr, shape: tuple[int, ...]) -> _Axes:
    """The nodes that are coordinates, by axis. A first one is a quotient alone."""
    found: _Axes = [{} for _ in shape]
    strides = [prod(shape[axis + 1 :]) for axis in range(len(shape))]
    for node, x in product(walk(expr), (Q, KV)):
        number = node.args[1].attribute if node.op in (Op.FLOORDIV, Op.MOD) else None
        if not isinstance(number, int) or number < 1:
            continue
        if node.op is Op.FLOORDIV and node.args[0] is x and number % strides[0] == 0:
            found[0][node] = _Coordinate(x, number // strides[0])
        for axis, (size, stride) in enumerate(zip(shape, strides, strict=True)):
            of_axis = node.op is Op.MOD and node.args[0] is _by(Op.FLOORDIV, x, stride)
            if of_axis and size % number == 0:
                whole = axis > 0 and number == size
                found[axis][node] = _Coordinate(x) if whole else _Coordinate(x, number, True)
    return found


def _divisors_of(expr: Expr, dividends: set[Expr]) -> list[int]:
    """n of the remainders of these by n, the largest first."""
    nodes = (n for n in walk(expr) if n.op is Op.MOD and n.args[0] in dividends)
    numbers = {n.args[1].attribute for n in nodes}
    return sorted((n for n in numbers if isinstance(n, int) and n > 1), reverse=True)


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


def _patches(shape: tuple[int, ...], dilation: tuple[int, ...], size: int) -> list[tuple[int, ...]]:
    """The two squarest patches of `size` tokens, longest on the last axis, that fit into a grid.

    Of classes, which may have fewer tokens, patches may be of a half or a quarter.
    """
    if any(n % step for n, step in zip(shape, dilation, strict=True)):
        return []
    counts = [n // step for n, step in zip(shape, dilation, strict=True)]
    for volume in (size, size // 2, size // 4) if max(dilation) > 1 else (size,):
        parts = (
            [n for n in range(1, volume + 1) if volume % n == count % n == 0] for count in counts
        )
        tiles = [t for t in product(*parts) if prod(t) == volume and t[-1] < volume]
        if tiles:
            alike: dict[tuple[int, ...], tuple[int, ...]] = {}
            for tile in sorted(tiles, key=lambda t: (sum(t), t != tuple(sorted(t)))):
                alike.setdefault(tuple(sorted(tile)), tile)
            return list(alike.values())[:2]
    return []


def _by(op: Op, x: Expr, n: int) -> Expr:
    return apply(op, x, const(n))


def _digits(x: Expr, sizes: list[int] | tuple[int, ...]) -> list[Expr]:
    """Row-major coordinates; the first one is not reduced, as it is small enough."""
    strides = [prod(sizes[axis + 1 :]) for axis in range(len(sizes))]
    first, *others = (_by(Op.FLOORDIV, x, stride) for stride in strides)
    return [first, *(_by(Op.MOD, y, n) for y, n in zip(others, sizes[1:], strict=True))]
