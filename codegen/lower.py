"""Expr -> Triton expressions, with each value computed where it changes and no oftener.

A value that depends on b, h and parameters only, or on the query row, is computed before the loops;
what depends on the key or the score, inside. Values used once are written in place, the others get
a variable. Which tiles need which expression is not known here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from flexdsl.analysis.signs import is_non_negative, is_positive, power_of_two
from flexdsl.ir import OPS, Capture, DType, Expr, Op, Operands, Type, walk
from flexdsl.ir.ops import ATOM, BITAND, BITOR, LEAVES, SHIFT, TERM, UNARY

from .addresses import parts_of, turn_indices
from .helpers import HELPERS
from .kernel import Argument, Role
from .rolled import NUMBER, Rolled, rolled_sums
from .writer import Block, Names

_CALLS = {
    Op.MIN: "minimum",
    Op.MAX: "maximum",
    Op.ABS: "abs",
    Op.WHERE: "where",
    Op.EXP: "exp",
    Op.EXP2: "exp2",
    Op.LOG: "log",
    Op.LOG2: "log2",
    Op.SQRT: "sqrt",
    Op.RSQRT: "rsqrt",
    Op.SIN: "sin",
    Op.COS: "cos",
    Op.SIGMOID: "sigmoid",
    Op.FLOOR: "floor",
    Op.FLOORDIV: "floor_div",
    Op.MOD: "floor_mod",
}
# What values are called that cannot have the name of their op, mostly words of Python.
_RESULTS = {Op.AND: "both", Op.OR: "either", Op.NOT: "opposite", Op.WHERE: "choice"}
# Triton has bitwise operators for logic; `and`, `or` and `not` are of scalars.
_INFIX = {Op.AND: ("&", BITAND), Op.OR: ("|", BITOR)}

# What differs from element to element of a tile.
_OF_ELEMENTS = {"kv", "q", "score"}

Text = tuple[str, int]  # source and the precedence of its outermost operator


@dataclass
class Scope:
    """A place in the kernel where values are computed, and what has been computed there.

    Attributes:
        block: where new lines go.
        outer: the scope around it; None for the place before the loops.
        variables: how the variables of a mod are spelled here.
        known: source of the nodes that have been computed here.
        unscaled: sources of two factors of the variable `score`, of which the second is the same
            for a whole tile; none where it is not such a product.
    """

    block: Block
    outer: Scope | None
    variables: dict[str, str]
    known: dict[Expr, Text] = field(default_factory=dict[Expr, Text])
    unscaled: tuple[()] | tuple[str, str] = ()


@dataclass
class Lowering:
    """Turns expressions into source for one kernel.

    Attributes:
        names: of the kernel.
        clamped: loads whose index is held inside the tensor.
        wide: captures whose offsets need 64 bits.
        arguments: the parameters and captures met so far, as arguments of the kernel.
        helpers: names of the helper functions met so far.
        held: sums and differences of indices that are held inside 32 bits (`comparisons.py`).
        inverses: names of the inverses of scalar divisors, computed before the loops.
        language: the module of Triton's functions: "tl", or "gl" in a Gluon kernel.
    """

    names: Names
    clamped: frozenset[Expr] = frozenset()
    wide: frozenset[Capture] = frozenset()
    arguments: dict[tuple[Role, str, int], Argument] = field(
        default_factory=dict[tuple[Role, str, int], Argument]
    )
    helpers: set[str] = field(default_factory=set[str])
    held: set[Expr] = field(default_factory=set[Expr])
    inverses: dict[Expr, str] = field(default_factory=dict[Expr, str])
    language: str = "tl"

    def lower(
        self, roots: Iterable[Expr], scope: Scope, name: str = "", least: int = 0
    ) -> list[str]:
        """Compute `roots` in `scope` and return the source of each.

        Args:
            name: where given, roots that are not names already are assigned to variables of this
                name, so that they can stand in an operation.
            least: the precedence of an operation that they stand in otherwise; what binds less has
                parentheses.
        """
        roots = list(roots)
        if scope.outer is not None:
            turned = turn_indices(roots, scope.outer.variables)
            roots = [turned[root] for root in roots]
            self.clamped |= {turned[n] for n in self.clamped & turned.keys()}
        uses = Counter(a for node in walk(*roots) for a in node.args)
        rolled = rolled_sums(roots)
        for node in walk(*roots):
            if node in rolled:
                self._place_loop(node, rolled[node], scope)
            else:
                self._place(node, scope, uses[node] > 1)
        found: list[str] = []
        for root in roots:
            text, precedence = self._find(root, scope)
            if name and precedence < ATOM:
                text = self.assign(name, text, self._home(root, scope).block)
            found.append(_at((text, precedence), least))
        return found

    def argument(self, role: Role, of: str, index: int = 0, name: str | None = None) -> str:
        """The name of an argument, which is added where it is new."""
        key = (role, of, index)
        if key not in self.arguments:
            self.arguments[key] = Argument(self.names.fresh(name or of), role, of, index)
        return self.arguments[key].name

    def _home(self, node: Expr, scope: Scope) -> Scope:
        """The outermost scope in which all variables of `node` are known."""
        outer = scope.outer
        if outer is not None and node.variables <= outer.variables.keys():
            return self._home(node, outer)
        return scope

    def _find(self, node: Expr, scope: Scope) -> Text:
        place: Scope | None = scope
        while place is not None:
            if node in place.known:
                return place.known[node]
            place = place.outer
        raise KeyError(node)

    def _place(self, node: Expr, scope: Scope, repeated: bool) -> None:
        home = self._home(node, scope)
        if node in home.known:
            return
        text, precedence = self._text(node, home)
        hoisted = home is not scope and node.variables
        if node.op not in LEAVES and (repeated or hoisted or node.op is Op.LOAD):
            text, precedence = self.assign(self._wanted(node), text, home.block), ATOM
        home.known[node] = text, precedence

    def _place_loop(self, node: Expr, rolled: Rolled, scope: Scope) -> None:
        """Write a long sum as a loop over the numbers in which its terms differ."""
        home = self._home(node, scope)
        if node in home.known:
            return
        total = self.assign("sum", self._find(rolled.before, home)[0], home.block)
        term, number = self.names.fresh("term"), self.names.fresh("number")
        with home.block.indented(f"for {term} in range({len(rolled.numbers)}):") as body:
            body.line(f"{number} = {rolled.numbers[0]!r}")
            for turn, value in enumerate(rolled.numbers[1:], 1):
                body.line(
                    f"{number} = {self.language}.where({term} == {turn}, {value!r}, {number})"
                )
            inside = Scope(body, home, {**home.variables, str(NUMBER.attribute): number})
            (text,) = self.lower([rolled.term], inside)
            body.line(f"{total} += {text}")
        home.known[node] = total, ATOM

    def assign(self, wanted: str, text: str, block: Block) -> str:
        """Write a variable of the source `text`, and give its name, like the wanted one."""
        name = self.names.fresh(wanted)
        block.line(f"{name} = {text}")
        return name

    def _wanted(self, node: Expr) -> str:
        """A telling name for the value of `node`: `slopes_h`, `doc_kv`, `q_minus_kv`."""
        parts = [n for n in ("b", "h", "q", "kv", "score") if n in node.variables]
        if isinstance(node.attribute, Capture):
            return "_".join([node.attribute.name, *parts])
        return "_".join([_RESULTS.get(node.op, node.op.value), *parts])

    def _text(self, node: Expr, scope: Scope) -> Text:
        args = [self._find(a, scope) for a in node.args]
        match node.op:
            case Op.CONST:
                return constant(node, self.language)
            case Op.VAR:
                return scope.variables[str(node.attribute)], ATOM
            case Op.PARAM:
                return self.argument(Role.PARAMETER, str(node.attribute)), ATOM
            case Op.TANH:
                return self._tanh(node, "1.0", scope), ATOM
            case Op.MUL if (tanh := tangent_in(node)) is not None:
                (by,) = (a for a in node.args if a is not tanh)
                if self._find(tanh, scope)[0].startswith("tanh("):  # else it has been computed
                    return self._tanh(tanh, self._find(by, scope)[0], scope), ATOM
            case Op.ADD | Op.SUB if node in self.held:
                name = "held_sum" if node.op is Op.ADD else "held_difference"
                self.helpers.add(name)
                return f"{name}({args[0][0]}, {args[1][0]})", ATOM
            case Op.LOAD:
                return self._load(node, scope)
            case Op.NOT:
                return f"~{_at(args[0], UNARY)}", UNARY
            case Op.DIV if not node.args[1].variables & _OF_ELEMENTS:
                return self._over_scalar(node, scope)
            case Op.TO_FLOAT:
                return f"({args[0][0]}).to({self.language}.float32)", ATOM
            case Op.TO_INDEX:
                return f"({args[0][0]}).to({self.language}.int32)", ATOM
            case Op.FLOORDIV | Op.MOD if is_non_negative(node.args[0]) and is_positive(
                node.args[1]
            ):
                if (power := power_of_two(node.args[1])) is not None:
                    return _by_power(node.op, args[0], power)
                # Else rounding toward zero is rounding down.
            case op if op in _CALLS:
                name = _CALLS[op]
                if name in HELPERS:
                    self.helpers.add(name)
                else:
                    name = f"{self.language}.{name}"
                return f"{name}({', '.join(t for t, _ in args)})", ATOM
        info = OPS[node.op]
        symbol, precedence = _INFIX.get(node.op, (info.symbol, info.precedence))
        if info.arity == 1:
            return f"{symbol}{_at(args[0], precedence)}", precedence
        chained = info.result is Type.BOOL and info.operands is not Operands.BOOLS
        left = _at(args[0], precedence + chained)
        return f"{left} {symbol} {_at(args[1], precedence + 1)}", precedence

    def _tanh(self, node: Expr, scale: str, scope: Scope) -> str:
        """The source of a hyperbolic tangent times what is the same for a whole tile."""
        self.helpers.add("tanh")
        x, factor = self.factor_of(node.args[0], scope)
        return f"tanh({x}, {factor}, {scale})"

    def factor_of(self, node: Expr, scope: Scope) -> tuple[str, str]:
        """`node` as a value of each element and a factor that is the same for a whole tile.

        The factor joins a constant of the function that takes both, at no cost for each element.
        """
        value, by = node, "1.0"
        if self._find(node, scope)[1] < ATOM and node.op in (Op.MUL, Op.DIV):
            first, second = node.args
            if node.op is Op.MUL and not first.variables & _OF_ELEMENTS:
                first, second = second, first
            if not second.variables & _OF_ELEMENTS:
                found = self._find(second, scope)[0]
                value, by = first, self._inverse(second, scope) if node.op is Op.DIV else found
        if value.op is Op.VAR and value.attribute == "score" and scope.unscaled:
            text, scale = scope.unscaled
            return text, scale if by == "1.0" else f"({scale} * {by})"
        return self._find(value, scope)[0], by

    def _over_scalar(self, node: Expr, scope: Scope) -> Text:
        """A quotient by what is the same for a whole tile: a product with its inverse.

        A division of each element would be ten instructions; the product is within one rounding.
        """
        dividend, divisor = node.args
        inverse = self._inverse(divisor, scope)
        if dividend.op is Op.CONST and dividend.attribute == 1.0:
            return inverse, ATOM
        return f"{_at(self._find(dividend, scope), TERM)} * {inverse}", TERM

    def _inverse(self, divisor: Expr, scope: Scope) -> str:
        """The source of the inverse of a scalar, computed where the scalar is known."""
        if divisor.op is Op.CONST:
            assert isinstance(divisor.attribute, float)
            return repr(1.0 / divisor.attribute) if divisor.attribute else 'float("inf")'
        if divisor not in self.inverses:
            text = f"1.0 / {_at(self._find(divisor, scope), TERM + 1)}"
            self.inverses[divisor] = self.assign("inverse", text, self._home(divisor, scope).block)
        return self.inverses[divisor]

    def pointer(
        self,
        capture: Capture,
        indices: Iterable[str],
        clamped: bool,
        roles: tuple[Role, Role] = (Role.CAPTURE, Role.STRIDE),
        prefix: str = "",
        more: Iterable[tuple[int, str, str]] = (),
    ) -> str:
        """The source of a pointer to an element of a captured tensor, or of its gradient.

        Args:
            indices: source of an index for each dimension, "" where there is none.
            clamped: hold each index inside the tensor.
            roles: of the tensor's pointer and of its strides.
            prefix: before the names of both.
            more: what is added at the end: a dimension, "+" or "-", and source of an index.
        """
        name = f"{prefix}{capture.name}"
        parts = [self.argument(roles[0], capture.name, 0, name)]
        for axis, index in enumerate(indices):
            if clamped:
                length = f"{capture.name}_length_{axis}"
                length = self.argument(Role.LENGTH, capture.name, axis, length)
                index = f"{self.language}.maximum({index}, 0)"
                index = f"{self.language}.minimum({index}, {length} - 1)"
            if index:
                parts.append(self._offset(capture, axis, index, roles[1], name))
        last = [f" {s} {self._offset(capture, a, i, roles[1], name)}" for a, s, i in more]
        return " + ".join(parts) + "".join(last)

    def _offset(self, capture: Capture, axis: int, index: str, role: Role, name: str) -> str:
        stride = self.argument(role, capture.name, axis, f"{name}_stride_{axis}")
        wide = f".to({self.language}.int64)" if capture in self.wide else ""
        return f"({index}){wide} * {stride}"

    def _load(self, node: Expr, scope: Scope) -> Text:
        capture = node.attribute
        assert isinstance(capture, Capture)
        indices = [self._find(a, scope)[0] for a in node.args]
        more: list[tuple[int, str, str]] = []
        clamped = node in self.clamped
        if scope.outer is not None and not clamped:
            for axis, index in enumerate(node.args):
                parts = parts_of(index, scope.outer.variables)
                if parts is not None:
                    first, sign, rest = parts
                    indices[axis] = self._find(first, scope)[0]
                    more.append((axis, sign, self._find(rest, scope)[0]))
                elif not index.variables <= scope.outer.variables.keys():
                    more.append((axis, "+", indices[axis]))
                    indices[axis] = ""
        pointer = self.pointer(capture, indices, clamped, more=more)
        text = f"{self.language}.load({pointer})"
        match capture.dtype:
            case DType.F32 | DType.I32 | DType.I64:
                return text, ATOM
            case DType.BOOL:
                return f"({text} != 0)", ATOM
        kind = "float32" if capture.dtype.type is Type.FLOAT else "int32"
        return f"{text}.to({self.language}.{kind})", ATOM


def tangent_in(node: Expr) -> Expr | None:
    """The hyperbolic tangent that a product multiplies by what is the same for a whole tile."""
    for value, by in (node.args, node.args[::-1]):
        if value.op is Op.TANH and not by.variables & _OF_ELEMENTS:
            return value
    return None


def constant(node: Expr, language: str = "tl") -> Text:
    """The source of a constant."""
    value = node.attribute
    if isinstance(value, bool):
        # A tensor, so that `~` and `&` mean logic.
        if language == "gl":
            return f"gl.to_tensor({value})", ATOM
        return f"tl.full([1, 1], {value}, tl.int1)", ATOM
    if isinstance(value, int) and not -(2**31) <= value < 2**31:
        # By itself it would be unsigned, or not be taken beside numbers of 32 bits.
        return f"{language}.to_tensor({value}).to({language}.int64)", ATOM
    if isinstance(value, float) and (value != value or value in (float("inf"), -float("inf"))):
        return f'float("{value}")', ATOM
    negative = isinstance(value, int | float) and value < 0
    return repr(value), UNARY if negative else ATOM


def _at(text: Text, precedence: int) -> str:
    return text[0] if text[1] >= precedence else f"({text[0]})"


def _by_power(op: Op, text: Text, power: int) -> Text:
    """The quotient or the rest of a number that is not negative by 2**power: one instruction.

    The compiler, which does not know the sign, would have three for the one and five for the other.
    """
    if op is Op.MOD:
        return f"{_at(text, BITAND)} & {2**power - 1}", BITAND
    return f"{_at(text, SHIFT)} >> {power}", SHIFT
