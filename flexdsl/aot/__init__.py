"""Ahead of time: machine code for a GPU that is not there.

    mods --mod.forward_spec--> ForwardSpec --codegen--> Kernel --compile--> Compiled

`targets.py` names the GPUs. This room uses the runtime's source cache and table of configurations,
launches nothing, and needs no GPU.
"""

from flexdsl.aot.compile import Compiled, compile_forward
from flexdsl.aot.targets import TARGETS, Target, parse_target

__all__ = ["TARGETS", "Compiled", "Target", "compile_forward", "parse_target"]
