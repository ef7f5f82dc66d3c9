"""A program: one mask or score modification, traced or parsed, ready for analysis.

It is the expression with the names that a person gave, where each part came from, and the values of
its parameters and captures *now*. It does not know how it was made nor what will be done with it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from flexdsl.errors import Span
from flexdsl.ir.digest import digest
from flexdsl.ir.expr import Expr, captures_of, params_of
from flexdsl.ir.printer import print_expr


class Kind(Enum):
    """What a program modifies."""

    MASK = "mask"
    SCORE = "score"


@dataclass(frozen=True, eq=False)
class Program:
    """One modification.

    Attributes:
        kind: a mask (bool) or a score (float) modification.
        name: an identifier, for kernels and messages.
        expr: what it computes.
        values: the number of each parameter and the tensor of each capture, by name. A capture of
            a program parsed from text has none until it is bound.
        spans: where nodes came from, where that is known.
        source: `file.py:line` of the user's function, or the text, for comments in kernels.
        tensor_style: the function calls methods that only tensors have (`x.clamp`, `~x`), so it
            takes scalar tensors in place of plain numbers.
        memo: what other rooms remember of this very object; it is gone when the program is.
    """

    kind: Kind
    name: str
    expr: Expr
    values: Mapping[str, Any] = field(default_factory=dict[str, Any])
    spans: Mapping[Expr, Span] = field(default_factory=dict[Expr, Span])
    source: str = ""
    tensor_style: bool = False
    memo: dict[Hashable, Any] = field(default_factory=dict[Hashable, Any], init=False, repr=False)

    @property
    def digest(self) -> str:
        """Equal for programs that one kernel serves."""
        return digest(self.expr)

    @property
    def text(self) -> str:
        """The whole program in the text form."""
        arguments = [
            f"{p.attribute}: {'int' if p.type.value == 'index' else 'float'}"
            f" = {self.values[str(p.attribute)]!r}"
            for p in params_of(self.expr)
        ]
        for capture in captures_of(self.expr):
            value = self.values.get(capture.name)
            lengths = ["_"] * capture.rank if value is None else [str(n) for n in value.shape]
            arguments.append(f"{capture.name}: {capture.dtype.value}[{', '.join(lengths)}]")
        return f"{self.kind.value} {self.name}({', '.join(arguments)}) = {print_expr(self.expr)}"
