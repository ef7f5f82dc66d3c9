"""The parameters of a kernel as the machine gets them: one buffer, and where each one begins.

Each parameter is aligned to its own size, a tensor map to 64 bytes, as in C. Values come flat, in
the order of `machine_types`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from flexdsl.bundle.manifest import Code, Parameter

MAP_BYTES = 128
_FORMATS = {"i8": "b", "i16": "h", "i32": "i", "i64": "q", "fp32": "f", "pointer": "Q"}
# CU_TENSOR_MAP_DATA_TYPE_... of cuda.h, by element type.
MAP_ELEMENTS = {"fp16": 6, "bf16": 9, "fp32": 7}
Word = int | float | bytes
# Bytes of each type of `machine_types`.
SIZES = {n: struct.calcsize(f"={code}") for n, code in _FORMATS.items()} | {"map": MAP_BYTES}


def machine_types(parameter: Parameter) -> list[str]:
    """What the machine gets for a parameter, one type each; "map" is a tensor map."""
    if parameter.type != "descriptor":
        return [parameter.type]
    rank = parameter.rank
    again = ["i32"] * rank + ["i64"] * rank
    if parameter.tensor_map is not None:
        return ["map", *again]
    return ["pointer", *["i64"] * (2 * rank), *["i8"] * parameter.flags, *again]


def words_of_blocks(
    parameter: Parameter, base: int | bytes, shape: list[int], strides: list[int]
) -> list[Word]:
    """The words of a descriptor.

    Args:
        base: the tensor map where the parameter has one, else the address.
        shape, strides: in elements, outermost first.
    """
    again = [*shape, *strides]
    if parameter.tensor_map is not None:
        return [base, *again]
    return [base, *again, *[0] * parameter.flags, *again]


@dataclass(frozen=True)
class Layout:
    """Where the parameters of a kernel lie in a buffer.

    Attributes:
        types: of each, as `machine_types` gives them.
    """

    types: tuple[str, ...]

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """The first byte of each."""
        return self._placed[0]

    @cached_property
    def _placed(self) -> tuple[tuple[int, ...], str]:
        """The offsets, and the format of all with the bytes between them."""
        offsets: list[int] = []
        end, text = 0, "="
        for name in self.types:
            code = "128s" if name == "map" else _FORMATS[name]
            size = struct.calcsize(f"={code}")
            start = -(-end // min(size, 64)) * min(size, 64)
            text += f"{start - end}x{code}" if start > end else code
            offsets.append(start)
            end = start + size
        return tuple(offsets), text

    def pack(self, words: Iterable[Word]) -> bytes:
        """The buffer; it is for an address that is a multiple of 64."""
        return struct.pack(self._placed[1], *words)


def layout_of(code: Code) -> Layout:
    """The layout of a kernel's parameters."""
    types = [t for p in code.parameters for t in machine_types(p)]
    return Layout((*types, *["pointer"] * code.null_pointers))
