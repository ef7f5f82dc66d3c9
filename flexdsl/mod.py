"""What users hold: a `Mod`, made from a function or from text, callable, and composable.

A Mod joins the rooms: the front end makes its program, code generation prints its kernels. It does
no analysis and runs nothing itself.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import lru_cache, reduce
from itertools import count
from typing import Any
from weakref import WeakSet, WeakValueDictionary

from flexdsl.errors import KindError
from flexdsl.frontend import Traced, inline, parse_program
from flexdsl.frontend.symbolic import Symbolic
from flexdsl.frontend.trace import ARGUMENTS, check_signature, function_name
from flexdsl.ir import Expr, Kind, Op, Program, combine, rename_apart

# What makes the program of each living mod, by number; and mods that were made before torch was
# imported, which have no handle yet.
LIVE: WeakValueDictionary[int, Callable[[], Program]] = WeakValueDictionary()
EARLY: WeakSet[Mod] = WeakSet()
_NUMBERS = count()


class Mod:
    """A mask or a score modification.

    Calling it with numbers calls the user's function; `&`, `|`, `~` combine masks.

    Attributes:
        kind: `Kind.MASK` or `Kind.SCORE`.
        name: an identifier.
    """

    def __init__(
        self,
        kind: Kind,
        name: str,
        make: Callable[[], Program],
        call: Callable[..., Any],
        parts: tuple[Op, tuple[Mod, ...]] | None = None,
    ) -> None:
        self.kind, self.name, self._make, self._call, self._parts = kind, name, make, call, parts
        self.handle: Any = None
        if "torch" in sys.modules:
            self.open()
        else:
            EARLY.add(self)

    def open(self) -> None:
        """Make `handle`, a tensor on the CPU with the number under which `LIVE` has the mod.

        A compiled graph takes it as an input, and can ask for the mod's values as it runs.

        Raises:
            KindError: the mod is made inside a function that torch.compile compiles.
        """
        _check_outside_graphs(self.name)
        number = next(_NUMBERS)
        LIVE[number] = self._make
        self.handle = sys.modules["torch"].tensor(number, device="cpu")

    @property
    def program(self) -> Program:
        """The program with the values captured *now*.

        It is the same object while everything that the function reads stays as it was, and traced
        anew otherwise (`frontend/watch.py`), so that a changed global or attribute is never missed.
        """
        return self._make()

    @property
    def expr(self) -> Expr:
        """What the mod computes."""
        return self.program.expr

    @property
    def text(self) -> str:
        """The text form; `parse` reads it back."""
        return self.program.text

    @property
    def digest(self) -> str:
        """Equal for mods that one kernel serves."""
        return self.program.digest

    def source(
        self,
        phase: str = "forward",
        *,
        target: str = "triton",
        head_dim: int = 128,
        value_dim: int | None = None,
    ) -> str:
        """The text of a kernel for this mod alone, whatever the lengths.

        Args:
            phase: "forward"; "backward_query" (dQ) or "backward_key" (dK and dV) in portable
                Triton, "backward" (all three) for Hopper.
            target: "triton" for the portable kernel, "hopper" for that of NVIDIA's compute
                capability 9.0, in Gluon.
            head_dim: D, elements of a query and a key.
            value_dim: Dv, elements of a value; D where None.

        Raises:
            ArgumentError: no such phase or target, or the target has no kernel of this phase or of
                these head dimensions.
        """
        from flexdsl.codegen import generate_unbound, parse_kernel_target, parse_phase

        program = self.program
        mask, score = (program, None) if self.kind is Kind.MASK else (None, program)
        dims = head_dim, head_dim if value_dim is None else value_dim
        language = parse_kernel_target(target)
        return generate_unbound(mask, score, *dims, parse_phase(phase), language).source

    def explain(self) -> str:
        """What the compiler makes of this mod: its text, its loops or its gradients, and why."""
        from flexdsl.analysis import explain_program

        return explain_program(self.program)

    def in_order(self, order: Any) -> Mod:
        """This mod for queries and keys that `order.apply` has permuted.

        Args:
            order: a `flexdsl.stdlib.TileOrder`, or what has its `reorder(mod)`.
        """
        return as_mod(order.reorder(self), self.kind)

    def __call__(self, *args: Any) -> Any:
        """The mask's bool or the modified score for one pair, as the user's function gives it.

        Args:
            args: `(b, h, q, kv)` of a mask, `(score, b, h, q, kv)` of a score modification.
        """
        if any(isinstance(a, Symbolic) for a in args):
            arguments = dict(zip(ARGUMENTS[self.kind], args, strict=True))
            return inline(self.program, arguments, self)
        return self._call(*args)

    def __and__(self, other: Any) -> Mod:
        return _combined(Op.AND, self, as_mod(other, Kind.MASK))

    def __or__(self, other: Any) -> Mod:
        return _combined(Op.OR, self, as_mod(other, Kind.MASK))

    def __rand__(self, other: Any) -> Mod:
        return as_mod(other, Kind.MASK) & self

    def __ror__(self, other: Any) -> Mod:
        return as_mod(other, Kind.MASK) | self

    def __invert__(self) -> Mod:
        return _combined(Op.NOT, self)

    def __bool__(self) -> bool:
        raise KindError(
            "a mod has no truth value",
            why="Python's `and`, `or` and `not` cannot combine mods",
            fix="mod & other, mod | other, ~mod",
        )

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"<{self.kind.value} mod {self.name}>"


def _check_outside_graphs(name: str) -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.compiler.is_dynamo_compiling():
        refuse_inside_a_graph(name)


def refuse_inside_a_graph(name: str) -> None:
    """Raise `KindError`: a mod is made inside a function that torch.compile compiles."""
    raise KindError(
        f"the mod {name} is made inside a compiled function",
        why="a graph has mods as inputs, so that their values may change",
        fix="the mod made outside, and used there or passed as an argument",
    )


def from_function(function: Callable[..., Any], kind: Kind, name: str | None = None) -> Mod:
    """The mod of a function.

    Raises:
        KindError: the function does not take the arguments of its kind.
    """
    _check_outside_graphs(name or kind.value)
    check_signature(function, kind)
    name = name or function_name(function)
    traced = Traced(function, kind, name)
    uses_tensors: list[bool] = []

    def call(*args: Any) -> Any:
        if not uses_tensors:
            uses_tensors.append(traced().tensor_style)
        if not uses_tensors[0]:
            return function(*args)
        torch = sys.modules["torch"]
        floats = {float: torch.float64, int: torch.int64}
        return function(*(torch.tensor(a, dtype=floats.get(type(a))) for a in args)).item()

    # A function of its own: torch.compile knows functions by their code, other objects by identity.
    return Mod(kind, name, lambda: traced(), call)


def mask_mod(function: Callable[..., Any]) -> Mod:
    """Decorator: a function `(b, h, q, kv) -> bool` that says which pairs are allowed.

    b, h: batch and query head, from 0. q, kv: positions of the query and the key, from 0; the
    query's includes `q_offset`. Python's `and`, `or`, `not`, `if` and chained comparisons work.

    Raises:
        KindError: the function does not take these four arguments.
    """
    return from_function(function, Kind.MASK)


def score_mod(function: Callable[..., Any]) -> Mod:
    """Decorator: a function `(score, b, h, q, kv) -> float` that modifies the scaled score.

    score: `scale * dot(query, key)`, before the mask and the softmax. The rest as in `mask_mod`.

    Raises:
        KindError: the function does not take these five arguments.
    """
    return from_function(function, Kind.SCORE)


def parse(text: str) -> Mod:
    """The mod of a text such as `mask window(w: int = 8) = q - kv < w`, or of a bare expression.

    Raises:
        TextError: the text does not parse; the message has line, column and a caret.
        TypeMismatchError, ResultError: it parses, but means nothing.
    """
    program = parse_program(text)
    return from_program(program)


# Text that is given with each call is one mod, of which things are remembered between calls.
_parsed = lru_cache(maxsize=256)(parse)


def from_program(program: Program) -> Mod:
    """The mod of a program that no Python function stands behind."""

    def call(*args: Any) -> Any:
        from flexdsl.ir import evaluate

        variables = dict(zip(ARGUMENTS[program.kind], args, strict=True))
        return evaluate(program.expr, variables, program.values).item()

    return Mod(program.kind, program.name, lambda: program, call)


def as_mod(value: Any, kind: Kind) -> Mod:
    """`value` as a mod: it may be a Mod, a plain function, or text.

    Raises:
        KindError: it is none of these, or a mod of the other kind.
    """
    if isinstance(value, str):
        value = _parsed(value)
    if isinstance(value, Mod):
        if value.kind is not kind:
            raise KindError(
                f"{value!r} stands where a {kind.value} mod is needed",
                fix="mask=... for a mask, score=... for a score modification; & | ~ take masks",
            )
        return value
    if callable(value):
        return from_function(value, kind)
    raise KindError(
        f"a {kind.value} mod is a function, a Mod or text, not {type(value).__name__}",
        fix=f"@fx.{kind.value}_mod on a function of ({', '.join(ARGUMENTS[kind])})",
    )


def _combined(op: Op, *mods: Mod) -> Mod:
    for mod in mods:
        as_mod(mod, Kind.MASK)
    name = f"_{op.value}_".join(m.name for m in mods) if len(mods) > 1 else f"not_{mods[0].name}"

    def call(*args: Any) -> bool:
        match op:
            case Op.AND:
                return all(m(*args) for m in mods)
            case Op.OR:
                return any(m(*args) for m in mods)
        return not mods[0](*args)

    combination = Combination(op, mods, name)
    return Mod(Kind.MASK, name, lambda: combination(), call, (op, mods))


class Combination:
    """The program of a combination: made anew where that of a mod in it is another by now.

    Args:
        op: AND, OR, or NOT of one.
        mods: what it combines; these may be combinations again.
    """

    def __init__(self, op: Op, mods: tuple[Mod, ...], name: str) -> None:
        self.mods, self._op, self._name = mods, op, name
        self._makes = [m._make for m in _leaves(mods)]
        self._known: tuple[list[Program], Program] | None = None

    def __call__(self) -> Program:
        """The program: the same object while those of all mods in it are the same."""
        programs = [make() for make in self._makes]
        known = self._known
        # Programs are equal where they are the same object.
        if known is None or known[0] != programs:
            apart: dict[int, Program] = {}
            parts = tuple(_program(m, apart) for m in self.mods)
            self._known = known = programs, combine(self._op, parts, self._name)
        return known[1]


def _leaves(mods: tuple[Mod, ...]) -> Iterator[Mod]:
    for mod in mods:
        if mod._parts is None:
            yield mod
        else:
            yield from _leaves(mod._parts[1])


def _program(mod: Mod, known: dict[int, Program]) -> Program:
    """The program of a part of a combination.

    `known` has those of the parts before it, by identity: a mod that stands twice has its
    parameters once, and different mods get different names.
    """
    if mod._parts is not None:
        op, mods = mod._parts
        return combine(op, tuple(_program(m, known) for m in mods), mod.name)
    if id(mod) not in known:
        taken = {n: v for p in known.values() for n, v in p.values.items()}
        known[id(mod)] = rename_apart(mod.program, taken)
    return known[id(mod)]


def and_masks(*masks: Any) -> Mod:
    """The mask that allows a pair where all of `masks` do."""
    return reduce(lambda a, b: a & b, (as_mod(m, Kind.MASK) for m in masks))


def or_masks(*masks: Any) -> Mod:
    """The mask that allows a pair where any of `masks` does."""
    return reduce(lambda a, b: a | b, (as_mod(m, Kind.MASK) for m in masks))


def not_mask(mask: Any) -> Mod:
    """The mask that allows a pair where `mask` does not."""
    return ~as_mod(mask, Kind.MASK)
