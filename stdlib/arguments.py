"""Checks of the numbers and arrays that the variants take. What they mean is in each variant."""

from __future__ import annotations

from operator import index
from typing import Any

import flexdsl as fx


def integer_at_least(least: int, name: str, value: Any) -> int:
    """`value` as a plain int.

    Raises:
        ArgumentError: it is not an integer, or less than `least`.
    """
    number = None if isinstance(value, bool) or not hasattr(value, "__index__") else index(value)
    if number is None or number < least:
        raise fx.errors.ArgumentError(
            f"{name} is {value!r}, but it must be an integer of at least {least}",
            fix=f"{name}={max(least, 1)}",
        )
    return number


def array_of(name: str, value: Any, ranks: tuple[int, ...], kind: str) -> Any:
    """`value` unchanged where it is a numpy array or torch tensor, else as a numpy array.

    Args:
        ranks: the numbers of dimensions that it may have.
        kind: "int" or "float", which its element type's name must contain.

    Raises:
        ArgumentError: it has other elements or another rank, or is empty.
    """
    array = value
    if not hasattr(value, "dtype"):
        import numpy as np

        try:
            array = np.asarray(value, None if kind == "int" else np.float32)
        except (TypeError, ValueError):
            raise _no_array(name, f"a {type(value).__name__}", ranks, kind) from None
    if kind not in str(array.dtype) or len(array.shape) not in ranks or 0 in array.shape:
        given = f"{str(array.dtype).removeprefix('torch.')} of shape {tuple(array.shape)}"
        raise _no_array(name, given, ranks, kind)
    return array


def _no_array(name: str, given: str, ranks: tuple[int, ...], kind: str) -> Exception:
    dimensions = " or ".join(str(r) for r in ranks)
    return fx.errors.ArgumentError(
        f"{name} is {given}, but it must be a {dimensions}-dimensional array of {kind}s, not empty"
    )
