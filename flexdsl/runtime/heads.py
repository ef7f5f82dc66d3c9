"""A warning where captured tensors have entries of more heads than a call.

With fewer, an index leaves them, which is an error (`analysis/bounds.py`). With more, heads have
entries that were made for others: slopes of 8 heads are not those of 4. It may be meant, of the
first heads of a model, so that it is no error.
"""

from __future__ import annotations

import warnings

from flexdsl.errors import HeadsWarning
from flexdsl.ir import Capture, Op, Program, var, walk


def warn_of_heads(program: Program, heads: int) -> None:
    """Warn where h alone indexes a dimension of more than `heads` entries.

    Args:
        program: its captured tensors are there.
        heads: query heads of the call.
    """
    loads = (n for n in walk(program.expr) if n.op is Op.LOAD)
    found = ((n.attribute, d) for n in loads for d, i in enumerate(n.args) if i is var("h"))
    for capture, dimension in dict.fromkeys(found):
        assert isinstance(capture, Capture)
        length = program.values[capture.name].shape[dimension]
        if length > heads:
            text = (
                f"{capture.name}, which {program.name} captures, has {length} entries along"
                f" dimension {dimension}, where h is the index, and the call has {heads} query"
                f" heads: they take the first {heads}. Capture a part of it if that is meant"
            )
            warnings.warn(text, HeadsWarning, stacklevel=2)
