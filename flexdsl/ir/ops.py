"""Facts about operations, as data: one row an op, one line of documentation each.

Arity, operand types, result type, the text form's spelling and binding strength stand here and
nowhere else. What an op computes is in `evaluate.py`; how it is simplified, in `construct.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from flexdsl.ir.types import Type


class Op(Enum):
    """Every operation of the language; leaves first."""

    __hash__ = object.__hash__  # members are single objects; Enum's own hash is slow

    CONST = "const"
    VAR = "var"
    PARAM = "param"
    LOAD = "load"
    AND = "and"
    OR = "or"
    NOT = "not"
    LT = "lt"
    LE = "le"
    GT = "gt"
    GE = "ge"
    EQ = "eq"
    NE = "ne"
    ADD = "add"
    SUB = "sub"
    MUL = "mul"
    DIV = "div"
    FLOORDIV = "floordiv"
    MOD = "mod"
    NEG = "neg"
    MIN = "min"
    MAX = "max"
    ABS = "abs"
    BITAND = "bitand"
    BITOR = "bitor"
    BITXOR = "bitxor"
    SHL = "shl"
    SHR = "shr"
    WHERE = "where"
    TO_FLOAT = "to_float"
    TO_INDEX = "to_index"
    EXP = "exp"
    EXP2 = "exp2"
    LOG = "log"
    LOG2 = "log2"
    SQRT = "sqrt"
    RSQRT = "rsqrt"
    SIN = "sin"
    COS = "cos"
    TANH = "tanh"
    SIGMOID = "sigmoid"
    FLOOR = "floor"


class Operands(Enum):
    """Which operand types an op takes."""

    LEAF = "no operands"
    BOOLS = "bools"
    INDICES = "indices"
    FLOATS = "floats"
    NUMBERS = "two indices or two floats"
    SAME = "two operands of one type"
    SELECT = "a bool and two operands of one type"


@dataclass(frozen=True, slots=True)
class OpInfo:
    """One row of the table.

    Attributes:
        arity: number of operands.
        operands: which types they have.
        result: the result type; None where it is that of the last operand.
        symbol: the spelling in the text form: an infix or prefix operator, or a function's name.
        precedence: binding strength of an operator as in Python, larger binds tighter; 0 for a
            function, which needs no parentheses.
        commutative: operands may be swapped.
        doc: what the op means, in one line.
    """

    arity: int
    operands: Operands
    result: Type | None
    symbol: str
    precedence: int
    commutative: bool
    doc: str


# Python's own order of binding, loosest first; CONDITIONAL is `a if c else b`.
(
    CONDITIONAL,
    OR,
    AND,
    NOT,
    COMPARE,
    BITOR,
    BITXOR,
    BITAND,
    SHIFT,
    SUM,
    TERM,
    UNARY,
    ATOM,
) = range(1, 14)

_B, _I, _F = Type.BOOL, Type.INDEX, Type.FLOAT


def _compare(symbol: str, operands: Operands, doc: str, commutative: bool = False) -> OpInfo:
    return OpInfo(2, operands, _B, symbol, COMPARE, commutative, doc)


def _number(symbol: str, precedence: int, doc: str, commutative: bool = False) -> OpInfo:
    return OpInfo(2, Operands.NUMBERS, None, symbol, precedence, commutative, doc)


def _index(symbol: str, precedence: int, doc: str, commutative: bool = False) -> OpInfo:
    return OpInfo(2, Operands.INDICES, _I, symbol, precedence, commutative, doc)


def _function(symbol: str, doc: str) -> OpInfo:
    return OpInfo(1, Operands.FLOATS, _F, symbol, 0, False, doc)


OPS: dict[Op, OpInfo] = {
    Op.CONST: OpInfo(0, Operands.LEAF, None, "", 0, False, "a constant"),
    Op.VAR: OpInfo(0, Operands.LEAF, None, "", 0, False, "b, h, q, kv (index) or score (float)"),
    Op.PARAM: OpInfo(0, Operands.LEAF, None, "", 0, False, "a captured scalar, a kernel argument"),
    Op.LOAD: OpInfo(-1, Operands.INDICES, None, "", 0, False, "an element of a captured tensor"),
    Op.AND: OpInfo(2, Operands.BOOLS, _B, "and", AND, True, "both"),
    Op.OR: OpInfo(2, Operands.BOOLS, _B, "or", OR, True, "either"),
    Op.NOT: OpInfo(1, Operands.BOOLS, _B, "not", NOT, False, "negation"),
    Op.LT: _compare("<", Operands.NUMBERS, "less than"),
    Op.LE: _compare("<=", Operands.NUMBERS, "less than or equal"),
    Op.GT: _compare(">", Operands.NUMBERS, "greater than"),
    Op.GE: _compare(">=", Operands.NUMBERS, "greater than or equal"),
    Op.EQ: _compare("==", Operands.SAME, "equal", commutative=True),
    Op.NE: _compare("!=", Operands.SAME, "not equal", commutative=True),
    Op.ADD: _number("+", SUM, "sum", commutative=True),
    Op.SUB: _number("-", SUM, "difference"),
    Op.MUL: _number("*", TERM, "product", commutative=True),
    Op.DIV: OpInfo(2, Operands.FLOATS, _F, "/", TERM, False, "quotient of floats"),
    Op.FLOORDIV: _index("//", TERM, "quotient rounded down, as in Python"),
    Op.MOD: _index("%", TERM, "remainder with the sign of the divisor, as in Python"),
    Op.NEG: OpInfo(1, Operands.NUMBERS, None, "-", UNARY, False, "negation of a number"),
    Op.MIN: _number("min", 0, "the smaller", commutative=True),
    Op.MAX: _number("max", 0, "the larger", commutative=True),
    Op.ABS: OpInfo(1, Operands.NUMBERS, None, "abs", 0, False, "absolute value"),
    Op.BITAND: _index("&", BITAND, "bitwise and", commutative=True),
    Op.BITOR: _index("|", BITOR, "bitwise or", commutative=True),
    Op.BITXOR: _index("^", BITXOR, "bitwise exclusive or", commutative=True),
    Op.SHL: _index("<<", SHIFT, "shift left"),
    Op.SHR: _index(">>", SHIFT, "arithmetic shift right"),
    Op.WHERE: OpInfo(3, Operands.SELECT, None, "if", CONDITIONAL, False, "choice by a bool"),
    Op.TO_FLOAT: OpInfo(1, Operands.INDICES, _F, "float", 0, False, "an index as a float"),
    Op.TO_INDEX: OpInfo(1, Operands.FLOATS, _I, "int", 0, False, "a float cut toward zero"),
    Op.EXP: _function("exp", "e to the power of"),
    Op.EXP2: _function("exp2", "two to the power of"),
    Op.LOG: _function("log", "natural logarithm"),
    Op.LOG2: _function("log2", "logarithm to base 2"),
    Op.SQRT: _function("sqrt", "square root"),
    Op.RSQRT: _function("rsqrt", "one over the square root"),
    Op.SIN: _function("sin", "sine of radians"),
    Op.COS: _function("cos", "cosine of radians"),
    Op.TANH: _function("tanh", "hyperbolic tangent"),
    Op.SIGMOID: _function("sigmoid", "1 / (1 + exp(-x))"),
    Op.FLOOR: _function("floor", "rounded down, still a float"),
}

COMPARISONS = frozenset({Op.LT, Op.LE, Op.GT, Op.GE, Op.EQ, Op.NE})
LEAVES = frozenset({Op.CONST, Op.VAR, Op.PARAM})

# The comparison that holds exactly where the key does not (of indices: a NaN has no order).
NEGATED = {
    Op.LT: Op.GE,
    Op.LE: Op.GT,
    Op.GT: Op.LE,
    Op.GE: Op.LT,
    Op.EQ: Op.NE,
    Op.NE: Op.EQ,
}

# The variables of a mod and their types; `score` is there in a score mod only.
MOD_VARIABLES = {"b": _I, "h": _I, "q": _I, "kv": _I, "score": _F}

# First and last position (both inclusive) of the rows or columns of a tile: the variables of the
# bounds that the analysis derives for a whole tile. A mod cannot use them.
TILE_VARIABLES = {"q_first": _I, "q_last": _I, "kv_first": _I, "kv_last": _I}

VARIABLES = MOD_VARIABLES | TILE_VARIABLES
