"""The forward pass of few queries as two kernels, portable Triton: by parts of the keys, merged.

    forward_split   a program has all queries of `packed` heads that share a key head, and every
                    splits-th of their live key tiles: a normalised output and a logsumexp of each
    forward_merge   a program has a row: its outputs, weighted by their part of all exponentials

With few queries the ordinary kernel has few programs, whose rows are mostly empty, and reads a key
head once for each query head. Rows lie here head after head, so that those of a program lie side by
side in what it writes. Queries are read by pointers: a block of rows spans heads. Heads may share a
program where the plan is the same for all of them; who decides that, and how many splits there are,
is the runtime (`runtime/splits.py`).
"""

from __future__ import annotations

from .forward import write_softmax_start, write_softmax_tile
from .kernel import Argument, Kernel, KernelSpec, Role, pieces
from .lower import Lowering, Scope
from .module import write_module
from .split_loops import write_split_loops
from .tiles import descriptors, names_of_kernel
from .writer import Block

_SIZES = ("q_len", "kv_len", "q_offset", "heads", "all_heads", "group", "packed", "splits")
_NAMES = (
    *("split", "index", "count", "rows", "at_query", "at_out", "column", "tile_apart", "nth"),
    *("step", "passed", "runs", "run_end", "before_run", "of_run", "forward_split"),
    *("forward_merge", "part", "at_part", "row_lse"),
)


def generate_forward_split(spec: KernelSpec) -> Kernel:
    """The kernel of the parts of the keys.

    Args:
        spec: without products; its closed form may depend on the head where one has a program.

    Returns:
        A kernel whose entry is `forward_split` and whose grid is `batch * heads / packed * splits`
        programs.
    """
    fixed = (
        *_tensor("query"),
        *descriptors({"key": spec.head_dim, "value": spec.value_dim}),
        *_parts(spec.value_dim),
        Argument("scale", Role.SCALE, "scale"),
        *(Argument(s, Role.SIZE, s) for s in _SIZES),
    )
    lowering = Lowering(names_of_kernel(fixed, _NAMES), spec.clamped, spec.wide)
    body = Block(1)
    _write_rows(body)
    known = {n: n for n in ("b", "h", "q", "q_first", "q_last")}
    # Bounds of tiles are numbers, and those of the program's first head are those of all.
    bounds = Scope(body.block(), None, {**known, "h": "first_head"})
    scope = Scope(body.block(), None, known)
    _write_queries(body, spec)
    write_softmax_start(body, spec)
    for loop in write_split_loops(spec, lowering, bounds, body):
        write_softmax_tile(loop, spec, lowering, scope)
    _write_parts(body, spec)
    arguments = (*fixed, *lowering.arguments.values())
    title = "Attention forward of few queries, by parts of the keys"
    text = write_module(title, "forward_split", spec, arguments, lowering.helpers, body)
    return Kernel(text, "forward_split", arguments)


def generate_forward_merge(spec: KernelSpec) -> Kernel:
    """The kernel that merges the parts; only the value dimension of `spec` is looked at.

    Returns:
        A kernel whose entry is `forward_merge` and whose grid is `batch * heads * q_len` programs,
        each of which takes BLOCK_N splits at a time.
    """
    dim = spec.value_dim
    arguments = (
        *_parts(dim),
        *_tensor("out"),
        Argument("lse", Role.ROWS, "lse"),
        *(Argument(s, Role.SIZE, s) for s in ("q_len", "heads", "all_heads", "splits")),
    )
    body = Block(1)
    body.line("program = tl.program_id(0)")
    body.line("rows = all_heads.to(tl.int64) * q_len")
    body.line('max_log2 = -float("inf")')
    body.line("total = 0.0")
    for i, (_, width) in enumerate(pieces(dim)):
        body.line(f"out_tile_{i} = tl.zeros([{width}], tl.float32)")
    with body.indented("for first in tl.range(0, splits, BLOCK_N):") as loop:
        _write_merge_step(loop, dim)
    _write_merged_row(body, dim)
    plain = KernelSpec(None, None, None, dim, dim)
    title = "Attention forward of few queries, its parts merged"
    text = write_module(title, "forward_merge", plain, arguments, set(), body)
    return Kernel(text, "forward_merge", arguments)


def _parts(dim: int) -> tuple[Argument, ...]:
    """What one kernel writes and the other reads: outputs, and logsumexps in base 2."""
    return (
        Argument("split_out", Role.PARTS, "split_out", dim),
        Argument("split_lse", Role.PARTS, "split_lse"),
    )


def _columns(offset: int, width: int) -> str:
    """The source of the columns of a piece of the head dimension."""
    return f"{offset} + tl.arange(0, {width})" if offset else f"tl.arange(0, {width})"


def _tensor(name: str) -> tuple[Argument, ...]:
    """A tensor [B, H, L, D], whose last dimension is contiguous."""
    strides = (Argument(f"{name}_stride_{i}", Role.TENSOR_STRIDE, name, i) for i in range(3))
    return Argument(name, Role.TENSOR, name), *strides


def _offset(tensor: str, row: str) -> str:
    """The source of what is added to a tensor's pointer for `b`, `h` and `row`."""
    indices = ("b", "h", row)
    return "".join(f" + {x}.to(tl.int64) * {tensor}_stride_{i}" for i, x in enumerate(indices))


def _write_rows(body: Block) -> None:
    """Write which heads and which part of the keys the program has, and what its rows are."""
    body.line("program = tl.program_id(0)")
    body.line("split = program % splits")
    body.line("heads_before = program // splits * packed")
    body.line("b = heads_before // heads")
    body.line("first_head = heads_before % heads")
    body.line("kv_head = first_head // group")
    body.line("q_first = q_offset")
    body.line("q_last = q_offset + q_len - 1")
    body.comment("The queries of one head after the other's. Rows past the end are the last one.")
    body.line("rows = packed * q_len")
    body.line("index = tl.arange(0, BLOCK_M)")
    body.line("row = tl.minimum(index, rows - 1)[:, None]")
    body.line("h = first_head + row // q_len")
    body.line("row = row % q_len")
    body.line("q = q_offset + row")


def _write_queries(body: Block, spec: KernelSpec) -> None:
    body.line(f"at_query = query{_offset('query', 'row')}")
    for i, (offset, width) in enumerate(pieces(spec.head_dim)):
        body.line(f"column = ({_columns(offset, width)})[None, :]")
        inside = f", mask=column < {spec.head_dim}, other=0.0"
        inside = inside if offset + width > spec.head_dim else ""
        body.line(f"query_tile_{i} = tl.load(at_query + column{inside})")


def _write_parts(body: Block, spec: KernelSpec) -> None:
    dim = spec.value_dim
    body.line()
    body.comment("A row without an allowed key here gives 0, and its logsumexp is -inf.")
    body.line("dead = total == 0.0")
    body.line("total = tl.where(dead, 1.0, total)")
    body.line("at_part = (split * all_heads + heads_before).to(tl.int64) * q_len + index")
    body.line('row_lse = tl.where(dead, -float("inf"), max_log2 + tl.log2(total))')
    body.line("tl.store(split_lse + at_part, row_lse, mask=index < rows)")
    body.line(f"at_out = split_out + (at_part * {dim})[:, None]")
    body.line("inside = (index < rows)[:, None]")
    for i, (offset, width) in enumerate(pieces(dim)):
        body.line(f"column = ({_columns(offset, width)})[None, :]")
        mask = f"inside & (column < {dim})" if offset + width > dim else "inside"
        body.line(f"tl.store(at_out + column, out_tile_{i} / total[:, None], mask={mask})")


def _write_merge_step(loop: Block, dim: int) -> None:
    """Write the work of BLOCK_N splits: an online softmax over their logsumexps in base 2."""
    loop.line("part = first + tl.arange(0, BLOCK_N)")
    loop.line("inside = part < splits")
    loop.line("at_part = part * rows + program")
    loop.line('scores = tl.load(split_lse + at_part, mask=inside, other=-float("inf"))')
    loop.line("new_max = tl.maximum(max_log2, tl.max(scores, 0))")
    loop.line('shift = tl.where(new_max == -float("inf"), 0.0, new_max)')
    loop.line("weights = tl.exp2(scores - shift)")
    loop.line("rescale = tl.exp2(max_log2 - shift)")
    loop.line("total = total * rescale + tl.sum(weights, 0)")
    for i, (offset, width) in enumerate(pieces(dim)):
        loop.line(f"column = ({_columns(offset, width)})[None, :]")
        mask = "inside[:, None]" + (f" & (column < {dim})" if offset + width > dim else "")
        at = f"split_out + (at_part * {dim})[:, None] + column"
        loop.line(f"value_tile = tl.load({at}, mask={mask}, other=0.0)")
        added = "tl.sum(weights[:, None] * value_tile, 0)"
        loop.line(f"out_tile_{i} = out_tile_{i} * rescale + {added}")
    loop.line("max_log2 = new_max")


def _write_merged_row(body: Block, dim: int) -> None:
    """Write the output and the logsumexp of the program's row."""
    body.comment("A row without an allowed key gives 0, and its logsumexp is -inf.")
    body.line("dead = total == 0.0")
    body.line("total = tl.where(dead, 1.0, total)")
    body.line("row = program % q_len")
    body.line("h = program // q_len % heads")
    body.line("b = program // q_len // heads")
    body.line(f"at_out = out{_offset('out', 'row')}")
    for i, (offset, width) in enumerate(pieces(dim)):
        body.line(f"column = {_columns(offset, width)}")
        inside = f", mask=column < {dim}" if offset + width > dim else ""
        value = f"(out_tile_{i} / total).to(out.dtype.element_ty)"
        body.line(f"tl.store(at_out + column, {value}{inside})")
    body.line('logsumexp = tl.where(dead, -float("inf"), (max_log2 + tl.log2(total)) * LN2)')
    body.line("tl.store(lse + program, logsumexp)")
