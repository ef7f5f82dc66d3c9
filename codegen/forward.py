"""The forward kernel, portable Triton: one query tile a program, online softmax in base 2.

The text is complete and readable by itself: a person can paste it into a file and run it. Loads go
through tensor descriptors of rank 4, so that reads past the end of a head give zeros and writes are
clipped. What is not done here: choosing tiles and warps (the runtime's table), the backward pass.
"""

from __future__ import annotations

from flexdsl.analysis.closed_form import TOP
from flexdsl.ir import Expr, Op, Program, print_expr, walk

from .kernel import SOURCE_NOTE, Argument, ForwardSpec, Kernel, Role, pieces
from .loops import TILE_RANGE, Loop, closed_form_loops, table_loops
from .lower import HELPERS, Lowering, Scope
from .writer import Block, Names

_SIZES = {
    "q_len": "queries",
    "kv_len": "keys",
    "q_offset": "position of the first query",
    "heads": "query heads",
    "group": "query heads that share a key head",
    "q_tiles": "query tiles, BLOCK_M rows each",
}
_HELPERS = {**HELPERS, "tile_range": TILE_RANGE}
# Names that the kernel's own lines use, which no parameter or capture may take.
_LOCALS = frozenset(
    """triton tl tanh floor_div floor_mod forward b h q kv score kv_head q_tile kv_tile program
    q_start q_first q_last row key_index max_log2 total scores weights new_max shift rescale run
    start stop first_run full_end last_run row_of_runs swap dead lse lse_row logsumexp scale
    BLOCK_M BLOCK_N LOG2E LN2 key_tile value_tile kv_start tile_range""".split()  # noqa: SIM905
)


def generate_forward(spec: ForwardSpec) -> Kernel:
    """The forward kernel of a mask and a score modification.

    Returns:
        A kernel whose entry is `forward` and whose grid is `q_tiles * batch * heads` programs.
    """
    keys, values = pieces(spec.head_dim), pieces(spec.value_dim)
    fixed = _fixed_arguments(keys, values)
    numbered = (f"{n}_{i}" for n in ("query_tile", "out_tile", "result") for i in range(8))
    names = Names({*_LOCALS, *numbered, *(a.name for a in fixed)})
    lowering = Lowering(names, spec.clamped, spec.wide)
    body = Block(1)
    _prologue(body, spec)
    scope = Scope(body.block(), None, {n: n for n in ("b", "h", "q", "q_first", "q_last")})
    _start_state(body, keys, values)
    for loop in _loops(spec, lowering, scope, body):
        _tile(loop, spec, lowering, scope)
    _epilogue(body, values)
    arguments = (*fixed, *lowering.arguments.values())
    return Kernel(_module(spec, arguments, lowering, body), "forward", arguments)


def _fixed_arguments(
    keys: tuple[tuple[int, int], ...], values: tuple[tuple[int, int], ...]
) -> tuple[Argument, ...]:
    descriptors = [
        Argument(f"{tensor}_{width}", Role.DESCRIPTOR, tensor, width)
        for tensor, dims in (("query", keys), ("key", keys), ("value", values), ("out", values))
        for width in dict.fromkeys(w for _, w in dims)
    ]
    sizes = [Argument(s, Role.SIZE, s) for s in _SIZES]
    return (
        *descriptors,
        Argument("lse", Role.LSE, "lse"),
        Argument("scale", Role.SCALE, "scale"),
        *sizes,
    )


def _prologue(body: Block, spec: ForwardSpec) -> None:
    body.line("program = tl.program_id(0)")
    if spec.heavy_last:
        body.comment("The last rows have the most keys: they start first.")
        body.line("q_tile = q_tiles - 1 - program % q_tiles")
    else:
        body.line("q_tile = program % q_tiles")
    body.line("b = program // q_tiles // heads")
    body.line("h = program // q_tiles % heads")
    body.line("kv_head = h // group")
    body.line("q_start = q_tile * BLOCK_M")
    body.line("row = q_start + tl.arange(0, BLOCK_M)")
    body.line("q_first = q_offset + q_start")
    body.line("q_last = q_offset + tl.minimum(q_start + BLOCK_M, q_len) - 1")
    if _loads_at("q", spec):
        body.comment("Rows past the end stand for the last one, so that loads stay inside.")
        body.line("q = tl.minimum(q_offset + row, q_last)[:, None]")
    else:
        body.line("q = (q_offset + row)[:, None]")


def _start_state(
    body: Block, keys: tuple[tuple[int, int], ...], values: tuple[tuple[int, int], ...]
) -> None:
    for i, (offset, width) in enumerate(keys):
        body.line(
            f"query_tile_{i} = query_{width}.load([b, h, q_start, {offset}])"
            f".reshape([BLOCK_M, {width}])"
        )
    body.comment("Online softmax: largest score so far times log2(e), and sum of weights.")
    body.line('max_log2 = tl.full([BLOCK_M], -float("inf"), tl.float32)')
    body.line("total = tl.zeros([BLOCK_M], tl.float32)")
    for i, (_, width) in enumerate(values):
        body.line(f"out_tile_{i} = tl.zeros([BLOCK_M, {width}], tl.float32)")


def _loops(spec: ForwardSpec, lowering: Lowering, scope: Scope, body: Block) -> list[Loop]:
    if spec.closed_form is None:
        return list(table_loops(lowering, scope, body))
    return list(closed_form_loops(spec.closed_form, lowering, scope, body, spec.mask is not None))


def _tile(loop: Loop, spec: ForwardSpec, lowering: Lowering, outer: Scope) -> None:
    """The work of one tile: scores, modification, mask, online softmax, weighted values."""
    body = loop.body
    body.line("kv_start = kv_tile * BLOCK_N")
    for i, (offset, width) in enumerate(pieces(spec.head_dim)):
        load = f"key_{width}.load([b, kv_head, kv_start, {offset}]).reshape([BLOCK_N, {width}])"
        sum_so_far = "" if i == 0 else "scores, "
        body.line(f"key_tile = {load}")
        body.line(
            f'scores = tl.dot(query_tile_{i}, key_tile.T, {sum_so_far}input_precision="ieee")'
        )
    mask = spec.mask.expr if spec.mask is not None and loop.masked else None
    if spec.score is not None or mask is not None or loop.masked:
        body.line("key_index = (kv_start + tl.arange(0, BLOCK_N))[None, :]")
        # A clipped index costs registers, so it is clipped only where something is loaded at it.
        clipped = "tl.minimum(key_index, kv_len - 1)" if _loads_at("kv", spec) else "key_index"
        body.line(f"kv = {clipped}")
    variables = {**outer.variables, "kv": "kv", "score": "score"}
    scope = Scope(body.block(), outer, variables)
    if spec.score is not None:
        scope.block.line("score = scores * scale")
        (modified,) = lowering.lower([spec.score.expr], scope)
        scope.block.line(f"scores = {modified}")
    if loop.masked:
        _apply_mask(mask, lowering, scope)
    _softmax_step(body, spec, loop.masked)
    for i, (offset, width) in enumerate(pieces(spec.value_dim)):
        load = f"value_{width}.load([b, kv_head, kv_start, {offset}]).reshape([BLOCK_N, {width}])"
        body.line(f"value_tile = {load}")
        body.line(
            f"out_tile_{i} = tl.dot(weights.to(value_tile.dtype), value_tile,"
            f' out_tile_{i} * rescale[:, None], input_precision="ieee")'
        )
    body.line("max_log2 = new_max")


def _loads_at(variable: str, spec: ForwardSpec) -> bool:
    """Is there a load whose index depends on `variable` and is not held inside its tensor?"""
    expressions = [p.expr for p in (spec.mask, spec.score) if p is not None]
    loads = (n for n in walk(*expressions) if n.op is Op.LOAD)
    return any(variable in n.variables and n not in spec.clamped for n in loads)


def _apply_mask(mask: Expr | None, lowering: Lowering, scope: Scope) -> None:
    block = scope.block
    inside = "(key_index < kv_len)"
    if mask is not None:
        (allowed,) = lowering.lower([mask], scope, "allowed")
        inside = f"{allowed} & {inside}"
    block.line(f'scores = tl.where({inside}, scores, -float("inf"))')


def _softmax_step(body: Block, spec: ForwardSpec, masked: bool) -> None:
    """Rescale what there is to the new largest score and add this tile's weights.

    The factor log2(e) multiplies inside the exponent, where it is one fused multiply-add. Without
    a score modification it is a part of `scale`.
    """
    factor = "LOG2E" if spec.score is not None else "scale"
    body.line(f"new_max = tl.maximum(max_log2, tl.max(scores, 1) * {factor})")
    shift = "new_max"
    if masked or spec.score is not None:
        body.comment("A row without an allowed key so far has weight 0, not NaN.")
        body.line('shift = tl.where(new_max == -float("inf"), 0.0, new_max)')
        shift = "shift"
    body.line(f"weights = tl.exp2(scores * {factor} - {shift}[:, None])")
    body.line(f"rescale = tl.exp2(max_log2 - {shift})")
    body.line("total = total * rescale + tl.sum(weights, 1)")


def _epilogue(body: Block, values: tuple[tuple[int, int], ...]) -> None:
    body.line()
    body.comment("A row without an allowed key gives 0, and its logsumexp is -inf.")
    body.line("dead = total == 0.0")
    body.line("total = tl.where(dead, 1.0, total)")
    for i, (offset, width) in enumerate(values):
        body.line(f"result_{i} = (out_tile_{i} / total[:, None]).to(out_{width}.dtype)")
        body.line(
            f"out_{width}.store([b, h, q_start, {offset}],"
            f" result_{i}.reshape([1, 1, BLOCK_M, {width}]))"
        )
    body.line('logsumexp = tl.where(dead, -float("inf"), (max_log2 + tl.log2(total)) * LN2)')
    body.line("lse_row = (b * heads + h).to(tl.int64) * q_len + row")
    body.line("tl.store(lse + lse_row, logsumexp, mask=row < q_len)")


def _module(
    spec: ForwardSpec, arguments: tuple[Argument, ...], lowering: Lowering, body: Block
) -> str:
    module = Block()
    module.line('"""Attention forward, generated by flexdsl.\n')
    for program in (spec.mask, spec.score):
        if program is not None:
            module.line(_describe(program))
    module.line(f"plan: {_describe_plan(spec)}")
    module.line('"""\n')
    module.line("import triton\nimport triton.language as tl\n")
    module.line(
        "LOG2E = tl.constexpr(1.4426950408889634)\nLN2 = tl.constexpr(0.6931471805599453)\n"
    )
    for helper in sorted(lowering.helpers):
        module.line(f"\n{_HELPERS[helper]}")
    # Lengths, offsets and parameters change from call to call: none of their values may recompile.
    scalars = (Role.SIZE, Role.PARAMETER, Role.LENGTH, Role.TABLE_STRIDE)
    unspecialized = [a.name for a in arguments if a.role in scalars]
    module.line("")
    module.line(f"@triton.jit(do_not_specialize={unspecialized!r})")
    module.line("def forward(")
    for argument in arguments:
        module.line(f"    {argument.name},  # {_comment(argument)}")
    module.line("    BLOCK_M: tl.constexpr,\n    BLOCK_N: tl.constexpr,\n):")
    return str(module) + str(body)


def _describe(program: Program) -> str:
    """The text of a program and where it is from, safe inside a docstring."""
    source = f"\n{SOURCE_NOTE}{program.source}" if program.source else ""
    return (f"{program.kind.value} {program.name} = {print_expr(program.expr)}{source}").replace(
        '"""', "'''"
    )


def _describe_plan(spec: ForwardSpec) -> str:
    if spec.closed_form is None:
        return "a table of runs of key tiles for each query tile"
    if not spec.closed_form.intervals:
        return "no pair is allowed"
    if spec.mask is None:
        return "every pair is allowed"
    intervals = (f"[{i.lower!r}, {_upper(i.upper)})" for i in spec.closed_form.intervals)
    return "closed form, keys in " + " or ".join(intervals)


def _upper(end: Expr) -> str:
    return "kv_len" if end is TOP else repr(end)


def _comment(argument: Argument) -> str:
    match argument.role:
        case Role.DESCRIPTOR:
            rows = "BLOCK_M" if argument.of in ("query", "out") else "BLOCK_N"
            return f"descriptor, blocks of [1, 1, {rows}, {argument.index}]"
        case Role.LSE:
            return "float32 [batch, heads, q_len]"
        case Role.SCALE:
            return "float32, times log2(e) where there is no score modification"
        case Role.SIZE:
            return _SIZES[argument.of]
        case Role.LENGTH | Role.STRIDE:
            return f"{argument.role.name.lower()} of {argument.of} along dimension {argument.index}"
        case Role.TABLE | Role.TABLE_STRIDE:
            return "table of runs"
    return argument.role.name.lower()
