"""`plan`, and the public `BlockPlan`: made of a mask, of chosen tiles, or of torch's BlockMask.

Which tiles a mask needs is found in the analysis; this file writes chosen tiles as a mask, and
checks what it is given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self, TypeVar, cast

from flexdsl import analysis
from flexdsl.analysis.arguments import check_sizes
from flexdsl.errors import ArgumentError
from flexdsl.ir import (
    Capture,
    DType,
    Expr,
    Kind,
    Op,
    Program,
    apply,
    const,
    load,
    rename_apart,
    var,
)
from flexdsl.mod import as_mod

Tile = tuple[int, int]


class BlockPlan(analysis.BlockPlan):
    """Which tiles of the attention matrix are empty, partial or full; `fx.plan` makes one."""

    @classmethod
    def from_blocks(
        cls,
        blocks: Any,
        *,
        mask: Any = None,
        tile: Tile = (128, 128),
        q_len: int | None = None,
        kv_len: int | None = None,
        batch: int | None = None,
        heads: int | None = None,
        q_offset: int = 0,
        device: Any = None,
    ) -> Self:
        """The plan of tiles that were chosen at run time, with a mask inside of them.

        A pair is allowed where its tile is chosen and `mask` allows it. Kernels may run in other
        tiles than these: they find out which of theirs are needed. Nothing waits for a GPU.

        Args:
            blocks: bool [B or 1, Hq or 1, q tiles, kv tiles], a torch tensor or a numpy array.
            mask: a mask mod, a function (b, h, q, kv) -> bool, or text; None for every pair.
            tile: rows and columns of the tiles of `blocks`.
            q_len, kv_len: queries and keys; None for whole tiles.
            batch, heads: B and Hq, where `blocks` has 1 of them and `mask` tells them apart.
            q_offset: position of the first query, for `mask`; row r is in tile r // tile[0].
            device: where the table is made; None for the GPU of `blocks`, or else the host.

        Raises:
            ArgumentError: `blocks` is no tensor of bools, or of another shape than the lengths ask.
        """
        _check_blocks(blocks)
        program = None if mask is None else as_mod(mask, Kind.MASK).program
        lengths = _lengths(blocks, tile, q_len, kv_len)
        sizes = _sizes(blocks, program, batch, heads)
        chosen = _load("blocks", blocks, tile, q_offset)
        made = _chosen(program, {"blocks": blocks}, lambda inside: apply(Op.AND, chosen, inside))
        where = device or _gpu_of(blocks)
        return _make(cls, made, *lengths, *sizes, tile, q_offset, where)

    @classmethod
    def from_block_mask(
        cls,
        block_mask: Any,
        *,
        batch: int | None = None,
        heads: int | None = None,
        q_offset: int = 0,
        device: Any = None,
    ) -> Self:
        """The plan of torch's `BlockMask`: its full tiles, and its other tiles under its mask_mod.

        Args:
            block_mask: `torch.nn.attention.flex_attention.BlockMask` with four dimensions.
            batch, heads, q_offset, device: as in `from_blocks`.

        Raises:
            ArgumentError: it is no such BlockMask.
            ResultError, UnsupportedError, ...: its mask_mod cannot be read.
        """
        from flexdsl.plans.block_mask import chosen_blocks, is_block_mask, mask_mod_of

        if not is_block_mask(block_mask):
            raise ArgumentError(
                f"a {type(block_mask).__name__} is no BlockMask with four dimensions",
                fix="BlockPlan.from_blocks for a tensor of bools, [B, H, q tiles, kv tiles]",
            )
        tile = cast(Tile, tuple(block_mask.BLOCK_SIZE))
        q_len, kv_len = block_mask.seq_lengths
        partial, full = chosen_blocks(block_mask)
        function = mask_mod_of(block_mask)
        program = None if function is None else as_mod(function, Kind.MASK).program
        captures = {"partial_blocks": partial}
        if full is not None:
            captures["full_blocks"] = full
        some, *whole = (_load(name, x, tile, q_offset) for name, x in captures.items())

        def allowed(inside: Expr) -> Expr:
            masked = apply(Op.AND, some, inside)
            return apply(Op.OR, whole[0], masked) if whole else masked

        made = _chosen(program, captures, allowed)
        sizes = _sizes(partial, program, batch, heads)
        where = device or _gpu_of(partial)
        return _make(cls, made, q_len, kv_len, *sizes, tile, q_offset, where)

    def to_block_mask(self, device: Any = None) -> Any:
        """torch's `BlockMask` of this plan: its tiles, both ways, and its mask as mask_mod.

        The mask is that of now. A plan of kind "device" is copied to the host for it. BlockMask
        has no q_offset: its mask_mod adds it to the row.

        Args:
            device: of its tensors; None for that of the captured tensors, or else the CPU.

        Returns:
            `torch.nn.attention.flex_attention.BlockMask`, with this plan's tile as BLOCK_SIZE.

        Raises:
            ArgumentError: there is no pair, so that BlockMask has no tiles.
        """
        from flexdsl.plans.block_mask import make_block_mask

        if 0 in (self.q_len, self.kv_len, self.batch, self.heads):
            raise ArgumentError(
                "a BlockMask has at least one tile, and this plan has no pair",
                fix="a plan of lengths, batch and heads of at least 1",
            )
        return make_block_mask(self, device)


def plan(
    mask: Any,
    q_len: int,
    kv_len: int,
    *,
    batch: int = 1,
    heads: int = 1,
    tile: Tile = (128, 128),
    q_offset: int = 0,
    device: Any = None,
) -> BlockPlan:
    """The proven block plan of a mask: which tiles are empty, full or partial.

    Args:
        mask: a mask mod, a plain function, text, or None for attention without a mask.
        q_len, kv_len: numbers of queries and keys.
        batch, heads: numbers of batches and query heads.
        tile: rows and columns of a tile.
        q_offset: position of the first query.
        device: of attention. A table that depends on captured tensors is made there, when it is
            first needed, and nothing waits for it; None for a plan made on the host, now, which
            copies captured tensors there.

    Raises:
        ArgumentError: a length, tile or offset that makes no sense.
        KindError: `mask` is no mask.
        CaptureError, IndexRangeError: a captured tensor is missing, or is read outside its range.
    """
    program = None if mask is None else as_mod(mask, Kind.MASK).program
    return _make(BlockPlan, program, q_len, kv_len, batch, heads, tile, q_offset, device)


P = TypeVar("P", bound=BlockPlan)


def _make(
    made: type[P],
    program: Program | None,
    q_len: int,
    kv_len: int,
    batch: int,
    heads: int,
    tile: Tile,
    q_offset: int,
    device: Any,
) -> P:
    plan = analysis.make_plan(
        program,
        q_len,
        kv_len,
        batch=batch,
        heads=heads,
        tile=tile,
        q_offset=q_offset,
        device=None if device is None else str(device),
        made=made,
    )
    return cast(P, plan)


def _check_blocks(blocks: Any) -> None:
    """Raise `ArgumentError` unless `blocks` is a tensor of bools with four dimensions."""
    dtype = str(getattr(blocks, "dtype", None)).removeprefix("torch.")
    if dtype != "bool":
        raise ArgumentError(
            f"blocks is {'a ' + type(blocks).__name__ if dtype == 'None' else 'of ' + dtype}",
            why="it says of each tile whether it is chosen",
            fix="a tensor of bools, such as scores > threshold; BlockPlan.from_block_mask for a"
            " BlockMask",
        )
    if blocks.ndim != 4:
        raise ArgumentError(
            f"blocks has shape {list(blocks.shape)}: it takes four dimensions",
            fix="[B, Hq, q tiles, kv tiles], with 1 for B or Hq where all share one choice",
        )


def _lengths(blocks: Any, tile: Tile, q_len: int | None, kv_len: int | None) -> tuple[int, int]:
    """The lengths that were given, which `blocks` has to fit, or whole tiles."""
    check_sizes({"q_len": q_len or 0, "kv_len": kv_len or 0}, tile, 0)
    found = []
    for name, axis, given in (("q_len", 0, q_len), ("kv_len", 1, kv_len)):
        count, width = blocks.shape[2 + axis], tile[axis]
        length = count * width if given is None else given
        if -(-length // width) != count:
            raise ArgumentError(
                f"blocks has {count} tiles of {width} along dimension {2 + axis}, but {name} is"
                f" {length}, which has {-(-length // width)}",
                fix="tile=(rows, columns) as the choice was made for; lengths of q and k",
            )
        found.append(length)
    return found[0], found[1]


def _sizes(
    blocks: Any, program: Program | None, batch: int | None, heads: int | None
) -> tuple[int, int]:
    """Batches and heads of the plan."""
    used = frozenset[str]() if program is None else program.expr.variables
    found = []
    for name, axis, given in (("batch", 0, batch), ("heads", 1, heads)):
        count = blocks.shape[axis]
        if given is None and count == 1 and name[0] in used:
            raise ArgumentError(
                f"the mask depends on {name[0]}, and the tiles are for 1 of them",
                why="how many there are is not known from the tiles",
                fix=f"{name}=..., as q has",
            )
        if given is not None and count not in (1, given):
            raise ArgumentError(
                f"{name} is {given}, but the tiles are for {count}",
                fix=f"{name}={count}, or blocks with 1 or {given} along dimension {axis}",
            )
        found.append(count if given is None else given)
    return found[0], found[1]


def _load(name: str, blocks: Any, tile: Tile, q_offset: int) -> Expr:
    """Whether the tile of a pair is chosen."""
    b, h = (
        const(0) if blocks.shape[axis] == 1 else var(variable) for axis, variable in enumerate("bh")
    )
    row = apply(Op.SUB, var("q"), const(q_offset)) if q_offset else var("q")
    i, j = (apply(Op.FLOORDIV, x, const(n)) for x, n in zip((row, var("kv")), tile, strict=True))
    return load(Capture(name, DType.BOOL, 4), b, h, i, j)


def _chosen(
    program: Program | None, captures: dict[str, Any], allowed: Callable[[Expr], Expr]
) -> Program:
    """The mask of chosen tiles.

    Args:
        program: the mask inside of them, or None.
        captures: tensors of the choice, by name.
        allowed: the whole mask, from the one inside.
    """
    name = "_and_".join([*captures, *([program.name] if program is not None else [])])
    if program is None:
        return Program(Kind.MASK, name, allowed(const(True)), captures)
    apart = rename_apart(program, captures)
    values = {**captures, **apart.values}
    return replace(apart, name=name, expr=allowed(apart.expr), values=values)


def _gpu_of(blocks: Any) -> Any:
    """The device of a tensor that is not on the host."""
    device = getattr(blocks, "device", None)
    return None if getattr(device, "type", "cpu") == "cpu" else device
