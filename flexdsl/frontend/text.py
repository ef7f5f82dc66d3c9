"""Text -> Program: the meaning of names, operators and declarations of the text form.

    mask sliding(window: int = 1024) = q >= kv and q - kv < window
    score alibi(slopes: f32[h]) = score + slopes[h] * (kv - q)
    q >= kv and q - kv < 1024                  a bare expression: the type says which kind it is

It reads back what `ir/printer.py` prints to the same node. The grammar is in `grammar.lark` and
syntax errors are in `syntax.py`. Tensors are bound later: only parameters have values here.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast

from flexdsl.errors import FlexdslError, ResultError, Span, TextError, TypeMismatchError
from flexdsl.frontend.syntax import Source, parse_tree
from flexdsl.ir import (
    MOD_VARIABLES,
    OPS,
    Capture,
    DType,
    Expr,
    Kind,
    Op,
    Program,
    Type,
    apply,
    const,
    load,
    param,
    var,
)

if TYPE_CHECKING:
    from lark import Token, Tree

_T = TypeVar("_T")

FUNCTIONS = {row.symbol: op for op, row in OPS.items() if row.symbol and row.precedence == 0}
FUNCTIONS["where"] = Op.WHERE  # as functions of tensors spell it, beside `a if c else b`
INFIX = {row.symbol: op for op, row in OPS.items() if row.arity == 2 and row.precedence}
PREFIX = {row.symbol: op for op, row in OPS.items() if row.arity == 1 and row.precedence}
CONSTANTS: dict[str, bool | float] = {
    "True": True,
    "False": False,
    "inf": math.inf,
    "nan": math.nan,
}
KEYWORDS = frozenset({"and", "or", "not", "if", "else"})
# No parameter or capture may have one of these names; the front end renames what would.
RESERVED = frozenset({*FUNCTIONS, *MOD_VARIABLES, *CONSTANTS, *KEYWORDS}) - {"where"}

_PARAMETER_TYPES = {"int": Type.INDEX, "float": Type.FLOAT}
_DTYPES = {dtype.value: dtype for dtype in DType}
# On two bools these bitwise operators mean what they mean in Python and torch.
_LOGICAL = {Op.BITAND: Op.AND, Op.BITOR: Op.OR}


def parse_program(text: str, name: str = "mod") -> Program:
    """The program that `text` declares, or that a bare expression is.

    Args:
        text: `mask name(arguments) = expression`, the same with `score`, or an expression alone.
        name: the program's name where the text gives none.

    Raises:
        TextError: the text does not parse, or uses a name that it does not declare.
        TypeMismatchError: an operator or function is applied to types that it does not take.
        ResultError: a mask is not a bool, or a score is not a float.
    """
    source = Source(text)
    tree = parse_tree(source)
    if tree.data == "declared":
        return _declared(source, tree)
    builder = _Builder(source, dict(MOD_VARIABLES), declared=False)
    expr = builder.build(tree.children[0])
    kind = Kind.MASK if expr.type is Type.BOOL else Kind.SCORE
    span = source.span_of(tree)
    _check_result(kind, expr, span)
    return Program(kind, name, expr, {}, builder.spans, _one_line(text))


def _declared(source: Source, tree: Tree[Token]) -> Program:
    kind_token, name, *declarations, body = tree.children
    kind = Kind(str(kind_token))
    variables = {n: t for n, t in MOD_VARIABLES.items() if kind is Kind.SCORE or n != "score"}
    builder = _Builder(source, variables, declared=True)
    for declaration in declarations:
        builder.declare(cast("Tree[Token]", declaration))
    expr = builder.build(body)
    _check_result(kind, expr, source.span_of(body))
    return Program(kind, str(name), expr, builder.values, builder.spans, _one_line(source.text))


def _one_line(text: str) -> str:
    """The text as a comment of a kernel can show it."""
    return " ".join(text.split())


def _check_result(kind: Kind, expr: Expr, span: Span) -> None:
    if kind is Kind.MASK and expr.type is not Type.BOOL:
        raise ResultError(
            f"a mask is a bool, but this is {_a(expr.type)}",
            why="a mask says whether q may see kv",
            fix="a comparison, such as q >= kv",
            span=span,
        )
    if kind is Kind.MASK and "score" in expr.variables:
        raise ResultError(
            "a mask cannot use the score",
            why="which pairs are computed is decided before any score exists",
            fix="a float for a score: score if condition else -inf",
            span=span,
        )
    if kind is Kind.SCORE and expr.type is not Type.FLOAT:
        raise ResultError(
            f"a score is a float, but this is {_a(expr.type)}",
            fix="score + ... for a score, a comparison for a mask",
            span=span,
        )


@dataclass(slots=True)
class _Builder:
    """One text's names, and the nodes made from its tree so far."""

    source: Source
    variables: dict[str, Type]
    declared: bool
    params: dict[str, Expr] = field(default_factory=dict[str, Expr])
    captures: dict[str, Capture] = field(default_factory=dict[str, Capture])
    values: dict[str, Any] = field(default_factory=dict[str, Any])
    spans: dict[Expr, Span] = field(default_factory=dict[Expr, Span])

    def declare(self, tree: Tree[Token]) -> None:
        """Add one argument of the declaration."""
        name_token, type_token, *rest = tree.children
        name = str(name_token)
        if name in RESERVED or name in self.params or name in self.captures:
            raise TextError(
                f"'{name}' has a meaning already",
                fix="another name",
                span=self.source.span_of(name_token),
            )
        if tree.data == "parameter":
            self._declare_parameter(name, type_token, cast("Tree[Token]", rest[0]))
        else:
            dtype = self._lookup(_DTYPES, type_token, "an element type")
            self.captures[name] = Capture(name, dtype, len(rest))

    def _declare_parameter(self, name: str, type_token: Any, literal: Tree[Token]) -> None:
        type = self._lookup(_PARAMETER_TYPES, type_token, "a parameter's type")
        *minus, token = literal.children
        span = self.source.span_of(literal)
        value = _constant(str(token), span)
        if isinstance(value, bool) or (type is Type.INDEX and not isinstance(value, int)):
            raise TextError(f"'{token}' is no {type_token}", fix=f"{name}: int = 1", span=span)
        signed = -value if minus else value
        try:
            const(signed)
        except TypeMismatchError as error:
            raise error.at(span) from None
        self.values[name] = signed if type is Type.INDEX else float(signed)
        self.params[name] = param(name, type)

    def build(self, root: Any) -> Expr:
        """The node of a tree; iterative, so that a long text meets no limit of recursion."""
        done: dict[int, Expr] = {}
        for tree in root.iter_subtrees():
            span = self.source.span_of(tree)
            try:
                node = self._node(tree, [done.get(id(c)) for c in tree.children], span)
            except FlexdslError as error:
                raise (error.at(span) if error.span is None else error) from None
            self.spans.setdefault(node, span)
            done[id(tree)] = node
        return done[id(root)]

    def _node(self, tree: Tree[Token], nodes: list[Expr | None], span: Span) -> Expr:
        args = [n for n in nodes if n is not None]
        match tree.data:
            case "number":
                return const(_constant(str(tree.children[0]), span))
            case "negative":
                return const(-_constant(str(tree.children[1]), span))
            case "reference":
                return self._reference(str(tree.children[0]), span)
            case "prefix":
                return apply(PREFIX[str(tree.children[0])], *args)
            case "infix":
                return _infix(INFIX[str(tree.children[1])], *args)
            case "chain":
                return _chain(args, [INFIX[str(c)] for c in tree.children[1::2]])
            case "choice":
                value, condition, other = args
                return apply(Op.WHERE, condition, value, other)
            case "call":
                return self._call(tree.children[0], args, span)
            case _:
                return self._load(tree.children[0], args)

    def _reference(self, name: str, span: Span) -> Expr:
        if name in self.variables:
            return var(name)
        if name in self.params:
            return self.params[name]
        if name in CONSTANTS:
            return const(CONSTANTS[name])
        if name in self.captures:
            index = ", ".join("ijklmn"[: self.captures[name].rank])
            raise TextError(f"'{name}' is a tensor", fix=f"{name}[{index}]", span=span)
        if name in FUNCTIONS:
            raise TextError(f"'{name}' is a function", fix=f"{name}(...)", span=span)
        raise self._unknown(name, span)

    def _call(self, name: Any, args: list[Expr], span: Span) -> Expr:
        op = self._lookup(FUNCTIONS, name, "a function")
        if len(args) != OPS[op].arity:
            wanted = ("no", "one argument", "two arguments", "three arguments")[OPS[op].arity]
            fix = f"{name}({', '.join('xyz'[: OPS[op].arity])})"
            raise TextError(f"'{name}' takes {wanted}, not {len(args)}", fix=fix, span=span)
        if op is Op.TO_FLOAT and args[0].type is Type.FLOAT:
            return args[0]
        return apply(op, *args)

    def _load(self, name: Any, indices: list[Expr]) -> Expr:
        capture = self.captures.get(str(name))
        if capture is not None:
            return load(capture, *indices)
        span = self.source.span_of(name)
        if str(name) in self.params or str(name) in self.variables:
            fix = f"{name} alone; a tensor is declared with its axes, {name}: f32[h]"
            raise TextError(f"'{name}' is a number, not a tensor", fix=fix, span=span)
        raise self._unknown(str(name), span)

    def _unknown(self, name: str, span: Span) -> TextError:
        known = [*self.variables, *self.params, *self.captures]
        near = difflib.get_close_matches(name, [*known, *FUNCTIONS, *CONSTANTS], 1)
        fix = near[0] if near else f"mask name({name}: int = 1) = ... to give it a value"
        if name == "score":
            fix = "score name(...) = ... for a program that uses the score"
        return TextError(
            f"nothing is named '{name}'",
            why=f"known here are {', '.join(known)}",
            fix=fix,
            span=span,
        )

    def _lookup(self, table: Mapping[str, _T], token: Any, what: str) -> _T:
        if str(token) in table:
            return table[str(token)]
        near = difflib.get_close_matches(str(token), table, 1)
        raise TextError(
            f"'{token}' is not {what}",
            why=f"there are {', '.join(table)}",
            fix=near[0] if near else "",
            span=self.source.span_of(token),
        )


def _infix(op: Op, a: Expr, b: Expr) -> Expr:
    if op in _LOGICAL and Type.BOOL in (a.type, b.type):
        if a.type is not b.type:
            symbol = OPS[op].symbol
            raise TypeMismatchError(
                f"'{symbol}' joins {_a(a.type)} and {_a(b.type)}",
                why=f"'{symbol}' binds tighter than a comparison, as in Python",
                fix=f"parentheses around each comparison, or '{OPS[_LOGICAL[op]].symbol}'",
            )
        op = _LOGICAL[op]
    return apply(op, a, b)


def _chain(args: list[Expr], ops: Iterable[Op]) -> Expr:
    """`a < b <= c` as Python means it: every comparison of neighbours."""
    links = [apply(op, a, b) for op, a, b in zip(ops, args, args[1:], strict=False)]
    result = links[0]
    for link in links[1:]:
        result = apply(Op.AND, result, link)
    return result


def _constant(text: str, span: Span) -> bool | int | float:
    """The value of a constant's name or digits."""
    if text in CONSTANTS:
        return CONSTANTS[text]
    try:
        return float(text) if set(text) & set(".eE") else int(text)
    except ValueError:
        fix = "digits, such as 12, 0.5 or 1e-3"
        raise TextError(f"'{text[:20]}' is no number", fix=fix, span=span) from None


def _a(type: Type) -> str:
    return f"an {type.value} (an integer)" if type is Type.INDEX else f"a {type.value}"
