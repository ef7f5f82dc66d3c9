"""The digest of an expression: equal exactly for equal nodes, the same in every process.

Contents and lengths of captures and values of parameters are not in it, so that one kernel serves
them all; names are, since the kernel's text shows them.
"""

from __future__ import annotations

import hashlib

from flexdsl.ir.expr import Capture, Expr, walk


def digest(expr: Expr) -> str:
    """32 hexadecimal digits."""
    number: dict[Expr, int] = {}
    hasher = hashlib.sha256()
    for node in walk(expr):
        label = node.attribute
        if isinstance(label, Capture):
            label = f"{label.name}:{label.dtype.value}:{label.rank}"
        elif isinstance(label, float):
            label = label.hex()
        operands = ",".join(str(number[a]) for a in node.args)
        number[node] = len(number)
        hasher.update(f"{node.op.value}({operands}){node.type.value} {label}\n".encode())
    return hasher.hexdigest()[:32]
