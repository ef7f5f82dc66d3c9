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
    used = used_names(program.expr)
    names: dict[str, str] = {}
    for name, is_capture in used.items():
        fresh, number = name, 1
        shared = is_capture and name in taken and taken[name] is program.values.get(name)
        while not shared and (fresh in taken or (number > 1 and fresh in used)):
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
    """The mask `op` (AND, OR; NOT of one) of masks whose names were made to differ before."""
    expr = apply(op, *(p.expr for p in programs))
    values = {n: v for p in programs for n, v in p.values.items()}
    return Program(
        programs[0].kind,
        name,
        expr,
        {n: values[n] for n in used_names(expr) if n in values},
        {node: span for p in programs for node, span in p.spans.items()},
        "; ".join(dict.fromkeys(p.source for p in programs if p.source)),
        any(p.tensor_style for p in programs),
    )
