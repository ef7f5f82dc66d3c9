"""Kernels for calls that are not known yet: to show, to build ahead of time, to compare in tests.

A call of `attention` has its own plan and its own checks of indices; here both are assumed for long
sequences, and every load is held inside its tensor.
"""

from __future__ import annotations

from flexdsl.analysis.differences import take_tables
from flexdsl.analysis.given import score_given
from flexdsl.analysis.products import take_products, width_of
from flexdsl.analysis.typical import typical_closed_form
from flexdsl.errors import ArgumentError
from flexdsl.ir import Op, Program, rename_apart, used_names, walk

from .backward import (
    generate_backward_key,
    generate_backward_learned_key,
    generate_backward_learned_query,
    generate_backward_query,
)
from .compaction import generate_plan_counts, generate_plan_runs
from .diagonal import generate_backward_diagonal
from .differences import generate_differences
from .factors import generate_factors
from .forward import generate_forward
from .hopper import (
    backward_reason,
    generate_backward,
    generate_backward_sums,
    reason_not_covered,
)
from .hopper import generate_forward as generate_hopper_forward
from .kernel import Kernel, KernelSpec, Language
from .mask_bits import generate_mask_bits, generate_mask_bits_of_keys
from .phases import OF_KEYS, Phase
from .planner import generate_plan_states
from .refinement import generate_plan_refine
from .rows import generate_backward_rows
from .split import generate_forward_merge, generate_forward_split

# What kernels are generated for, by the name that users give, and the language of each.
KERNEL_TARGETS = {"triton": Language.TRITON, "hopper": Language.GLUON}


def parse_kernel_target(name: str) -> Language:
    """The language of the kernels of that target: "triton" is portable.

    Raises:
        ArgumentError: there is none.
    """
    if name not in KERNEL_TARGETS:
        known = ", ".join(repr(n) for n in KERNEL_TARGETS)
        raise ArgumentError(f"there is no target {name!r}", fix=f"one of {known}")
    return KERNEL_TARGETS[name]


GENERATORS = {
    (Phase.FACTORS, Language.TRITON): generate_factors,
    (Phase.DIFFERENCES, Language.TRITON): generate_differences,
    (Phase.FORWARD, Language.TRITON): generate_forward,
    (Phase.FORWARD_SPLIT, Language.TRITON): generate_forward_split,
    (Phase.FORWARD_MERGE, Language.TRITON): generate_forward_merge,
    (Phase.BACKWARD_ROWS, Language.TRITON): generate_backward_rows,
    (Phase.BACKWARD_QUERY, Language.TRITON): generate_backward_query,
    (Phase.BACKWARD_KEY, Language.TRITON): generate_backward_key,
    (Phase.BACKWARD_SUMS, Language.TRITON): generate_backward_sums,
    (Phase.BACKWARD_LEARNED_QUERY, Language.TRITON): generate_backward_learned_query,
    (Phase.BACKWARD_LEARNED_KEY, Language.TRITON): generate_backward_learned_key,
    (Phase.BACKWARD_DIAGONAL, Language.TRITON): generate_backward_diagonal,
    (Phase.FORWARD, Language.GLUON): generate_hopper_forward,
    (Phase.BACKWARD, Language.GLUON): generate_backward,
    (Phase.PLAN_STATES, Language.TRITON): generate_plan_states,
    (Phase.PLAN_REFINE, Language.TRITON): generate_plan_refine,
    (Phase.PLAN_COUNTS, Language.TRITON): generate_plan_counts,
    (Phase.PLAN_RUNS, Language.TRITON): generate_plan_runs,
    (Phase.MASK_BITS, Language.TRITON): generate_mask_bits,
    (Phase.MASK_BITS_KEY, Language.TRITON): generate_mask_bits_of_keys,
}


def unbound_spec(
    mask: Program | None,
    score: Program | None,
    head_dim: int,
    value_dim: int,
    phase: Phase = Phase.FORWARD,
    *,
    products: bool = False,
    tables: bool = False,
) -> KernelSpec:
    """What the kernel of `phase` has in its text for this mask and score, whatever the lengths.

    Args:
        products: those of the score are matrices, as `attention` has them for 16-bit inputs.
        tables: what it computes from q - kv alone is loaded from tables, as `attention` has it.
    """
    if score is not None and mask is not None:
        score = score_given(rename_apart(score, mask.values), mask)
    closed_form = typical_closed_form(mask, "q" if phase in OF_KEYS else "kv")
    expressions = [p.expr for p in (mask, score) if p is not None]
    # With few queries their matrices would be written to be read once.
    products = products and phase is not Phase.FORWARD_SPLIT
    taken, rest = take_products(score) if products else ((), score)
    names = frozenset(n for e in expressions for n in used_names(e))
    tabled, rest = take_tables(rest, taken=names) if tables else ((), rest)
    expressions += [] if rest is None else [rest.expr]
    loads = frozenset(n for n in walk(*expressions) if n.op is Op.LOAD)
    return KernelSpec(
        None if mask is None or mask.expr.op is Op.CONST else mask,
        rest,
        closed_form,
        head_dim,
        value_dim,
        clamped=loads - {t.load for t in tabled},
        products=taken,
        tables=tabled,
    )


def generate_unbound(
    mask: Program | None,
    score: Program | None,
    head_dim: int,
    value_dim: int,
    phase: Phase = Phase.FORWARD,
    language: Language = Language.TRITON,
) -> Kernel:
    """The kernel of `phase` for this mask and score and 16-bit inputs, whatever the lengths.

    Raises:
        ArgumentError: the phase has no kernel in that language, or that does not cover the head
            dimensions.
    """
    if (phase, language) not in GENERATORS:
        phases = ", ".join(repr(p.value) for p, of in GENERATORS if of is language)
        (target,) = (name for name, of in KERNEL_TARGETS.items() if of is language)
        raise ArgumentError(
            f"phase {phase.value!r} has no kernel for target {target!r}", fix=f"one of {phases}"
        )
    spec = unbound_spec(mask, score, head_dim, value_dim, phase, products=True, tables=True)
    if phase is Phase.FACTORS and not spec.products:
        raise ArgumentError(
            f"phase {phase.value!r} writes the factors of products, and there are none",
            why="no score modification adds a product of a number of q and one of kv to the score",
            fix="score + x[q] * y[kv], or another phase",
        )
    if phase is Phase.DIFFERENCES and not spec.tables:
        raise ArgumentError(
            f"phase {phase.value!r} writes tables of q - kv, and there are none",
            why="no score modification computes much from the difference q - kv alone",
            fix="score + cos(0.1 * (q - kv)), or another phase",
        )
    if language is Language.GLUON:
        _check_hopper(phase, spec)
    return GENERATORS[phase, language](spec)


def _check_hopper(phase: Phase, spec: KernelSpec) -> None:
    dims = spec.head_dim, spec.value_dim
    reason = reason_not_covered(90, "bf16", *dims)
    if phase is Phase.BACKWARD:
        reason = reason or backward_reason(dims[0], 0, (), False, width_of(spec.products))
    if reason is not None:
        raise ArgumentError(
            f"the Hopper kernels have no {phase.value} of head dimensions {dims[0]}/{dims[1]}",
            why=reason,
            fix="the portable kernel, of target 'triton'",
        )
