"""Programs made of programs: renaming what clashes, substitution, and, or, not.

Nothing is traced or parsed here; the programs exist already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flexdsl.ir.construct import apply, load, param
from flexdsl.ir.expr import Capture, Expr, captures_of, params_of, walk
from flexdsl.ir.ops import LEAVES, Op
from flexdsl.ir.program import Program


def rebuild(
    expr: Expr, replacements: Mapping[Expr, Expr], names: Mapping[str, str]
) -> dict[Expr, Expr]:
    """Each node below `expr` -> the same with nodes replaced, parameters and captures renamed."""
    done: dict[Expr, Expr] = {}
    for node in walk(expr):
        args = tuple(done[a] for a in node.args)
        if node in replacements:
            done[node] = replacements[node]
        elif node.op is Op.PARAM:
            name = str(node.attribute)
            done[node] = param(names.get(name, name), node.type)
        elif isinstance(node.attribute, Capture):
            capture = node.attribute
            done[node] = load(replace(capture, name=names.get(capture.name, capture.name)), *args)
        elif node.op in LEAVES or args == node.args:
            done[node] = node
        else:
            done[node] = apply(node.op, *args)
    return done


def rename_apart(program: Program, taken: Mapping[str, Any]) -> Program:
    """`program` with no name that means something else in `taken` (name -> value).

    The same tensor under the same name stays shared. A number never is: two windows that are equal
    now need not be at the next call.
    """
    names: dict[str, str] = {}
    for name, is_capture in used_names(program.expr).items():
        fresh, number = name, 1
        while fresh in taken and not (is_capture and taken[fresh] is program.values.get(name)):
            number += 1
            fresh = f"{name}_{number}"
        names[name] = fresh
    if all(old == new for old, new in names.items()):
        return program
    new = rebuild(program.expr, {}, names)
    values = {names.get(n, n): v for n, v in program.values.items()}
    spans = {new[n]: s for n, s in program.spans.items() if n in new}
    return replace(program, expr=new[program.expr], values=values, spans=spans)


def used_names(expr: Expr) -> dict[str, bool]:
    """Names of the parameters (False) and captures (True) in `expr`, in order of first use."""
    params = {str(p.attribute): False for p in params_of(expr)}
    return params | {c.name: True for c in captures_of(expr)}


def combine(op: Op, programs: tuple[Program, ...], name: str) -> Program:
    """The mask `op` (AND, OR; NOT of one) of masks. A program given twice keeps its parameters."""
    first, *rest = programs
    known, expr, values, spans = {id(first): first}, first.expr, dict(first.values), first.spans
    for program in rest:
        apart = known.get(id(program)) or rename_apart(program, values)
        known[id(program)] = apart
        expr = apply(op, expr, apart.expr)
        values, spans = {**values, **apart.values}, {**apart.spans, **spans}
    if op is Op.NOT:
        expr = apply(Op.NOT, expr)
    used = used_names(expr)
    return Program(
        first.kind,
        name,
        expr,
        {n: v for n, v in values.items() if n in used},
        spans,
        "; ".join(dict.fromkeys(p.source for p in programs if p.source)),
        any(p.tensor_style for p in programs),
    )
