"""Which blocks of a video radial attention keeps, as its authors' code decides.

    per pair of frames a band on the grid of blocks: a block stays where, of its columns that the
    band touches, more than 60% have it on more than a third of their rows

Source: https://github.com/mit-han-lab/radial-attention, radial_attn/attn_mask.py, of Li et al.
2025, https://arxiv.org/abs/2506.19852. A frame that blocks do not divide covers ceil(tokens /
block) blocks from where it begins, so that some tails are not covered, as there.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from ..arguments import integer_at_least, one_of, positive_number, refuse


def radial_block_table(
    length: int, video: int, frames: int, decay: float, model: str, block: int = 128
) -> Any:
    """A bool array [length // block, length // block], for `block_table`.

    Args:
        length: all tokens; those from `video` on are text, which sees all and is seen by all.
        video: tokens of the video, `frames` of equal size.
        decay: factor of the bands' widths; 0.2 for Wan 2.1, 0.95 for HunyuanVideo.
        model: "wan", where all see the first frame, or "hunyuan".
        block: tokens of a block.

    Raises:
        ArgumentError: frames do not divide the video, it is longer than all, or no such model.
    """
    import numpy as np

    length = integer_at_least(1, "length", length)
    block = integer_at_least(1, "block", block)
    frame, rest = divmod(integer_at_least(1, "video", video), integer_at_least(1, "frames", frames))
    if rest or frame == 0 or video > length:
        raise refuse(f"video is {video}, but it must be frames * tokens, and at most {length}")
    decay = positive_number("decay", decay, "0.2")
    sink = one_of("model", model, ("wan", "hunyuan")) == "wan"
    kept = np.zeros((length // block, length // block), np.bool_)
    kept[video // block :] = kept[:, video // block :] = True
    for i in range(frames):
        for j in range(frames):
            width = frame if sink and j == 0 else _width(abs(i - j), frame, decay, block)
            row, column = i * frame // block, j * frame // block
            blocks = _blocks(width, frame, i * frame % block, j * frame % block, block)
            area = kept[row : row + len(blocks), column : column + len(blocks)]
            area |= blocks[: area.shape[0], : area.shape[1]]
    return kept


def _width(distance: int, frame: int, decay: float, block: int) -> float:
    """Largest distance in a frame that the band has, inclusive; -1 where it has nothing."""
    decayed = 2.0 ** (frame.bit_length() - distance.bit_length())
    if decayed < 128 and distance % int(128 / decayed):
        return -1
    return frame if distance <= 1 else max(decayed * decay, block)


@lru_cache(maxsize=1024)
def _blocks(width: float, frame: int, row: int, column: int, block: int) -> Any:
    """Blocks that keep the band of a pair of frames that begins at (row, column) of a block."""
    import numpy as np

    count = -(-frame // block)
    if width < 0:
        return np.zeros((count, count), np.bool_)
    places = np.arange(count * block) - column
    first = np.arange(count)[:, None] * block - row
    top = np.maximum(np.maximum(places - np.floor(width), 0), first)
    bottom = np.minimum(np.minimum(places + np.floor(width), frame - 1), first + block - 1)
    rows = np.where((places >= 0) & (places < frame), np.maximum(bottom - top + 1, 0), 0)
    of_block = rows.reshape(count, count, block)
    return (of_block * 3 > block).sum(axis=2) > 0.6 * (of_block > 0).sum(axis=2)
