"""Code generation: expressions and a plan become the text of a kernel.

    KernelSpec --forward | backward | rows--> Kernel(source, arguments)
               --split--> two Kernels   of few queries, by parts of the keys (split_loops.py)
        tiles.py   lines that all kernels have
        programs.py  which tile of which head a program has
        loops.py   the loops over tiles, from formulas (stretches.py: that lie apart) or from a
                   table of runs
        lower.py   the mask and the score modification as Triton expressions, with helpers.py
        comparisons.py, rolled.py  how masks and long sums are turned before
        factors.py what one more matrix product adds to the scores, and who writes its matrices
        differences.py what scores compute from q - kv alone, as tables, and who writes them
        module.py  the module around a kernel
        writer.py  lines, blocks and names
        hopper/    the same for Hopper GPUs, in Gluon
    mask       --planner | refinement | compaction--> Kernel    a plan's states of tiles, its runs
    mask       --mask_bits--> Kernel    the mask of a plan's masked tiles, a bit a pair
        intervals.py, abstract.py, extremes.py      the interval semantics as source
        of_mask.py what kernels of a mask alone have in common
    programs   --unbound--> Kernel      for calls that are not known yet
        phases.py  the kernels by name, and which of them a backward pass has

Text in, text out: nothing here compiles, launches or imports torch and triton. A kernel lists its
own arguments (`kernel.py`), and the runtime and the ahead-of-time builder pass what it lists.
"""

from .backward import generate_backward_key, generate_backward_query
from .differences import MARGIN, table_length
from .factors import FACTOR_TENSORS
from .factors import ROWS as FACTOR_ROWS
from .forward import generate_forward
from .hopper import backward_reason, reason_not_covered
from .kernel import Argument, Kernel, KernelSpec, Language, Role, pieces
from .phases import OF_KEYS, Phase, backward_phases, parse_phase
from .unbound import KERNEL_TARGETS, generate_unbound, parse_kernel_target, unbound_spec

__all__ = [
    "FACTOR_ROWS",
    "FACTOR_TENSORS",
    "KERNEL_TARGETS",
    "MARGIN",
    "OF_KEYS",
    "Argument",
    "Kernel",
    "KernelSpec",
    "Language",
    "Phase",
    "Role",
    "backward_phases",
    "backward_reason",
    "generate_backward_key",
    "generate_backward_query",
    "generate_forward",
    "generate_unbound",
    "parse_kernel_target",
    "parse_phase",
    "pieces",
    "reason_not_covered",
    "table_length",
    "unbound_spec",
]
