"""What is verified: a mask mod, or a score mod with the mask that it is used under.

It reads what a user passes and says what a mod's expression uses. It draws and checks nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from flexdsl.errors import KindError
from flexdsl.ir import Capture, Kind, Op, Program, captures_of, rename_apart, walk
from flexdsl.mod import Mod, and_masks, as_mod, from_program, parse
from flexdsl.variants import Variant

# What jumps or has a corner: there rounding, or the choice of a derivative, may differ.
_CORNERS = frozenset(
    {Op.LT, Op.LE, Op.GT, Op.GE, Op.EQ, Op.NE, Op.MIN, Op.MAX, Op.ABS, Op.FLOOR, Op.TO_INDEX}
)


@dataclass(frozen=True, eq=False)
class Subject:
    """The mods of a call of attention.

    Attributes:
        mod: the one that is verified: `mask`, or `score`.
        mask: a mask mod; None allows every pair.
        score: a score mod, or None.
        varied: it holds other values than the user's function does.
    """

    mod: Mod
    mask: Mod | None
    score: Mod | None
    varied: bool = False

    @cached_property
    def mask_program(self) -> Program | None:
        """The mask as it was traced when first asked."""
        return None if self.mask is None else self.mask.program

    @cached_property
    def score_program(self) -> Program | None:
        """The score as it was traced when first asked, with no name that the mask has too."""
        if self.score is None:
            return None
        taken = {} if self.mask_program is None else self.mask_program.values
        return rename_apart(self.score.program, taken)

    @property
    def programs(self) -> list[Program]:
        """Those that there are."""
        return [p for p in (self.mask_program, self.score_program) if p is not None]

    @property
    def variables(self) -> frozenset[str]:
        """Which of b, h, q, kv and score matter."""
        return frozenset[str]().union(*(p.expr.variables for p in self.programs))

    @property
    def has_corners(self) -> bool:
        """Is the score no smooth function of the raw score?"""
        if self.score_program is None:
            return False
        nodes = walk(self.score_program.expr)
        return any(n.op in _CORNERS and "score" in n.variables for n in nodes)

    @property
    def captures(self) -> dict[str, Any]:
        """The captured tensors and arrays by name."""
        return {c.name: p.values[c.name] for p, c in self._captures() if c.name in p.values}

    def _captures(self) -> list[tuple[Program, Capture]]:
        return [(p, c) for p in self.programs for c in captures_of(p.expr)]

    def learned(self, device: torch.device) -> dict[str, Tensor]:
        """Copies, on `device`, of the float tensors that the score captures, by name."""
        if self.score_program is None:
            return {}
        values = self.score_program.values
        names = [c.name for c in captures_of(self.score_program.expr)]
        tensors = {n: torch.as_tensor(values[n], device=device).detach().clone() for n in names}
        return {n: t for n, t in tensors.items() if t.is_floating_point()}

    def on(self, device: torch.device) -> Subject:
        """The subject with its captures on `device`; itself where they are there already."""
        captures = self.captures
        away = {n: v for n, v in captures.items() if torch.as_tensor(v).device != device}
        moved = {n: torch.as_tensor(v, device=device) for n, v in away.items()}
        return self.with_values(moved) if moved else self

    def with_values(self, values: Mapping[str, Any], varied: bool = False) -> Subject:
        """The same expressions with other captured tensors or numbers, given by name.

        Args:
            varied: are they others than what the user's function holds, not only elsewhere?
        """

        def changed(program: Program | None) -> Mod | None:
            if program is None:
                return None
            kept = {n: values.get(n, v) for n, v in program.values.items()}
            return from_program(replace(program, values=kept))

        mask, score = changed(self.mask_program), changed(self.score_program)
        mod = mask if self.mod.kind is Kind.MASK else score
        assert mod is not None
        return Subject(mod, mask, score, varied or self.varied)


def read_subject(mod: Any, mask: Any = None) -> Subject:
    """The subject of what a user passes: a Mod, a function of either kind, text, or a variant.

    Raises:
        KindError: `mod` is no mod, or `mask` is given to a mask.
        FlexdslError: it cannot be traced or parsed.
    """
    if isinstance(mod, Variant) and mod.score is not None:
        masks = [m for m in (mod.mask, mask) if m is not None]
        return read_subject(mod.score, and_masks(*masks) if masks else None)
    read = _read(mod.mask if isinstance(mod, Variant) else mod)
    if read.kind is Kind.SCORE:
        return Subject(read, None if mask is None else as_mod(mask, Kind.MASK), read)
    if mask is not None:
        raise KindError(
            f"{read.name} is a mask, and mask= is given too",
            why="mask= is the mask that a score modification is used under",
            fix=f"verify({read.name} & mask)",
        )
    return Subject(read, read, None)


def _read(mod: Any) -> Mod:
    if isinstance(mod, Mod):
        return mod
    if isinstance(mod, str):
        return parse(mod)
    if not callable(mod):
        return as_mod(mod, Kind.MASK)  # which says what a mod is
    try:
        takes_score = len(inspect.signature(mod).parameters) == 5
    except ValueError:
        takes_score = False
    return as_mod(mod, Kind.SCORE if takes_score else Kind.MASK)
