"""A failing case as a program that can be pasted and run.

The mods are written in the text form with the contents of their captured tensors, cut to what the
case reads. Whether that fails too is for the caller to try: where only the user's function is
wrong, its text is not, and the program names the function instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flexdsl.errors import IndexRangeError
from flexdsl.ir import Program, captures_of
from flexdsl.mod import Mod, from_program, parse
from flexdsl.testing.case import Case
from flexdsl.testing.limits import Limits, check_sizes
from flexdsl.testing.subject import Subject
from flexdsl.testing.variation import vary

LONGEST = 4096  # elements of captured tensors that a program still shows


def parse_with(text: str, **captures: Any) -> Mod:
    """The mod of a text, with the captured tensors that the text declares.

        parse_with("mask packed(ids: i64[4]) = ids[q] == ids[kv]", ids=torch.tensor([0, 0, 1, 1]))

    Raises:
        TextError, TypeMismatchError: as `flexdsl.parse`.
    """
    program = parse(text).program
    return from_program(replace(program, values={**program.values, **captures}))


def cut_captures(subject: Subject, case: Case) -> Subject:
    """The subject by its expressions, with captured tensors no longer than the case needs."""
    sizes = Limits(
        batch=case.batch,
        heads=case.heads,
        q_positions=case.q_offset + case.q_len,
        kv_len=case.kv_len,
    )
    subject = subject.with_values({})
    for name, value in subject.captures.items():
        tensor = torch.as_tensor(value).detach()
        for dimension in range(tensor.dim()):
            length = _least_length(subject, sizes, name, tensor, dimension)
            tensor = tensor.narrow(dimension, 0, length)
        subject = subject.with_values({name: tensor})
    return subject


def _least_length(
    subject: Subject, sizes: Limits, name: str, tensor: Tensor, dimension: int
) -> int:
    low, high = 1, tensor.shape[dimension]
    while low < high:
        middle = (low + high) // 2
        try:
            cut = tensor.narrow(dimension, 0, middle)
            check_sizes(subject.with_values({name: cut}), sizes)
        except IndexRangeError:
            low = middle + 1
        else:
            high = middle
    return high


def program_of(
    subject: Subject, case: Case, backend: str, fails: Callable[[Subject, Case], bool]
) -> str:
    """A program that runs the case: of the text form if that fails as well, else of the function.

    Args:
        fails: does a subject fail in a case?
    """
    varied = vary(subject, case)
    plain = replace(case, contents="own", parameters=())
    # First with the case's values as the mod's own, as short as it goes.
    written = [(cut_captures(varied, plain), plain)]
    written += [(subject.with_values({}), case)] if varied is not subject else []
    for short, shown in written:
        if _elements(short) <= LONGEST and fails(short, shown):
            return _of_text(short, shown, backend)
    return _of_function(subject, case, backend)


def _elements(subject: Subject) -> int:
    return sum(torch.as_tensor(x).numel() for x in subject.captures.values())


def _of_text(subject: Subject, case: Case, backend: str) -> str:
    names = {"mask": subject.mask_program, "score": subject.score_program}
    lines = ["import torch", "from flexdsl.testing import Case, check, parse_with", ""]
    lines += [f"{n} = {_parsed(p)}" for n, p in names.items() if p is not None]
    verified = "score" if subject.score is not None else "mask"
    return "\n".join([*lines, _call(verified, subject, case, backend)])


def _parsed(program: Program) -> str:
    values = [program.values.get(c.name) for c in captures_of(program.expr)]
    captures = captures_of(program.expr)
    shown = [f"{c.name}={_literal(v)}" for c, v in zip(captures, values, strict=True)]
    return f"parse_with({', '.join([repr(program.text), *shown])})"


def _literal(value: Any) -> str:
    tensor = torch.as_tensor(value).detach()
    numbers = re.sub(r"\b(inf|nan)\b", r"float('\1')", str(tensor.tolist()))
    return f"torch.tensor({numbers}, dtype={tensor.dtype})"


def _of_function(subject: Subject, case: Case, backend: str) -> str:
    program = subject.score_program or subject.mask_program
    assert program is not None
    name = subject.mod.name
    file = next((s.file for s in program.spans.values()), None)
    lines = ["from flexdsl.testing import Case, check", ""]
    if file is not None and _is_top_level(Path(file), name):
        lines = ["import runpy", *lines, f"{name} = runpy.run_path({file!r})[{name!r}]"]
    else:
        where = program.source or "the program"
        lines.append(f"# {name} is the function of {where}; its text form alone does not fail")
    return "\n".join([*lines, _call(name, subject, case, backend)])


def _is_top_level(path: Path, name: str) -> bool:
    pattern = rf"^(def {re.escape(name)}\b|{re.escape(name)}\s*=)"
    return path.is_file() and re.search(pattern, path.read_text(), re.MULTILINE) is not None


def _call(name: str, subject: Subject, case: Case, backend: str) -> str:
    under = ", mask=mask" if subject.score is not None and subject.mask is not None else ""
    return f"check({name}, {show_case(case)}{under}, backend={backend!r})"


def show_case(case: Case) -> str:
    """A case as Python writes it, with what differs from the smallest case."""
    usual = Case()
    changed = {n: v for n, v in vars(case).items() if v != getattr(usual, n)}
    return f"Case({', '.join(f'{n}={v!r}' for n, v in changed.items())})"
