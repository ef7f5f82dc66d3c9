"""What the text of a kernel calls, on plain integers and arrays of NumPy: parts of it run there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from flexdsl.codegen.module import HELPERS_OF_MODULES


def _plain(x: Any) -> Any:
    """A number as Python's own, an array as it is."""
    return x.item() if x.ndim == 0 else x


class Functions:
    """Functions of the languages of kernels on integers."""

    where = staticmethod(lambda condition, a, b: _plain(np.where(condition, a, b)))
    minimum = staticmethod(lambda a, b: _plain(np.minimum(a, b)))
    maximum = staticmethod(lambda a, b: _plain(np.maximum(a, b)))
    min = staticmethod(lambda x: int(np.min(x)))
    max = staticmethod(lambda x: int(np.max(x)))
    sum = staticmethod(lambda x, axis: int(np.sum(x)))
    cdiv = staticmethod(lambda a, b: -(-a // b))
    arange = staticmethod(lambda first, last, layout=None: np.arange(first, last))
    BlockedLayout = staticmethod(lambda *_: None)
    range = range


def with_helpers(names: Iterable[str], language: str, functions: Any) -> dict[str, Any]:
    """What the text of a kernel knows: the language, and helpers that it is written with."""
    known = {language: functions, "tl": functions}
    for name in names:
        text = HELPERS_OF_MODULES[name].replace("@triton.jit\n", "")
        exec(text.replace(".to(tl.int32)", ""), known)
    return known
