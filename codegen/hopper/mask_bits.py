"""How the forward kernel reads the mask of a masked tile: one bit a pair, made with the plan.

The words lie as `../mask_bits.py` says, in the order in which the producer goes through the masked
tiles of a query tile, which come first. So a work begins at a tile of bits, which its notes say,
and goes on to the next one with each tile. A thread has two words of a tile, whose bits are those
of its own scores: to look at one is a test of a constant bit. Words are loaded while the scores are
computed, those of the first tile before its keys are there. Who makes them is not known here.
"""

from __future__ import annotations

from ..kernel import KernelSpec, Role
from ..lower import Lowering
from ..writer import Block
from .module import GROUP_ROWS

BITS_TILE = "bits_tile"  # the tile of bits of the tile at hand

SPREAD = '''\
@gluon.jit
def spread(words, BLOCK_N: gl.constexpr, SCORES: gl.constexpr):
    """The word [64, 4] of each row and each thread of four, at all scores that the thread has."""
    words = words.reshape([64, 1, 4, 1])
    scores = gl.full([64, BLOCK_N // 8, 4, 2], 0, gl.int32, words.type.layout)
    words, _ = gl.broadcast(words, scores)
    return gl.convert_layout(words.reshape([64, BLOCK_N]), SCORES, assert_trivial=True)
'''


def write_first_tile(block: Block, lowering: Lowering) -> None:
    """Write which tile of bits is that of the first tile of a row of the run table."""
    first = lowering.argument(Role.TABLE, "first_bits")
    block.line(f"{BITS_TILE} = gl.load({first} + row_of_runs)")


def write_layout(block: Block) -> None:
    """Write the layout of words, where they lie in a tile of bits, and the bit of each score."""
    lanes, warps = "[[0, 1], [0, 2], [1, 0], [2, 0], [4, 0]]", "[[16, 0], [32, 0]]"
    block.line(
        f"WORDS: gl.constexpr = gl.DistributedLinearLayout([[8, 0]], {lanes}, {warps}, [],"
        f" [{GROUP_ROWS}, 4])"
    )
    block.line(f"word_of_row = gl.arange(0, {GROUP_ROWS}, gl.SliceLayout(1, WORDS))[:, None] * 4")
    block.line("word = word_of_row + gl.arange(0, 4, gl.SliceLayout(0, WORDS))[None, :]")
    block.line("column = gl.arange(0, BLOCK_N, KEYS)[None, :]")
    block.line("bit = 1 << (column // 8 * 2 + column % 2)")


def write_words(block: Block, spec: KernelSpec, masked: str, lowering: Lowering) -> None:
    """Write the loads of the words of a tile, and of no other than a masked one.

    Args:
        masked: source of the bool that it is masked; "" for the first one, which always is.
    """
    words = lowering.argument(Role.MASK_BITS, "mask_words")
    if masked:
        block.line(f"{BITS_TILE} += 1")
    row = f"({BITS_TILE} * {spec.consumers} + GROUP) * {GROUP_ROWS}"
    only = f", mask={masked}, other=0" if masked else ""
    block.line(f"words = gl.load({words} + {row} * 4 + word{only})")


def write_mask(block: Block) -> None:
    """Write the mask of a masked tile; the end of the keys is in the bits."""
    allowed = "(spread(words, BLOCK_N, SCORES) & bit) != 0"
    block.line(f'scores = gl.where({allowed}, scores, -float("inf"))')
