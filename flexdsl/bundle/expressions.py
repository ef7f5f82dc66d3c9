"""Expressions and programs as JSON, and back to the same interned nodes.

The text form would need a parser to be read. Values are no part of it, except numbers of
parameters, which are defaults.
"""

from __future__ import annotations

from typing import Any

from flexdsl.errors import BundleError
from flexdsl.ir import (
    Capture,
    DType,
    Expr,
    Kind,
    Op,
    Program,
    Type,
    apply,
    captures_of,
    const,
    param,
    params_of,
    var,
    walk,
)
from flexdsl.ir import load as load_of

Json = Any


def nodes_of(expr: Expr) -> list[Json]:
    """A list of nodes, operands before those that use them: [op, places of operands, attribute]."""
    place: dict[Expr, int] = {}
    nodes: list[Json] = []
    for node in walk(expr):
        place[node] = len(nodes)
        nodes.append([node.op.value, [place[a] for a in node.args], _attribute(node)])
    return nodes


def expression_of(nodes: list[Json]) -> Expr:
    """The expression of a list of nodes."""
    made: list[Expr] = []
    for name, places, attribute in nodes:
        made.append(_node(Op(name), [made[i] for i in places], attribute))
    return made[-1]


def program_to_json(program: Program) -> Json:
    """A program with its numbers; of captured tensors only name, element type and rank."""
    names = [str(p.attribute) for p in params_of(program.expr)]
    return {
        "name": program.name,
        "kind": program.kind.value,
        "digest": program.digest,
        "nodes": nodes_of(program.expr),
        "parameters": {n: _number(program.values[n]) for n in names},
        "captures": [
            {"name": c.name, "dtype": c.dtype.value, "rank": c.rank}
            for c in captures_of(program.expr)
        ],
    }


def program_of_json(data: Json) -> Program:
    """The program; its captured tensors have no values.

    Raises:
        BundleError: it is not what its digest says, since another flexdsl wrote it.
    """
    values = {name: _value(number) for name, number in data["parameters"].items()}
    program = Program(Kind(data["kind"]), data["name"], expression_of(data["nodes"]), values)
    if program.digest != data["digest"]:
        raise BundleError(
            f"the expression of {data['name']} does not have the digest that the manifest says",
            why="the bundle was altered, or built by a flexdsl that simplifies differently",
            fix="build it again with this flexdsl",
        )
    return program


def _attribute(node: Expr) -> Json:
    match node.op:
        case Op.CONST:
            return _number(node.attribute)
        case Op.PARAM:
            return {"name": node.attribute, "type": node.type.value}
        case Op.LOAD:
            assert isinstance(node.attribute, Capture)
            capture = node.attribute
            return {"name": capture.name, "dtype": capture.dtype.value, "rank": capture.rank}
    return node.attribute


def _node(op: Op, args: list[Expr], attribute: Json) -> Expr:
    match op:
        case Op.CONST:
            return const(_value(attribute))
        case Op.VAR:
            return var(attribute)
        case Op.PARAM:
            return param(attribute["name"], Type(attribute["type"]))
        case Op.LOAD:
            dtype = DType(attribute["dtype"])
            return load_of(Capture(attribute["name"], dtype, attribute["rank"]), *args)
    return apply(op, *args)


def _number(value: Any) -> Json:
    """A number as JSON; a float by its bits, so that infinity and the last digit survive."""
    return {"float": float(value).hex()} if isinstance(value, float) else value


def _value(number: Json) -> bool | int | float:
    return float.fromhex(number["float"]) if isinstance(number, dict) else number
