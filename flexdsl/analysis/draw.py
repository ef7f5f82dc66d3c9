"""Pictures of a plan: characters for the terminal, a PNG or SVG through matplotlib.

A picture of more tiles than it has room for is sampled: a cell shows the most allowed state and
says partial where its tiles differ. matplotlib is imported when a picture is asked for, not before.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flexdsl.errors import ArgumentError

if TYPE_CHECKING:
    from flexdsl.analysis.plan import BlockPlan

Array = NDArray[Any]

COLUMNS = 64  # most cells along an axis of a drawing
CHARACTERS = np.array(["·", "▒", "█"])  # empty, partial, full
PIXELS = 256  # most pairs along an axis of the token picture


def draw(plan: BlockPlan) -> str:
    """The tile map of batch 0, head 0 in characters, with a line that says what it is."""
    states = sampled_states(plan, COLUMNS)
    lines = ["".join(CHARACTERS[row]) for row in states]
    shape = f"{plan.q_tiles} x {plan.kv_tiles} tiles of {plan.tile_shape[0]} x {plan.tile_shape[1]}"
    note = f"{shape}; █ full  ▒ partial  · empty"
    if states.shape != (plan.q_tiles, plan.kv_tiles):
        note += "; one character stands for several tiles"
    if plan.depends_on_batch or plan.depends_on_head:
        note += "; batch 0, head 0"
    return "\n".join([*lines, note])


def sampled_states(plan: BlockPlan, most: int) -> Array:
    """0 empty, 1 partial, 2 full for at most `most` x `most` cells of batch 0, head 0."""
    rows = min(plan.q_tiles, most)
    columns = min(plan.kv_tiles, most)
    if 0 in (rows, columns, plan.batch, plan.heads):
        return np.zeros((0, 0), np.int8)
    live, full = np.zeros((rows, columns)), np.zeros((rows, columns))
    cuts = np.arange(columns + 1) * plan.kv_tiles / columns
    for i in range(plan.q_tiles):
        for run in plan.row_runs(0, 0, i):
            # Tiles of the run in each cell; cells may begin inside a tile.
            tiles = np.minimum(cuts[1:], run.stop) - np.maximum(cuts[:-1], run.start)
            tiles = np.maximum(tiles, 0)
            live[i * rows // plan.q_tiles] += tiles
            full[i * rows // plan.q_tiles] += tiles * run.full
    per_row = np.bincount(np.arange(plan.q_tiles) * rows // plan.q_tiles, minlength=rows)
    whole = per_row[:, None] * (plan.kv_tiles / columns)
    return np.asarray((live > 1e-9).astype(np.int8) + (full > whole - 1e-9))


def plot(plan: BlockPlan, path: str | Path) -> None:
    """Write a picture: the mask pair by pair (sampled if long) beside the tile map.

    Args:
        path: where to; the ending chooses the format, .png or .svg.

    Raises:
        ArgumentError: matplotlib is not installed, or the ending is another one.
    """
    path = Path(path)
    if path.suffix not in (".png", ".svg"):
        raise ArgumentError(f"cannot plot to {path.name}", fix="a path that ends in .png or .svg")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ArgumentError(
            "plotting needs matplotlib, which is not installed",
            fix="pip install 'flexdsl[plot]'",
        ) from error
    figure = Figure(figsize=(10, 5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    extent = (0, max(plan.kv_len, 1), max(plan.q_len, 1), 0)
    options: dict[str, Any] = {"extent": extent, "aspect": "auto", "interpolation": "nearest"}
    left.imshow(_tokens(plan), cmap="Blues", vmin=0, vmax=1, **options)
    right.imshow(_cells(sampled_states(plan, PIXELS)), cmap="Blues", vmin=0, vmax=2, **options)
    name = "everything" if plan.mask is None else plan.mask.name
    left.set_title(f"{name}: allowed pairs")
    right.set_title(f"tiles: {plan.density:.1%} live ({plan.kind})")
    for axes in (left, right):
        axes.set_xlabel("kv")
        axes.set_ylabel("q")
    figure.savefig(path, dpi=150)


def _cells(states: Array) -> Array:
    return states if states.size else np.zeros((1, 1), np.int8)


def _tokens(plan: BlockPlan) -> Array:
    """The mask of batch 0, head 0 at a grid of pairs."""
    if 0 in (plan.q_len, plan.kv_len, plan.batch, plan.heads):
        return np.zeros((1, 1), np.int8)
    rows = np.linspace(0, plan.q_len - 1, min(plan.q_len, PIXELS)).astype(np.int64)
    columns = np.linspace(0, plan.kv_len - 1, min(plan.kv_len, PIXELS)).astype(np.int64)
    return plan.allowed(0, 0, rows, columns).astype(np.int8)
