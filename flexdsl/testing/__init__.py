"""Property-based verification of users' own mods against an independent oracle.

    subject       what is verified: a mask or a score mod, and the mask that it is used under
    case          one drawn call of attention, and the tensors that it means
    limits        the largest lengths and heads that captured tensors allow, found by trying
    variation     other numbers and contents in place of those that the mod captures
    backends      what this machine can run, and which cases each backend takes
    strategies    hypothesis strategies of shapes, cases, captured tensors, and random mods
    function      the user's function on plain numbers, against its traced expression
    effects       what calling the function changes
    plans         every tile of the block plan against brute force; laws of masks
    execution     outputs, lse and gradients of a backend against dense float64 attention
    laws          relations between calls of attention
    numerics      errors beside SDPA's where short formats suffer: large, long, huge, -inf, NaN
    reproduce     a failing case as a program to paste
    report        what was checked, for a person
    verification  draws, checks, shrinks, reports

The oracle is the function called on plain ints and torch's own dense float64 arithmetic: nothing of
the analysis, of code generation or of an executor. Only `strategies` and `verify` need hypothesis,
which is imported when they are used. pytest's plugin is `flexdsl/pytest_plugin.py`. Speed is not
measured here; that is the room `bench`.
"""

from flexdsl.testing.case import Case
from flexdsl.testing.limits import Limits
from flexdsl.testing.report import Report
from flexdsl.testing.reproduce import parse_with
from flexdsl.testing.verification import check, verify

__all__ = ["Case", "Limits", "Report", "check", "parse_with", "verify"]
