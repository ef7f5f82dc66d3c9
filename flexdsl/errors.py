"""Source spans, the error classes of the project, and their rendering with carets.

Every error that a user can cause is a `FlexdslError`: it has a stable code, says what is wrong and
why, points at the place where there is one, and says what to write instead. This file knows
nothing of expressions, plans or kernels; each room raises these classes with its own words.
"""

from __future__ import annotations

import linecache
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class Span:
    """A place in source: 1-based `line`, 0-based `column` (inclusive) to `end_column` (exclusive).

    `text` is the source line itself where it is not in a file (a mod given as text).
    """

    file: str
    line: int
    column: int
    end_column: int
    text: str | None = None

    def source_line(self) -> str | None:
        """The line that the span points into, without its line end; None if it cannot be read."""
        if self.text is not None:
            return self.text
        return linecache.getline(self.file, self.line).rstrip("\n") or None

    def render(self) -> str:
        """`--> file:line:column`, the source line, and a caret under each column of the span."""
        where = f"  --> {self.file}:{self.line}:{self.column + 1}"
        source = self.source_line()
        if source is None:
            return where
        number = str(self.line)
        width = max(1, min(self.end_column, len(source)) - self.column)
        # Tabs before the caret are kept, so that it stands under its character.
        lead = "".join(c if c == "\t" else " " for c in source[: self.column])
        blank = " " * len(number)
        return f"{where}\n {blank} |\n {number} | {source}\n {blank} | {lead}{'^' * width}"


class FlexdslError(Exception):
    """Base of every error caused by what the user wrote or passed.

    Args:
        what: what is wrong, in one sentence.
        why: the rule behind it, where it is not plain.
        fix: what to write instead.
        span: where in the user's source.
        notes: further spans with a label each, outermost caller last.
    """

    code: ClassVar[str] = "FX000"

    def __init__(
        self,
        what: str,
        *,
        why: str = "",
        fix: str = "",
        span: Span | None = None,
        notes: tuple[tuple[str, Span], ...] = (),
    ) -> None:
        self.what, self.why, self.fix, self.span, self.notes = what, why, fix, span, notes
        super().__init__(self.render())

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.what, self.why, self.fix, self.span, self.notes)

    def at(self, span: Span | None, notes: tuple[tuple[str, Span], ...] = ()) -> FlexdslError:
        """The same error pointing at `span`, for a room that learns the place later."""
        return type(self)(self.what, why=self.why, fix=self.fix, span=span, notes=notes)

    def render(self) -> str:
        """The whole message, as `str(error)` shows it."""
        lines = [f"{self.code}: {self.what}"]
        if self.span is not None:
            lines.append(self.span.render())
        for label, span in self.notes:
            lines.append(f"  {label}\n{span.render()}")
        if self.why:
            lines.append(f"  why: {self.why}")
        if self.fix:
            lines.append(f"  write instead: {self.fix}")
        return "\n".join(lines)


def _rebuild(
    kind: type[FlexdslError],
    what: str,
    why: str,
    fix: str,
    span: Span | None,
    notes: tuple[tuple[str, Span], ...],
) -> FlexdslError:
    """What pickle calls: errors cross the borders of processes in parallel builds."""
    return kind(what, why=why, fix=fix, span=span, notes=notes)


class GradientWarning(UserWarning):
    """A score modification depends on the score in steps: that part has no gradient."""


class CostWarning(UserWarning):
    """A plan needs far more work or memory than most: no proof decides the mask on its tiles."""


class HeadsWarning(UserWarning):
    """A captured tensor has entries of more heads than the call."""


class BundleWarning(UserWarning):
    """No bundle of FLEXDSL_BUNDLES has a kernel: it is compiled."""


class TypeMismatchError(FlexdslError, TypeError):
    """An operation was applied to values of types that it does not take."""

    code = "FX101"


class BranchError(FlexdslError):
    """A function branches on too many symbolic conditions, or loops on one without end."""

    code = "FX102"


class UnsupportedError(FlexdslError, TypeError):
    """Something was asked of a symbolic value that has no meaning in an attention kernel."""

    code = "FX103"


class ResultError(FlexdslError, TypeError):
    """A mod returned a value of the wrong type, or none."""

    code = "FX104"


class CaptureError(FlexdslError, ValueError):
    """A captured tensor cannot be used as it is: its type, its shape or its length."""

    code = "FX105"


class IndexRangeError(FlexdslError, IndexError):
    """An index can leave the range of a captured tensor at a pair that the mask allows."""

    code = "FX106"


class TextError(FlexdslError, ValueError):
    """A mod given as text does not parse."""

    code = "FX107"


class KindError(FlexdslError, TypeError):
    """A mask mod stands where a score mod is needed, or the other way round."""

    code = "FX108"


class ArgumentError(FlexdslError, ValueError):
    """An argument of a public function has the wrong shape, dtype, device or value."""

    code = "FX201"


class PlanError(FlexdslError, ValueError):
    """A block plan cannot be made, or does not belong to the call that it was given to."""

    code = "FX202"


class BackendError(FlexdslError, RuntimeError):
    """The backend asked for cannot run this call on this machine."""

    code = "FX203"


class TargetError(FlexdslError, ValueError):
    """A compilation target that does not exist or is not supported."""

    code = "FX301"


class BundleError(FlexdslError, ValueError):
    """A bundle cannot be built, read, or used for this call."""

    code = "FX302"


class VerificationError(FlexdslError, AssertionError):
    """`verify` found a case in which a mod, its plan or its kernel is not what it should be."""

    code = "FX401"


class InternalError(FlexdslError, AssertionError):
    """An invariant of the compiler itself does not hold: a bug in flexdsl, never the user's."""

    code = "FX901"
