"""The Hopper target: kernels in Gluon for NVIDIA GPUs of compute capability 9.0.

One producer warp brings tiles by the copy engine (TMA), warpgroups of consumers compute with
asynchronous matrix products (wgmma). Mask and score become the same expressions as in the portable
kernels, in the layout of an accumulator; plans give the same tiles in another order.

    cover.py     which calls the kernels take, and the reason for those they do not
    schedule.py  the order of the tiles, which producer and consumers share
    module.py    the module around a kernel, shared memory and barriers
    forward.py   the forward kernel

Needs no GPU and no triton, as all of code generation.
"""

from .cover import reason_not_covered
from .forward import generate_forward

__all__ = ["generate_forward", "reason_not_covered"]
