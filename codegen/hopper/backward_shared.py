"""What the consumers of both backward kernels have alike: positions, weights, sums, and results.

There are two kinds of consumers. Where dK and dV of 64 keys are few enough columns for the
registers of a warpgroup, each of two has 64 keys (`backward_consumer.py`); for more columns, one
has dV of 64 keys and the other their dK (`wide.py`). In what order products are issued,
and who waits for whom, is for the file of each kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from flexdsl.analysis.derivative import derivatives
from flexdsl.analysis.finite import is_finite
from flexdsl.ir import Expr, const, var

from ..kernel import KernelSpec, pieces
from ..loops import QUERIES
from ..lower import Lowering, Scope, Text
from ..tiles import loads_at, tile_scope, write_allowed
from ..writer import Block
from . import mask_bits, row_bits
from .backward_tiles import tiles_of
from .module import GROUP_ROWS, Partition, accumulator, matrix, tile_bytes
from .query_sums import part_order
from .row_loads import write_rows
from .schedule import end_of_tiles
from .works import Works


@dataclass(frozen=True)
class Consumers:
    """Consumers of one kind.

    Attributes:
        groups: of 64 keys of a work, whose keys and values have a place each.
        barriers: how many there are of each, and how many arrivals complete a phase; those of the
            producer among them.
        write_tiles: writes the allocations of what is theirs alone, and gives the names.
        partitions: their functions, each with the pairs that `warp_specialize` takes of it; they
            get the names of all shared tiles and barriers, and those of other arguments.
    """

    groups: int
    barriers: Mapping[str, str]
    write_tiles: Callable[[Block, KernelSpec], list[str]]
    partitions: Callable[
        [KernelSpec, Works, Lowering, Sequence[str]], list[tuple[Partition, list[str]]]
    ]


def barriers(arrivals: int, own: Mapping[str, str]) -> dict[str, str]:
    """The barriers of both sides.

    Args:
        arrivals: of consumers, that free the places of keys and of values.
        own: those of consumers alone, but for the one of results.
    """
    return {
        "key_ready": "1, 1",
        "key_free": f"1, {arrivals}",
        "value_ready": "1, 1",
        "value_free": f"1, {arrivals}",
        "query_ready": "STAGES, 1",
        "query_free": "STAGES, 2",
        **own,
        "results_ready": "2, 1",
    }


def numbered(name: str, count: int) -> list[str]:
    """The names of several; of a single one `name` itself."""
    return [name] if count == 1 else [f"{name}_{i}" for i in range(count)]


def write_layouts(body: Block) -> None:
    """Write the layouts of scores, and of their keys and rows."""
    body.line(f"SCORES: {accumulator('BLOCK_M')}")
    body.line("KEYS: gl.constexpr = gl.SliceLayout(1, SCORES)")
    body.line("ROWS: gl.constexpr = gl.SliceLayout(0, SCORES)")


def write_layout_of_bits(body: Block, spec: KernelSpec) -> None:
    """Write the layout of the bits of masked tiles, if there are such."""
    if spec.mask_bits:
        mask_bits.write_layout(body, QUERIES)
    if row_bits.row_intervals(spec):
        row_bits.write_layout(body)


def write_sums(block: Block, spec: KernelSpec) -> None:
    """Write the layouts of dQ and of its sums in memory."""
    tiles = tiles_of(spec.head_dim)
    block.line(f"HALF: {accumulator(tiles.columns)}")
    block.line(f"PART: gl.constexpr = {part_order(tiles)}")
    block.line(f"part_order = gl.arange(0, {GROUP_ROWS * tiles.columns}, PART)")


def write_wait_rows(body: Block) -> None:
    """Write the wait for the rows of the tile at hand."""
    body.line("stage = at % STAGES")
    body.line("mbarrier.wait(query_ready.index(stage), at // STAGES & 1)")


def write_keys(body: Block, spec: KernelSpec, start: str) -> Scope:
    """Write the positions of the 64 keys from `start` on; the place where a work is known."""
    body.line(f"key_index = ({start} + gl.arange(0, {GROUP_ROWS}, KEYS))[:, None]")
    clipped = "gl.minimum(key_index, kv_len - 1)" if loads_at("kv", spec) else "key_index"
    body.line(f"kv = {clipped}")
    return Scope(body.block(), None, {n: n for n in ("b", "h", "kv")})


def write_wait(body: Block, outstanding: int, names: Sequence[str]) -> None:
    """Write the wait for all products but the last `outstanding` ones, of which come `names`."""
    joined = ", ".join(names)
    body.line(f"{joined} = warpgroup_mma_wait({outstanding}, deps=[{joined}])")


def write_next_words(body: Block, groups: int, lowering: Lowering) -> None:
    """Write the loads of the mask's words of the tile after this one, if it is masked."""
    body.comment("Before this tile's atomics, as what is loaded for rows.")
    mask_bits.write_next_words(body, QUERIES, groups, lowering)


def write_weights(
    body: Block,
    spec: KernelSpec,
    masked: bool,
    early: dict[Expr, Text],
    lowering: Lowering,
    outer: Scope,
) -> None:
    """Write the weights and `factor`, the product of weights and derivatives of the scores.

    Args:
        masked: the mask is to be looked at.
        early: source of what has been loaded for the tile's rows.
    """
    scope, log2 = tile_scope(body, outer, "q"), "scale"
    scope.known.update(early)
    slope, finite = "1.0", True
    has_bits = spec.mask_bits or row_bits.row_intervals(spec)
    if (masked and not has_bits) or spec.score is not None:
        write_rows(scope.block, spec)
    if spec.score is not None:
        score = spec.score.expr
        scope.block.line("score = scores * scale")
        scope.unscaled = ("scores", "scale")
        (modified,) = lowering.lower([score], scope)
        derivative = derivatives(score).get(var("score"), const(0.0))
        finite = is_finite(derivative)
        (slope,) = lowering.lower([derivative], scope, "slope")
        scope.block.line(f"scores = {modified}")
        log2 = "LOG2E"
    scope.block.line("lse_log2 = lse_log2_of_rows.index(stage).load(ROWS)")
    scope.block.line(f"weights = gl.exp2(scores * {log2} - lse_log2[None, :])")
    factor = "weights" if slope == "1.0" else f"weights * {slope}"
    if masked:
        kept = _write_mask(spec, not finite, lowering, scope)
        scope.block.line(f"weights = {kept('weights')}")
        # Infinite, a slope would be no number times a weight of 0.
        factor = factor if finite else kept(factor)
    scope.block.line(f"factor = {factor}")


def _write_mask(
    spec: KernelSpec, twice: bool, lowering: Lowering, scope: Scope
) -> Callable[[str], str]:
    """Write the mask of a masked tile, with the ends of queries and of keys.

    Args:
        twice: it is for two tensors of numbers.

    Returns:
        The source of given numbers, 0 where a pair is masked.
    """
    if row_bits.row_intervals(spec):
        row_bits.write_words(spec, QUERIES, lowering, scope, "key_index < kv_len")
        return lambda numbers: row_bits.kept(numbers, "0.0", QUERIES)
    if spec.mask_bits:
        allowed = mask_bits.allowed(QUERIES)
    else:
        ends = f"(row < {end_of_tiles(spec, 'q_len')}) & (key_index < kv_len)"
        allowed = write_allowed(spec, lowering, scope, ends)
        if twice:
            allowed = lowering.assign("allowed", allowed, scope.block)
    return lambda numbers: f"gl.where({allowed}, {numbers}, 0.0)"


@dataclass(frozen=True)
class Result:
    """A result of 64 keys, and where it passes shared memory.

    Attributes:
        tensor: "d_key" or "d_value"; its accumulators are named `{tensor}_tile`, by pieces.
        dim: its columns.
        through: the tensor whose places it passes; nobody reads those any more.
        group: source of which of the work's places that is, and of the barrier of copies into it.
        ready: source of that barrier.
        phase: source of how often it was used, modulo 2.
        start: source of the first key.
        layouts: of the accumulators.
    """

    tensor: str
    dim: int
    through: str
    group: str
    ready: str
    phase: str
    start: str
    layouts: Sequence[str]

    @property
    def tiles(self) -> list[str]:
        """Names of the accumulators."""
        return numbered(f"{self.tensor}_tile", len(pieces(self.dim)))

    def write(self, body: Block) -> None:
        """Write its store, after the sum with what other query heads gave before."""
        cut, copies = pieces(self.dim), []
        places = [
            matrix(self.through, i, self.group, GROUP_ROWS, w) for i, (_, w) in enumerate(cut)
        ]
        for i, (offset, width) in enumerate(cut):
            at = f"[b, result_head, {self.start}, {offset}]"
            place = f"{self.through}_tiles_{i}.index({self.group})"
            copies.append((f"{self.tensor}_{width}", at, place))
        with body.indented("if member > 0:") as more:
            more.comment("What the query heads before this one gave.")
            more.line(f"mbarrier.expect({self.ready}, {tile_bytes(GROUP_ROWS, self.dim)})")
            for descriptor, at, place in copies:
                copied = f"{descriptor}, {at}, {self.ready}, {place}"
                more.line(f"tma.async_copy_global_to_shared({copied})")
            more.line(f"mbarrier.wait({self.ready}, {self.phase})")
            for tile, place, layout in zip(self.tiles, places, self.layouts, strict=True):
                more.line(f"{tile} += {place}.load({layout}).to(gl.float32)")
        for tile, place, (descriptor, _, _) in zip(self.tiles, places, copies, strict=True):
            body.line(f"{place}.store({tile}.to({descriptor}.dtype))")
        body.line("fence_async_shared()")
        for descriptor, at, place in copies:
            body.line(f"tma.async_copy_shared_to_global({descriptor}, {at}, {place})")
        body.line("tma.store_wait(0)")
