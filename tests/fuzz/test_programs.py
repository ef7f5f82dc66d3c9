"""Random programs through the whole pipeline: no crash, no wrong answer, only clear errors.

The suite draws a bounded number of them; `pytest tests/fuzz --fuzz 100000` draws that many.
"""

from __future__ import annotations

import builtins
import math
import warnings

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import flexdsl as fx
from flexdsl.errors import BranchError, FlexdslError, GradientWarning
from flexdsl.mod import Mod
from flexdsl.testing import Case, check, strategies
from flexdsl.testing.function import traced_pairs
from flexdsl.testing.limits import Limits
from support.fuzz import at_most

KERNELS = [("forward", "triton"), ("backward_query", "triton"), ("backward_key", "triton")]
KERNELS += [("forward", "hopper"), ("backward", "hopper")]
DRAWN = {
    "masks": strategies.masks(depth=3),
    "scores": strategies.scores(depth=3),
    "cases": strategies.cases(exact=True, dtypes=("float32", "float64")),
}


@pytest.fixture(autouse=True)
def quiet():
    """A random score may be a function of the score in steps."""
    warnings.simplefilter("ignore", GradientWarning)


@at_most(60)
@given(**DRAWN)
def test_any_program_computes_what_it_says(masks, scores, cases):
    assume(math.prod(cases.pairs) <= 1024)
    check(scores, cases, mask=masks)


# Over several of their tiles.
LIMITS = Limits(batch=2, heads=4, q_positions=420, kv_len=300)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("dim", [64, 96, 128, 256])
@at_most(5)
@given(st.data())
def test_any_program_by_the_kernels_of_a_hopper_gpu(dim, dtype, data):
    mask = data.draw(strategies.masks(LIMITS, depth=3))
    score = data.draw(strategies.scores(LIMITS, depth=2))
    options = {"dims": (dim,), "dtypes": (dtype,), "equal_dims": True, "exact": True}
    check(score, data.draw(strategies.cases(LIMITS, **options)), mask=mask, backend="hopper")


@at_most(40)
@given(DRAWN["masks"], DRAWN["scores"])
def test_any_program_becomes_text_and_kernels(mask, score):
    for mod in (mask, score):
        again = fx.parse(mod.text)
        assert again.expr is mod.expr
        assert mod.explain() and mod.digest == again.digest
        for phase, target in KERNELS:
            source = mod.source(phase, target=target, head_dim=64)
            compile(source, f"{phase}.py", "exec")


@at_most(60)
@given(st.data())
def test_any_function_is_traced_to_what_python_computes(data):
    """The text of a drawn mask, as a Python function over torch tensors."""
    drawn = data.draw(DRAWN["masks"])
    function = as_function(drawn)
    case = Case(q_len=7, kv_len=9, heads=2, q_offset=data.draw(st.integers(0, 20)))
    try:
        program = function.program
    except BranchError:
        return  # too many ways through it, which the message says
    assert (traced_pairs(program, case) == traced_pairs(drawn.program, case)).all()


def as_function(drawn: Mod) -> Mod:
    """A function whose body is the drawn mod's text, and whose closure has its tensors."""
    body = drawn.text.partition(" = ")[2]
    scope = {n: torch.as_tensor(v) for n, v in drawn.program.values.items()}
    scope |= {n: getattr(fx, f"{n}imum") for n in ("min", "max")} | {"abs": builtins.abs}
    return fx.mask_mod(eval(f"lambda b, h, q, kv: {body}", scope))


@at_most(3)
@given(strategies.masks(depth=1), strategies.cases(dtypes=("float32",), dims=(16,)))
def test_any_mask_by_generated_kernels(mask, case):
    check(mask, case, backend="triton")


@at_most(40)
@given(
    st.sampled_from(["q_len", "kv_len", "batch", "heads", "tile", "q_offset"]),
    st.sampled_from([-1, 0, 1.5, "3", None, (0, 1), 2**31, True, float("nan")]),
)
def test_any_argument_of_a_plan_is_taken_or_refused(name, value):
    sizes = {"q_len": 8, "kv_len": 8, "batch": 1, "heads": 1, "tile": (4, 4), "q_offset": 0}
    sizes[name] = value
    try:
        plan = fx.plan("q >= kv", sizes.pop("q_len"), sizes.pop("kv_len"), **sizes)
    except FlexdslError as error:
        assert error.what
    else:
        assert plan.pairs >= 0
