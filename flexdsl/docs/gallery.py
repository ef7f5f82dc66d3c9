"""The page of variants: formula, source and picture of each, from the library itself.

mkdocs calls `on_files` when the site is built. The pictures are those of `examples/gallery.py`, so
it needs a checkout, and matplotlib. Nothing is listed here: the catalog is the library's own.
"""

from __future__ import annotations

import io
import runpy
from pathlib import Path
from typing import Any

import flexdsl as fx
from flexdsl.stdlib.listing import Entry, catalog

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "gallery.py"
PAGE = "gallery.md"
KINDS = {
    "mask": "Masks",
    "score": "Scores",
    "layer": "Layers",
    "table": "Tables",
    "order": "Orders",
}
_HEAD = 1  # of four, in the pictures of masks that depend on it


def on_files(files: Any, config: Any) -> Any:
    """Add the page and its pictures to the files of the site: a hook of mkdocs."""
    from mkdocs.structure.files import File

    pictures = draw_masks()
    for name, content in pictures.items():
        files.append(File.generated(config, f"pictures/{name}.png", content=content))
    files.append(File.generated(config, PAGE, content=page(set(pictures))))
    return files


def draw_masks() -> dict[str, bytes]:
    """A PNG of every mask of the gallery, by its name there."""
    drawn: dict[str, Any] = runpy.run_path(str(EXAMPLE))
    masks, length = drawn["MASKS"], drawn["N"]
    pictures = {}
    for name, value in masks.items():
        mask, q_len, kv_len = value if isinstance(value, tuple) else (value, length, length)
        if "," not in name:
            pictures[name] = _picture(mask, q_len, kv_len)
    return pictures


def _picture(mask: fx.Mod, q_len: int, kv_len: int) -> bytes:
    from matplotlib.figure import Figure

    plan = fx.plan(mask, q_len, kv_len, heads=4, tile=(8, 8))
    figure = Figure(figsize=(2.4, 2.4), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(plan.to_dense(tokens=True)[0, _HEAD], cmap="binary", interpolation="nearest")
    axes.set_xlabel("key")
    axes.set_ylabel("query")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    return buffer.getvalue()


def page(pictures: set[str]) -> str:
    """The page in Markdown.

    Args:
        pictures: names of the variants that have one.
    """
    lines = [
        "# Gallery",
        "",
        "The variants of `flexdsl.stdlib`: queries down, keys across, black where a query sees a",
        "key. Where a mask depends on the head, head 1 of 4 is drawn.",
        "",
    ]
    entries = catalog()
    for kind, title in KINDS.items():
        lines += [f"## {title}", ""]
        for entry in entries:
            if entry.kind == kind:
                lines += _section(entry, entry.name in pictures)
    return "\n".join(lines)


def _section(entry: Entry, has_picture: bool) -> list[str]:
    lines = [f"### {entry.name}", "", f"`{entry.name}{entry.signature}`", "", entry.summary, ""]
    if has_picture:
        lines += [f"![{entry.name}](pictures/{entry.name}.png)", ""]
    if entry.formula:
        lines += [f"`{entry.formula}`", ""]
    if entry.source:
        lines += [f"Source: {entry.source}", ""]
    return lines
