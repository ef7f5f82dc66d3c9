"""A named pair of a mask and a score modification: what is built into a bundle under that name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from flexdsl.errors import ArgumentError
from flexdsl.ir import Kind
from flexdsl.mod import Mod, as_mod


@dataclass(frozen=True, eq=False)
class Variant:
    """A mask and a score modification.

    Attributes:
        name: an identifier.
        mask, score: mods, or None.
    """

    name: str
    mask: Mod | None
    score: Mod | None


def variant(name: str, *, mask: Any = None, score: Any = None) -> Variant:
    """A named pair of a mask and a score modification.

    Args:
        name: an identifier of letters, digits and underscores, as C takes them.
        mask, score: mods, functions or text; None for none.

    Raises:
        ArgumentError: the name is no identifier.
        KindError: a mask stands where a score modification is needed, or the other way round.
    """
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) is None:
        raise ArgumentError(
            f"{name!r} is no name of a variant",
            why="functions in C are named after it",
            fix=re.sub(r"\W", "_", name) or "a name such as sliding_window",
        )
    masks = None if mask is None else as_mod(mask, Kind.MASK)
    return Variant(name, masks, None if score is None else as_mod(score, Kind.SCORE))


def as_variant(value: Any) -> Variant:
    """`value` as a variant: it may be one, a mod, or the text of a mod.

    Raises:
        ArgumentError: it is none of these.
    """
    if isinstance(value, Variant):
        return value
    if isinstance(value, str):
        from flexdsl.mod import parse

        value = parse(value)
    if not isinstance(value, Mod):
        raise ArgumentError(
            f"a {type(value).__name__} is no variant",
            fix="a mod, its text, or fx.variant(name, mask=..., score=...)",
        )
    return variant(value.name, **{value.kind.value: value})
