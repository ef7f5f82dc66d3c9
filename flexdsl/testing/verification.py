"""`verify`: draw cases, check each, shrink what fails, and report.

What is drawn and what is checked stand in the other files of this room.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from flexdsl.errors import ArgumentError, BackendError, FlexdslError, VerificationError
from flexdsl.testing.case import Case
from flexdsl.testing.execution import (
    Errors,
    Run,
    check_backward,
    check_forward,
    check_laws,
    reference,
)
from flexdsl.testing.function import Disagreement, allowed_pairs
from flexdsl.testing.limits import Limits, find_limits
from flexdsl.testing.plans import check_complement, check_plan
from flexdsl.testing.report import Report
from flexdsl.testing.reproduce import program_of, show_case
from flexdsl.testing.subject import Subject, read_subject

BACKENDS = ("cpu", "triton", "reference")
_BATCH, _HEADS, _LONGEST, _OFFSET = 3, 6, 48, 24
_TRITON_LONGEST = 144  # more than one of its tiles


@dataclass
class _Tally:
    """What has been done so far, and the cases that failed."""

    errors: Errors = field(default_factory=Errors)
    examples: int = 0
    pairs: int = 0
    tiles: int = 0
    dtypes: dict[str, None] = field(default_factory=dict)
    last: tuple[Case, Disagreement] | None = None
    smallest: tuple[Case, Disagreement] | None = None

    def fail(self, case: Case, why: Disagreement) -> None:
        self.last = case, why
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
) -> Report:
    """Check a mask or a score modification on drawn calls of attention. Needs hypothesis.

    Each case draws lengths, heads, key heads, dimensions, offset, tile, dtype and elements, within
    what the captured tensors of the mod allow, and holds, in one thread,

    * the function, on plain ints, against its traced expression, and against itself;
    * every tile of the plan, its pairs and its empty rows against brute force over the function;
    * output, lse and gradients by q, k, v and captured floats against dense float64 attention;
    * laws: keys that are masked change nothing, rows alone and batches in another order give the
      same, `mask & ~mask` is nothing and `mask | ~mask` everything.

    Args:
        mod: a Mod, a function of `(b, h, q, kv)` or `(score, b, h, q, kv)`, or text.
        mask: of a score modification: the mask that it is used under.
        examples: cases to draw.
        backend: as in `attention`; "auto" is the GPU's kernels where there is a GPU, else "cpu".
        q_len, kv_len, heads: use exactly these instead of drawing them.

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
    subject, device = read_subject(mod, mask), _device(_backend(backend))
    backend = _backend(backend)
    most = _most(backend, q_len, kv_len, heads)
    least = Limits(batch=1, heads=heads or 1, q_positions=q_len or 1, kv_len=kv_len or 1)
    limits = find_limits(subject, least, most)
    tally = _Tally()

    def run(case: Case) -> None:
        try:
            _run(subject, case, backend, device, tally)
        except Disagreement as why:
            tally.fail(case, why)
            raise

    from flexdsl.testing.strategies import cases

    drawn = cases(
        limits,
        q_len=q_len,
        kv_len=kv_len,
        heads=heads,
        dtypes=_dtypes(backend),
        dims=(16, 32, 64) if backend == "triton" else (16, 2, 8, 24, 40),
        exact=subject.has_corners,
    )
    failed = _draw(run, drawn, examples, subject, tally)
    if failed is not None:
        raise _failure(subject, *failed, backend, device)
    return _report(subject, backend, limits, limits != most, tally)


def check(mod: Any, case: Case, *, mask: Any = None, backend: str = "auto") -> None:
    """All checks of `verify` on one case. Needs no hypothesis.

    Args:
        mod, mask, backend: as in `verify`.
        case: its sizes and elements.

    Raises:
        VerificationError: a check fails.
        FlexdslError: as in `verify`.
    """
    subject, backend = read_subject(mod, mask), _backend(backend)
    device = _device(backend)
    try:
        _run(subject, case, backend, device, _Tally())
    except Disagreement as why:
        raise _failure(subject, case, why, backend, device) from why


def _run(subject: Subject, case: Case, backend: str, device: torch.device, tally: _Tally) -> None:
    """Every check, the cheap ones first."""
    with _one_thread():
        _run_checks(subject, case, backend, device, tally)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Calls so small lose time to more threads: 20 times, measured, beside another process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _run_checks(
    subject: Subject, case: Case, backend: str, device: torch.device, tally: _Tally
) -> None:
    allowed = allowed_pairs(subject, case)
    try:
        plan = check_plan(subject, case, allowed)
        check_complement(subject, case)
    except FlexdslError as error:
        raise Disagreement(f"making the plan raises {type(error).__name__}: {error}") from error
    table = torch.from_numpy(allowed).to(device)
    run = Run(subject, case, backend, device, table, plan, tally.errors)
    expected = reference(run)
    found = check_forward(run, expected)
    check_backward(run, expected)
    check_laws(run, found, expected.score_size)
    tally.examples += 1
    tally.pairs += allowed.size
    tally.tiles += case.batch * case.heads * plan.q_tiles * plan.kv_tiles
    tally.dtypes[case.dtype] = None


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


def _failure(
    subject: Subject, case: Case, why: Disagreement, backend: str, device: torch.device
) -> VerificationError:
    def fails(other: Subject) -> bool:
        try:
            _run(other, case, backend, device, _Tally())
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


def _report(subject: Subject, backend: str, limits: Limits, limited: bool, tally: _Tally) -> Report:
    errors = tally.errors
    names = [n for n in errors.absolute if ":" not in n]
    return Report(
        subject.mod.name,
        subject.mod.text,
        backend,
        tally.examples,
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


def _backend(backend: str) -> str:
    """The backend by name.

    Raises:
        ArgumentError: there is no such one.
        BackendError: it cannot run here.
    """
    if backend == "auto":
        return "triton" if torch.cuda.is_available() else "cpu"
    if backend not in BACKENDS:
        raise ArgumentError(
            f"backend is {backend!r}: there is no such one",
            fix=", ".join(f'"{b}"' for b in ("auto", *BACKENDS)),
        )
    if backend == "triton" and not (torch.cuda.is_available() or _interprets()):
        raise BackendError(
            "backend 'triton' cannot run on a machine without a GPU",
            fix="backend='cpu', or set TRITON_INTERPRET=1 before Python starts",
        )
    return backend


def _device(backend: str) -> torch.device:
    """Where a backend's tensors are."""
    on_gpu = backend == "triton" and not _interprets()
    return torch.device("cuda" if on_gpu else "cpu")


def _interprets() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def _dtypes(backend: str) -> tuple[str, ...]:
    if backend != "triton":
        return "float32", "float64", "float16", "bfloat16"
    # Triton's interpreter computes bfloat16 wrongly.
    return ("float32", "float16") if _interprets() else ("float32", "float16", "bfloat16")


def _most(backend: str, q_len: int | None, kv_len: int | None, heads: int | None) -> Limits:
    longest = _TRITON_LONGEST if backend == "triton" else _LONGEST
    return Limits(
        batch=_BATCH,
        heads=heads or _HEADS,
        q_positions=(q_len or longest) + _OFFSET,
        kv_len=kv_len or longest,
    )
