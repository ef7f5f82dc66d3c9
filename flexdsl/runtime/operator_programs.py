"""Programs as the operator takes them: a text without values, and the values beside it.

The text names the program in graphs, and is enough to build it again in a process that never saw
the user's function. The values are captured tensors in order of first use, and one int64 tensor of
numbers. This file traces nothing and runs nothing.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from flexdsl.frontend import parse_program
from flexdsl.ir import Expr, Kind, Program, Type, captures_of, params_of

# Programs by their text, with the spans that errors point at. What is dropped is parsed again.
_KNOWN: OrderedDict[str, Program] = OrderedDict()
_KEPT = 256


def text_of(program: Program | None) -> str:
    """The text form with zeros for numbers and no lengths of tensors; "" for None.

    The program is remembered, so that errors in the operator point into the user's source.
    """
    if program is None:
        return ""
    text = _text(program.kind, program.name, program.expr)
    known = _KNOWN.get(text)
    if known is None or known.source != program.source:
        _remember(text, replace(program, values={}))
    return text


def program_of(text: str) -> Program | None:
    """The program of a text, without values; None for ""."""
    if not text:
        return None
    known = _KNOWN.get(text)
    if known is None:
        known = replace(parse_program(text), values={})
        _remember(text, known)
    return known


def with_values(
    mask: Program | None, score: Program | None, captures: Sequence[Tensor], numbers: Tensor
) -> tuple[Program | None, Program | None]:
    """Both with their captured tensors and numbers; those of the mask come first."""
    tensors, words = iter(captures), iter(numbers.tolist())
    return _valued(mask, tensors, words), _valued(score, tensors, words)


def numbers_of(programs: Iterable[Program | None]) -> Tensor:
    """The values of all parameters, on the CPU: an int64 as it is, a float64 by its bits."""
    words = [
        _word(p.values[str(param.attribute)], param.type)
        for p in programs
        if p is not None
        for param in params_of(p.expr)
    ]
    return torch.tensor(words, dtype=torch.int64, device="cpu")


def capture_count(text: str) -> int:
    """How many captured tensors the program of `text` takes."""
    program = program_of(text)
    return 0 if program is None else len(captures_of(program.expr))


def _valued(
    program: Program | None, tensors: Iterator[Tensor], words: Iterator[int]
) -> Program | None:
    if program is None:
        return None
    values: dict[str, Any] = {}
    for param in params_of(program.expr):
        values[str(param.attribute)] = _number(next(words), param.type)
    for capture in captures_of(program.expr):
        values[capture.name] = next(tensors)
    return replace(program, values=values)


def _word(value: float, type: Type) -> int:
    if type is Type.INDEX:
        return int(value)
    return int(struct.unpack("<q", struct.pack("<d", value))[0])


def _number(word: int, type: Type) -> int | float:
    if type is Type.INDEX:
        return word
    return float(struct.unpack("<d", struct.pack("<q", word))[0])


@lru_cache(maxsize=_KEPT)
def _text(kind: Kind, name: str, expr: Expr) -> str:
    zeros = {str(p.attribute): 0 if p.type is Type.INDEX else 0.0 for p in params_of(expr)}
    return Program(kind, name, expr, zeros).text


def _remember(text: str, program: Program) -> None:
    _KNOWN[text] = program
    while len(_KNOWN) > _KEPT:
        _KNOWN.popitem(last=False)
