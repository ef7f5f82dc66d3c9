"""A writer of Python source: indented lines in blocks, and names that do not collide."""

from __future__ import annotations

import keyword
from collections.abc import Iterator
from contextlib import contextmanager


class Block:
    """Lines of source at one indentation. A block may be filled after its place was taken.

    Attributes:
        indent: how deep the block stands, in levels.
    """

    def __init__(self, indent: int = 0) -> None:
        self.indent = indent
        self._parts: list[str | Block] = []

    def line(self, text: str = "") -> None:
        """Append a line (or several, split at line ends) at the current indentation."""
        for part in text.split("\n"):
            self._parts.append("    " * self.indent + part if part else "")

    def comment(self, text: str) -> None:
        """Append a comment line."""
        self.line(f"# {text}")

    def block(self) -> Block:
        """Take a place here for a block of the same indentation, to be filled later."""
        block = Block(self.indent)
        self._parts.append(block)
        return block

    @contextmanager
    def indented(self, header: str) -> Iterator[Block]:
        """Append `header` and give the block of what stands below it."""
        self.line(header)
        block = Block(self.indent + 1)
        self._parts.append(block)
        yield block

    def lines(self) -> Iterator[str]:
        """All lines, those of inner blocks in place."""
        for part in self._parts:
            if isinstance(part, Block):
                yield from part.lines()
            else:
                yield part

    def __str__(self) -> str:
        return "\n".join(self.lines()) + "\n"


class Names:
    """Hands out names that are used nowhere else in a kernel, and are no keywords of Python.

    Args:
        taken: names that are not to be given.
    """

    def __init__(self, taken: set[str]) -> None:
        self._taken = taken | set(keyword.kwlist)

    def fresh(self, wanted: str) -> str:
        """`wanted`, with a number behind it where it is taken."""
        name, number = wanted, 1
        while name in self._taken:
            number += 1
            name = f"{wanted}_{number}"
        self._taken.add(name)
        return name
