"""What the assembly of a compiled kernel says of its parameters."""

from __future__ import annotations

import re

_PTX_SIZES = {"8": 1, "16": 2, "32": 4, "64": 8}
_PTX_PARAMETER = r"\.param (?:\.align \d+ )?\.[a-z](\d+)[^,\[\n]*?(?:\[(\d+)\])?,?\n"


def sizes_in_ptx(assembly: str, entry: str) -> list[int]:
    """Bytes of each parameter of the function `entry`, in NVIDIA's PTX."""
    start = assembly.index(f".entry {entry}(")
    listed = assembly[start : assembly.index("\n)", start) + 1]
    found = re.findall(_PTX_PARAMETER, listed)
    return [int(count) if count else _PTX_SIZES[bits] for bits, count in found]


def sizes_in_amdgcn(assembly: str) -> list[int]:
    """Bytes of each parameter of the one kernel, in AMD's assembly."""
    listed = assembly[assembly.index(".args:") : assembly.index(".group_segment_fixed_size:")]
    return [int(size) for size in re.findall(r"\.size:\s+(\d+)", listed)]
