"""Code generation: expressions and a plan become the text of a kernel.

    KernelSpec --forward--> Kernel(source, arguments)
        loops.py   the loops over key tiles, from formulas or from a table of runs
        lower.py   the mask and the score modification as Triton expressions
        writer.py  lines, blocks and names

Text in, text out: nothing here compiles, launches or imports torch and triton. A kernel lists its
own arguments (`kernel.py`), and the runtime and the ahead-of-time builder pass what it lists.
"""

from .backward import generate_backward_key, generate_backward_query
from .forward import generate_forward
from .kernel import Argument, Kernel, KernelSpec, Role, heavy_last, pieces
from .unbound import forward_spec

__all__ = [
    "Argument",
    "Kernel",
    "KernelSpec",
    "Role",
    "forward_spec",
    "generate_backward_key",
    "generate_backward_query",
    "generate_forward",
    "heavy_last",
    "pieces",
]
