"""`verify`: draw cases, check each, shrink what fails, and report.

What is drawn and what is checked stand in the other files of this room.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from flexdsl.analysis import BlockPlan
from flexdsl.errors import ArgumentError, FlexdslError, HeadsWarning, VerificationError
from flexdsl.runtime.bind import forget
from flexdsl.testing.backends import Backend, find_backends
from flexdsl.testing.case import Case
from flexdsl.testing.execution import Errors, Run, check_backward, check_forward, reference
from flexdsl.testing.function import Disagreement, allowed_pairs
from flexdsl.testing.laws import check_laws
from flexdsl.testing.limits import Limits, find_limits
from flexdsl.testing.numerics import LONG, Accuracy, measure
from flexdsl.testing.plans import check_algebra, check_plan
from flexdsl.testing.report import Report
from flexdsl.testing.reproduce import program_of, show_case
from flexdsl.testing.subject import Subject, read_subject
from flexdsl.testing.variation import CONTENTS, fits, parameters_of, vary

_BATCH, _HEADS, _OFFSET = 3, 6, 24


@dataclass
class _Tally:
    """What has been done so far, and the cases that failed."""

    errors: Errors = field(default_factory=Errors)
    examples: int = 0
    pairs: int = 0
    tiles: int = 0
    varied: int = 0
    fails_at: int | None = None
    backends: dict[str, int] = field(default_factory=dict)
    dtypes: dict[str, None] = field(default_factory=dict)
    last: tuple[Case, Disagreement] | None = None
    smallest: tuple[Case, Disagreement] | None = None

    def fail(self, case: Case, why: Disagreement) -> None:
        self.last = case, why
        self.fails_at = why.stage if self.fails_at is None else min(why.stage, self.fails_at)
        if self.smallest is None or _weight(case) < _weight(self.smallest[0]):
            self.smallest = self.last


def verify(
    mod: Any,
    *,
    mask: Any = None,
    examples: int = 100,
    backend: str = "auto",
    q_len: int | None = None,
    kv_len: int | None = None,
    heads: int | None = None,
    numerics: bool = False,
) -> Report:
    """Check a mask or a score modification on drawn calls of attention. Needs hypothesis.

    Each case draws lengths, heads, key heads, dimensions, offset, tile, dtype and elements, within
    what the captured tensors of the mod allow, and other values of what it captures: numbers, and
    contents of tensors that are made of their own elements. It holds, in one thread,

    * the function, on plain ints, against its traced expression, and against itself: it has to
      answer the same when asked again, and to change nothing;
    * every tile of the plan, its pairs and its empty rows against brute force over the function;
    * output, lse and gradients by q, k, v and captured floats against dense float64 attention;
    * laws: keys that are masked change nothing, a part of the rows, a prefix, batches and tokens in
      another order give the same, a call does not see values of the one before it; `mask & ~mask`
      is nothing, `mask | ~mask` everything, `mask & everything` the mask.

    Args:
        mod: a Mod, a function of `(b, h, q, kv)` or `(score, b, h, q, kv)`, text, or a variant.
        mask: of a score modification: the mask that it is used under.
        examples: cases to draw.
        backend: as in `attention`; "auto" is every one that this machine has: the
            kernels of a GPU, those of a Hopper GPU, and "cpu".
        q_len, kv_len, heads: use exactly these instead of drawing them.
        numerics: also report errors against float64 beside those of torch's SDPA, for each dtype:
            of plain, large and many scores, and of huge and -inf biases; and hold a NaN in
            a query or key to the rows that see it.

    Returns:
        A `Report`; `str()` of it is a summary.

    Raises:
        VerificationError: a check fails; the message has the smallest such case that was found, and
            a program that reproduces it.
        ArgumentError: hypothesis is missing, or an argument is no positive number.
        IndexRangeError: a captured tensor is too short for the lengths asked for.
        BackendError: the backend cannot run here.
        FlexdslError: the mod cannot be read.
    """
    _check_arguments(examples, q_len=q_len, kv_len=kv_len, heads=heads)
    subject, backends = read_subject(mod, mask), find_backends(backend)
    most = _most(backends, q_len, kv_len, heads)
    least = Limits(batch=1, heads=heads or 1, q_positions=q_len or 1, kv_len=kv_len or 1)
    limits = find_limits(subject, least, most)
    tally = _Tally()

    def run(case: Case) -> None:
        if not fits(subject, case):
            case = replace(case, contents="own", parameters=())
        try:
            _run(subject, case, backends, tally)
        except Disagreement as why:
            tally.fail(case, why)
            raise

    drawn = _cases(subject, backends, limits, q_len=q_len, kv_len=kv_len, heads=heads)
    failed = _draw(run, drawn, examples, subject, tally)
    if failed is not None:
        raise _failure(subject, *failed)
    report = _report(subject, limits, limits != most, tally)
    return replace(report, numerics=_numerics(subject, backends)) if numerics else report


def _numerics(subject: Subject, backends: tuple[Backend, ...]) -> tuple[Accuracy, ...]:
    least = Limits(batch=1, heads=1, q_positions=1, kv_len=1)
    limits = find_limits(subject, least, Limits(batch=1, heads=2, q_positions=LONG, kv_len=LONG))
    try:
        with _fewer_heads():
            return tuple(row for b in backends for row in measure(subject, b, limits))
    except Disagreement as why:
        raise VerificationError(f"{subject.mod.name}: {why}") from why


def check(mod: Any, case: Case, *, mask: Any = None, backend: str = "auto") -> None:
    """All checks of `verify` on one case. Needs no hypothesis.

    Args:
        mod, mask, backend: as in `verify`.
        case: its sizes and elements.

    Raises:
        VerificationError: a check fails.
        FlexdslError: as in `verify`.
    """
    subject, backends = read_subject(mod, mask), find_backends(backend)
    try:
        _run(subject, case, backends, _Tally())
    except Disagreement as why:
        raise _failure(subject, case, why) from why


def _cases(
    subject: Subject, backends: tuple[Backend, ...], limits: Limits, **sizes: int | None
) -> Any:
    """The strategy of cases that one of the backends takes at least."""
    from flexdsl.testing.strategies import cases

    dtypes = dict.fromkeys(t for b in backends for t in b.dtypes)
    dims = dict.fromkeys(n for b in backends for n in b.dims)
    drawn = cases(
        limits,
        **sizes,
        dtypes=tuple(dtypes),
        dims=tuple(dims),
        equal_dims=all(b.equal_dims for b in backends),
        exact=subject.has_corners,
        contents=CONTENTS if subject.captures else CONTENTS[:1],
        parameters=parameters_of(subject),
    )
    return drawn.filter(lambda case: any(b.takes(case) for b in backends))


def _run(subject: Subject, case: Case, backends: tuple[Backend, ...], tally: _Tally) -> None:
    """Every check, the cheap ones first; what earlier cases left in memory plays no part."""
    forget()
    with _one_thread(), _fewer_heads():
        _run_checks(subject, case, backends, tally)


@contextmanager
def _fewer_heads() -> Iterator[None]:
    """Calls of fewer heads than captured tensors have entries of are meant here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HeadsWarning)
        yield


@contextmanager
def _one_thread() -> Iterator[None]:
    """Calls so small lose time to more threads: 20 times, measured, beside another process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _run_checks(own: Subject, case: Case, backends: tuple[Backend, ...], tally: _Tally) -> None:
    subject, backend = vary(own, case), backends[0]
    try:
        allowed = allowed_pairs(subject, case)
        plan = _plan(subject, case, allowed)
        for backend in backends:
            if not backend.takes(case):
                continue
            table = torch.from_numpy(allowed).to(backend.device)
            of_backend = backend.name, backend.device
            _run_backend(Run(own, subject, case, *of_backend, table, plan, tally.errors), tally)
            tally.backends[backend.name] = tally.backends.get(backend.name, 0) + 1
    except Disagreement as why:
        why.backend = backend.name
        raise
    tally.examples += 1
    tally.pairs += allowed.size
    tally.tiles += case.batch * case.heads * plan.q_tiles * plan.kv_tiles
    tally.dtypes[case.dtype] = None
    tally.varied += subject.varied


def _run_backend(run: Run, tally: _Tally) -> None:
    """Output, gradients, laws; while a failing case shrinks, no more than what fails in it."""
    expected = reference(run)
    found = check_forward(run, expected)
    later: tuple[Callable[[], None], ...] = (
        lambda: check_backward(run, expected),
        lambda: check_laws(run, found, expected.score_size),
    )
    for stage, check_stage in enumerate(later, start=1):
        if tally.fails_at is not None and tally.fails_at < stage:
            return
        try:
            check_stage()
        except Disagreement as why:
            why.stage = stage
            raise


def _plan(subject: Subject, case: Case, allowed: Any) -> BlockPlan:
    """The checked plan of a case."""
    try:
        made = check_plan(subject, case, allowed)
        check_algebra(subject, case, made)
    except Disagreement:
        raise
    except Exception as error:
        raise Disagreement(f"making the plan raises {type(error).__name__}: {error}") from error
    return made


def _draw(
    run: Callable[[Case], None], drawn: Any, examples: int, subject: Subject, tally: _Tally
) -> tuple[Case, Disagreement] | None:
    """Let hypothesis draw and shrink; gives the smallest case that fails, if one does."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis.errors import Flaky

    decorate: Callable[[Any], Any] = given(drawn)
    test = decorate(run)
    # Failing cases are kept by mod: the next `verify` begins with them.
    digest = "".join(p.digest for p in subject.programs).encode()
    test.hypothesis.inner_test._hypothesis_internal_add_digest = digest
    limited: Callable[[Any], Any] = settings(
        max_examples=examples,
        deadline=None,
        print_blob=False,
        # Without Phase.explain, which traces every line of every check.
        phases=(Phase.reuse, Phase.generate, Phase.shrink),
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    try:
        limited(test)()
    except Disagreement:
        return tally.last  # hypothesis ends with the smallest
    except Flaky:
        return tally.smallest  # what failed once did not the next time
    return None


def _failure(subject: Subject, case: Case, why: Disagreement) -> VerificationError:
    backend = why.backend

    def fails(other: Subject, case: Case) -> bool:
        try:
            _run(other, case, find_backends(backend), _Tally())
        except (Disagreement, FlexdslError):
            return True
        return False

    program = program_of(subject, case, backend, fails)
    indented = "\n".join(f"    {line}".rstrip() for line in program.splitlines())
    return VerificationError(
        f"{subject.mod.name}: {why}\n"
        f"  smallest case found: {show_case(case)} on backend '{backend}'\n"
        f"  this program reproduces it:\n\n{indented}\n"
    )


def _report(subject: Subject, limits: Limits, limited: bool, tally: _Tally) -> Report:
    errors = tally.errors
    names = [n for n in errors.absolute if ":" not in n]
    return Report(
        subject.mod.name,
        subject.mod.text,
        tally.backends,
        tally.examples,
        tally.varied,
        tally.pairs,
        tally.tiles,
        tuple(tally.dtypes),
        limits,
        limited,
        {n: errors.absolute[n] for n in names},
        max(errors.of_bound.values(), default=0.0),
    )


def _weight(case: Case) -> tuple[int, ...]:
    batch, heads, rows, keys = case.pairs
    return batch * heads * rows * keys, case.dim + case.v_dim, case.q_offset, sum(case.tile)


def _check_arguments(examples: int, **sizes: int | None) -> None:
    for name, value in {"examples": examples, **sizes}.items():
        if value is not None and (type(value) is not int or value < 1):
            raise ArgumentError(f"{name} is {value!r}", fix="a whole number, 1 or more")
    if importlib.util.find_spec("hypothesis") is None:
        raise ArgumentError(
            "verify needs hypothesis, which is not installed",
            why="it draws the cases and shrinks those that fail",
            fix="pip install 'flexdsl[testing]'",
        )


def _most(
    backends: tuple[Backend, ...], q_len: int | None, kv_len: int | None, heads: int | None
) -> Limits:
    longest = max(b.longest for b in backends)
    return Limits(
        batch=_BATCH,
        heads=heads or _HEADS,
        q_positions=(q_len or longest) + _OFFSET,
        kv_len=kv_len or longest,
    )
