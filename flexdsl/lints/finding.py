"""One finding of a lint, and its text, which has the form of an error's."""

from __future__ import annotations

from dataclasses import dataclass

from flexdsl.errors import Span
from flexdsl.ir import Expr, Program, walk


@dataclass(frozen=True)
class Finding:
    """Something suspicious.

    Attributes:
        name: of the lint, such as "empty-rows".
        what: what was found, in one sentence.
        why: what it does.
        fix: what to write instead, if it is not meant.
        span: where in the user's source.
    """

    name: str
    what: str
    why: str
    fix: str
    span: Span | None = None

    def __str__(self) -> str:
        place = [] if self.span is None else [self.span.render()]
        reasons = [f"  why: {self.why}", f"  write instead: {self.fix}"]
        return "\n".join([f"{self.name}: {self.what}", *place, *reasons])


def place_of(program: Program, node: Expr) -> Span | None:
    """Where a node, or the last part of it that is known, came from."""
    nodes = (node, *reversed(list(walk(node))))
    return next((program.spans[n] for n in nodes if n in program.spans), None)
