"""The tree of Medusa's candidates: the parent of each node, from the choices of its heads.

    nodes in order of length, then of choices; node 0 is the last accepted token

Source: Cai et al. 2024, "Medusa", https://arxiv.org/abs/2401.10774, and its code's
`generate_medusa_buffers`.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..arguments import refuse


def medusa_parents(choices: Sequence[Sequence[int]]) -> list[int]:
    """The parent of each node, -1 for the root, as `tree` takes them.

    Args:
        choices: one path from the root for each node: `[1, 0]` is the first child of the second.

    Raises:
        ArgumentError: a path's beginning is not among the choices, or a path stands twice.

    medusa_parents([[0], [1], [0, 0]]) is [-1, 0, 0, 1].
    """
    paths = sorted((tuple(c) for c in choices), key=lambda path: (len(path), path))
    node = {(): 0} | {path: n for n, path in enumerate(paths, 1)}
    missing = [path for path in paths if not path or path[:-1] not in node]
    if missing or len(node) != len(paths) + 1:
        wrong = missing[0] if missing else "repeated"
        raise refuse(
            f"choices has a path, {wrong}, that is no child of another one",
            "each path once, and all of its beginnings: [[0], [0, 0]]",
        )
    return [-1, *(node[path[:-1]] for path in paths)]
