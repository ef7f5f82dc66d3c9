"""Pages of documentation as programs: their blocks, run in order, and what they print.

A block of `text` right after one of `python` is exactly what that prints, errors included. Lines
of `sh` that begin with `flexdsl` are run as well.
"""

from __future__ import annotations

import contextlib
import io
import linecache
import re
import shlex
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from flexdsl.errors import FlexdslError

ROOT = Path(__file__).parent.parent.parent
PAGES = ROOT / "flexdsl" / "docs" / "pages"
BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its text, and where it stands in the page."""

    language: str
    text: str
    start: int
    end: int


def blocks_of(page: str) -> list[Block]:
    return [Block(m[1], m[2], m.start(2), m.end(2)) for m in BLOCK.finditer(page)]


def output_of(code: str, scope: dict[str, Any]) -> str:
    """What Python prints for a block, then the error of flexdsl that it ends with."""
    linecache.cache["example.py"] = (len(code), None, code.splitlines(True), "example.py")
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out), warnings.catch_warnings():
            # Uncompiled, as a page compares with it on the CPU.
            warnings.filterwarnings("ignore", "flex_attention called without torch.compile")
            exec(compile(code, "example.py", "exec"), scope)
    except FlexdslError as error:
        return out.getvalue() + f"{error}\n"
    return out.getvalue()


def run_page(path: Path, update: bool = False) -> list[tuple[Block, str, str | None]]:
    """Every python block of a page: with what it printed, and what the page says that it prints.

    Args:
        update: write what was printed into the page.
    """
    page = path.read_text()
    blocks = blocks_of(page)
    module = ModuleType("example")  # torch's compiler looks up where a function is from
    sys.modules["example"], scope = module, vars(module)
    results: list[tuple[Block, str, str | None]] = []
    changes: list[tuple[Block, str]] = []
    for block, after in zip(blocks, [*blocks[1:], None], strict=False):
        if block.language != "python":
            continue
        printed = tidy(output_of(block.text, scope))
        shown = after if after is not None and after.language == "text" else None
        results.append((block, printed, None if shown is None else shown.text))
        if shown is not None:
            changes.append((shown, printed))
    if update:
        for block, printed in reversed(changes):
            page = page[: block.start] + printed + page[block.end :]
        path.write_text(page)
    return results


def tidy(printed: str) -> str:
    """Without spaces at the ends of lines, which no page shows."""
    return "".join(f"{line.rstrip()}\n" for line in printed.splitlines())


def commands_of(page: str) -> list[list[str]]:
    """The lines of `sh` blocks that begin with `flexdsl`, as lists of arguments."""
    lines = "".join(b.text for b in blocks_of(page) if b.language == "sh").splitlines()
    return [shlex.split(x, comments=True)[1:] for x in lines if x.startswith("flexdsl ")]
