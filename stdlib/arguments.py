"""Checks of the numbers and arrays that the variants take. What they mean is in each variant."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import index
from typing import Any

import flexdsl as fx


def refuse(what: str, fix: str = "") -> Exception:
    """The error of an argument that breaks the rule said in `what`."""
    return fx.errors.ArgumentError(what, fix=fix)


def integer_at_least(least: int, name: str, value: Any) -> int:
    """`value` as a plain int.

    Raises:
        ArgumentError: it is not an integer, or less than `least`.
    """
    try:
        number = None if isinstance(value, bool) else index(value)
    except TypeError:  # as of an array of many numbers, which has __index__ too
        number = None
    if number is None or number < least:
        raise refuse(
            f"{name} is {value!r}, but it must be an integer of at least {least}",
            f"{name}={max(least, 1)}",
        )
    return number


def integers_at_least(least: int, name: str, value: Any, count: int | None = None) -> list[int]:
    """A sequence of integers, or one integer for all, as a list of plain ints.

    Args:
        count: how many there must be; None for any number from 1, and then only a sequence.

    Raises:
        ArgumentError: another number of them, or one is not an integer of at least `least`.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if count is not None and not isinstance(value, Sequence):
        return [integer_at_least(least, name, value)] * count
    if (
        not isinstance(value, Sequence)
        or isinstance(value, str)
        or len(value) != (count or len(value))
    ):
        many = f"{count} integers" if count else "a sequence of integers"
        raise refuse(f"{name} is {value!r}, but it must be {many}")
    if not value:
        raise refuse(f"{name} is empty, but it must have at least one integer")
    return [integer_at_least(least, f"{name}[{i}]", v) for i, v in enumerate(value)]


def positive_number(name: str, value: Any, example: str = "1.0") -> float:
    """`value` as a float.

    Raises:
        ArgumentError: it is not a positive finite number.
    """
    number = not isinstance(value, bool) and isinstance(value, int | float)
    if not number or not 0 < value < math.inf:
        raise refuse(
            f"{name} is {value!r}, but it must be a positive finite number", f"{name}={example}"
        )
    return float(value)


def one_of(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """`value`, which is one of `choices`.

    Raises:
        ArgumentError: it is none of them.
    """
    if value not in choices:
        known = " or ".join(f'{name}="{choice}"' for choice in choices)
        raise refuse(f"there is no {name} {value!r}", known)
    return str(value)


def check_divides(divisor_name: str, divisor: int, name: str, value: int) -> None:
    """Raise `ArgumentError` unless `divisor` divides `value`."""
    if value % divisor:
        raise refuse(
            f"{divisor_name} is {divisor}, which does not divide {name}, {value}",
            f"{name} padded to {-(-value // divisor) * divisor}",
        )


def array_of(name: str, value: Any, ranks: tuple[int, ...], kind: str) -> Any:
    """`value` unchanged where it is a numpy array or torch tensor, else as a numpy array.

    Args:
        ranks: the numbers of dimensions that it may have.
        kind: "int", "float" or "bool", which its element type's name must contain.

    Raises:
        ArgumentError: it has other elements or another rank, or is empty.
    """
    array = value
    if not hasattr(value, "dtype"):
        import numpy as np

        try:
            array = np.asarray(value, np.float32 if kind == "float" else None)
            # Positions, and what is compared with them, are 32-bit integers in kernels.
            array = array.astype(np.int32) if array.dtype.kind == "i" else array
        except (TypeError, ValueError):
            raise _no_array(name, f"a {type(value).__name__}", ranks, kind) from None
    if kind not in str(array.dtype) or len(array.shape) not in ranks or 0 in array.shape:
        given = f"{str(array.dtype).removeprefix('torch.')} of shape {tuple(array.shape)}"
        raise _no_array(name, given, ranks, kind)
    return array


def check_shape(name: str, array: Any, shape: tuple[int | None, ...], meaning: str) -> Any:
    """`array`, whose shape is `shape`; None stands for any length.

    Raises:
        ArgumentError: another shape; the message says what the dimensions mean.
    """
    found = tuple(array.shape)
    if len(found) != len(shape) or any(
        n is not None and n != m for n, m in zip(shape, found, strict=True)
    ):
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise refuse(f"{name} has shape {found}, but it must be [{wanted}]: {meaning}")
    return array


def host_array(array: Any) -> Any:
    """A numpy array or torch tensor as a numpy array on the host."""
    import numpy as np

    return array.detach().cpu().numpy() if hasattr(array, "detach") else np.asarray(array)


def _no_array(name: str, given: str, ranks: tuple[int, ...], kind: str) -> Exception:
    dimensions = " or ".join(str(r) for r in ranks)
    return refuse(
        f"{name} is {given}, but it must be a {dimensions}-dimensional array of {kind}s, not empty"
    )
