"""The intermediate representation: typed, interned expressions over (b, h, q, kv).

    errors <- types <- ops <- expr <- rules <- construct      (made)
                                 \\<- printer, digest, verify, evaluate, program     (used)

An expression says what one pair (q, kv) of head h of batch b computes; it has no shapes, no tiles
and no values of its parameters. This room imports `flexdsl.errors` and numpy only.
"""

from flexdsl.ir.combine import combine, rebuild, rename_apart, used_names
from flexdsl.ir.construct import apply, const, load, param, var
from flexdsl.ir.digest import digest
from flexdsl.ir.evaluate import evaluate, evaluate_all
from flexdsl.ir.expr import Capture, Expr, captures_of, params_of, walk
from flexdsl.ir.ops import MOD_VARIABLES, OPS, VARIABLES, Op, Operands, OpInfo
from flexdsl.ir.printer import print_expr
from flexdsl.ir.program import Kind, Program
from flexdsl.ir.types import DTYPE_BY_LIBRARY_NAME, DType, Type
from flexdsl.ir.verify import verify

__all__ = [
    "DTYPE_BY_LIBRARY_NAME",
    "MOD_VARIABLES",
    "OPS",
    "VARIABLES",
    "Capture",
    "DType",
    "Expr",
    "Kind",
    "Op",
    "OpInfo",
    "Operands",
    "Program",
    "Type",
    "apply",
    "captures_of",
    "combine",
    "const",
    "digest",
    "evaluate",
    "evaluate_all",
    "load",
    "param",
    "params_of",
    "print_expr",
    "rebuild",
    "rename_apart",
    "used_names",
    "var",
    "verify",
    "walk",
]
