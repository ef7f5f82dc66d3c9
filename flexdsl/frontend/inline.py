"""A finished program called inside a trace: `other_mask(b, h, q, kv)` in the body of a mod."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flexdsl.frontend import tracer
from flexdsl.frontend.symbolic import Symbolic, lift
from flexdsl.ir import Program, rebuild, used_names, var


def inline(program: Program, arguments: Mapping[str, Any], owner: object) -> Symbolic:
    """`program` with symbolic or plain `arguments` for its variables, as a value of the trace.

    Its parameters and captures become the trace's own, renamed where a name is taken.

    Args:
        owner: what the program belongs to, as its `program`; calls with the same owner share their
            parameters.
    """
    trace = tracer.current()
    trace.watch.program(owner, program)
    names: dict[str, str] = {}
    for name, is_capture in used_names(program.expr).items():
        value = program.values[name]
        names[name] = (
            trace.name_for(name, value) if is_capture else trace.name_for(name, owner, name)
        )
        trace.values[names[name]] = value
    variables = {var(name): lift(value) for name, value in arguments.items()}
    trace.tensor_style |= program.tensor_style
    new = rebuild(program.expr, variables, names)
    for node, span in program.spans.items():
        if node in new:
            trace.spans.setdefault(new[node], span)
    return Symbolic(new[program.expr])
