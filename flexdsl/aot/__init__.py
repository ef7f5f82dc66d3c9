"""Ahead of time: machine code for a GPU that is not there.

    mods --codegen.unbound--> Kernel --compile--> Compiled

`targets.py` names the GPUs. This room uses the runtime's source cache and table of configurations,
launches nothing, and needs no GPU.
"""

from flexdsl.aot.compile import Compiled, compile_kernel
from flexdsl.aot.targets import TARGETS, Target, parse_target

__all__ = ["TARGETS", "Compiled", "Target", "compile_kernel", "parse_target"]
