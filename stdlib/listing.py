"""The catalog of the library, read from the files themselves: no second list to keep.

A file's docstring says what it is, then an indented formula, then `Source:`; a test holds them to
it.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from . import HOMES

_KINDS = {"masks": "mask", "scores": "score", "tables": "table", "orders": "order"}
_KINDS |= {"layers": "layer"}


@dataclass(frozen=True)
class Entry:
    """One variant.

    Attributes:
        name: its name in `flexdsl.stdlib`.
        kind: "mask", "score", "table", "order" or "layer".
        signature: its arguments, as Python shows them.
        summary: what it is, in one line.
        formula: the formula, on one line.
        source: the paper or the code that it is from.
        claim: what its paper claims, which nobody measured here; "" where it claims no figure.
    """

    name: str
    kind: str
    signature: str
    summary: str
    formula: str
    source: str
    claim: str


def catalog() -> list[Entry]:
    """All variants of the library, by kind and name. The layers among them import torch."""
    return [_entry(name, home) for name, home in HOMES.items() if "." in home]


def table_of(entries: list[Entry]) -> str:
    """Three lines a variant: kind, name and arguments; formula; source."""
    return "\n".join(
        f"{e.kind:<6} {e.name}{e.signature}\n       {e.formula}\n       {e.source}" for e in entries
    )


def _entry(name: str, home: str) -> Entry:
    module = import_module(f".{home}", __package__)
    text = inspect.getdoc(module) or ""
    blocks = text.split("\n\n")
    formula = "  ".join(line.strip() for line in blocks[1].splitlines()) if blocks[1:] else ""
    parts = [" ".join(block.split()) for block in blocks]
    return Entry(
        name,
        _KINDS[home.split(".")[0]],
        _signature(getattr(module, name)),
        parts[0],
        formula,
        _reference(_after(parts, r"Source: ")),
        _after(parts, r"Claim \([^)]*\): "),
    )


def _reference(text: str) -> str:
    """The beginning of a source, to the end of its first address."""
    found = re.match(r".*?https://[^\s,;]*[^\s,;.]", text)
    return found[0] if found else text


def _signature(value: Any) -> str:
    """The arguments with their defaults, without types: those are in the docstring."""
    signature = inspect.signature(value)
    parameters = [
        p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()
    ]
    return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


def _after(parts: list[str], heading: str) -> str:
    return next((p[m.end() :] for p in parts if (m := re.match(heading, p))), "")
