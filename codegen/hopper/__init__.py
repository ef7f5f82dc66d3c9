"""The Hopper target: kernels in Gluon for NVIDIA GPUs of compute capability 9.0.

One producer warp brings tiles by the copy engine (TMA), warpgroups of consumers compute with
asynchronous matrix products (wgmma). Mask and score become the same expressions as in the portable
kernels, in the layout of an accumulator; plans give the same tiles in another order.

    cover.py     which calls the kernels take, and the reason for those they do not
    schedule.py  the order of the tiles
    module.py    the module around a kernel, shared memory and barriers
    scores.py    the matrix products of the scores, and the copies of what is in them
    forward.py   the forward kernel: what its sides share, and the producer
    forward_consumer.py  its consumers, with or without tiles that they skip
    softmax.py   its softmax: what is kept of each row, with a maximum or without
    tangent.py   a score that is a tangent times a number
    turns.py     whose turn it is to compute a softmax, where they take turns
    outputs.py   what it does with its output: weights times values, and the stores
    registers.py what both kernels have registers for
    backward.py  the kernels of dK, dV and the sums of dQ: what their sides share, the producer
    backward_tiles.py  the columns and rows of their tiles
    backward_shared.py  what consumers of both kinds have alike: weights, masks, results
    backward_consumer.py  consumers that have dK and dV of 64 keys each
    wide.py      consumers that have dV or dK of 64 keys, for many columns, and who waits for whom
    wide_values.py, wide_keys.py, wide_queries.py  the two of them, and dQ
    early_loads.py  what is loaded apart from where it is used, of either kernel
    works.py     programs that stay: how the producer finds works and tells the consumers
    row_loads.py what the backward kernels load for each row, a tile ahead
    mask_bits.py how the mask of a tile is read as bits, in either kernel
    row_bits.py  how bits of a tile are made of the ends of its rows, where a closed form has them
    key_loads.py what the forward kernel loads for each key, before it is needed
    query_sums.py  the order of those sums in memory, and the kernel that makes dQ of them

Needs no GPU and no triton, as all of code generation.
"""

from .backward import generate_backward
from .cover import backward_reason, reason_not_covered
from .forward import generate_forward
from .query_sums import generate_backward_sums

__all__ = [
    "backward_reason",
    "generate_backward",
    "generate_backward_sums",
    "generate_forward",
    "reason_not_covered",
]
