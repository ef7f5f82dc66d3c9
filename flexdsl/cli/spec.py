"""SPEC, as the commands take it: `FILE.py:NAME`, or a mod as inline text."""

from __future__ import annotations

import difflib
import inspect
import re
import runpy
import sys
from pathlib import Path
from typing import Any

from flexdsl.errors import ArgumentError, KindError
from flexdsl.ir import Kind
from flexdsl.mod import Mod, as_mod, parse
from flexdsl.variants import Variant, as_variant, variant

HELP = """
    SPEC is FILE.py:NAME for a mod, a function (b, h, q, kv) or (score, b, h, q, kv), or a text in a
    Python file, or the text itself, such as "q >= kv and q - kv < 1024".
"""


def read_spec(spec: str) -> Mod:
    """The mod that `spec` names.

    Raises:
        ArgumentError: there is no such file, or no such name in it.
        FlexdslError: the text, or what the name stands for, is no mod.
    """
    place = _place(spec)
    return parse(spec) if place is None else _mod(place[1], _value_in_file(*place))


def read_variant(spec: str) -> Variant:
    """The variant that `spec` names; a mod is one, of the name that it has in the file.

    Raises:
        ArgumentError: there is no such file, or no such name in it.
        FlexdslError: the text, or what the name stands for, is no mod and no variant.
    """
    place = _place(spec)
    if place is None:
        return as_variant(spec)
    value = _value_in_file(*place)
    if isinstance(value, Variant):
        return value
    mod = _mod(place[1], value)
    return variant(place[1], **{mod.kind.value: mod})


def _place(spec: str) -> tuple[Path, str] | None:
    found = re.fullmatch(r"(.+\.py):(\w+)", spec)
    return None if found is None else (Path(found[1]), found[2])


def _mod(name: str, value: Any) -> Mod:
    if isinstance(value, Mod):
        return value
    if isinstance(value, str):
        return parse(value)
    if not callable(value):
        raise KindError(
            f"{name} is a {type(value).__name__}, not a mod",
            fix="a function under @fx.mask_mod or @fx.score_mod",
        )
    takes_score = len(inspect.signature(value).parameters) == 5
    return as_mod(value, Kind.SCORE if takes_score else Kind.MASK)


def _value_in_file(path: Path, name: str) -> Any:
    names = names_in_file(path)
    if name in names:
        return names[name]
    public = [n for n in names if not n.startswith("_")]
    near = difflib.get_close_matches(name, public, 1)
    raise ArgumentError(
        f"nothing in {path} is named '{name}'",
        why=f"it has {', '.join(public)}" if public else "it has no public names",
        fix=f"{path}:{near[0]}" if near else "",
    )


def names_in_file(path: Path) -> dict[str, Any]:
    """The names of a Python file after it was run, and what they stand for.

    Raises:
        ArgumentError: there is no such file.
    """
    if not path.is_file():
        raise ArgumentError(f"there is no file {path}", fix="FILE.py:NAME, or the mod as text")
    # As under `python FILE.py`, the file may import its neighbours.
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        return runpy.run_path(str(path), run_name=path.stem)
    finally:
        sys.path.pop(0)
