"""Ahead of time: machine code for GPUs that are not there, and bundles of it.

    mods, targets --specs--> Job --pool, worker, compile--> Compiled --interface--> Code
        --build--> files of a bundle --write--> folder
    Bundle --c_launcher--> NAME.h, NAME.c       the same for C
    folder --check--> differences               what would be built against what is there

    jobs of plain kernels --resources--> registers, shared memory, stack    held against records

`targets.py` names the GPUs. This room uses the runtime's source cache and table of configurations,
launches nothing, and needs no GPU. Loading is the runtime's (`loaded.py`).
"""

from flexdsl.aot.build import Built, build
from flexdsl.aot.compile import Compiled, compile_kernel
from flexdsl.aot.targets import TARGETS, Target, parse_target

__all__ = [
    "TARGETS",
    "Built",
    "Compiled",
    "Target",
    "build",
    "compile_kernel",
    "parse_target",
]
