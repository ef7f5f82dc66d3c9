"""What `verify` says when every check holds. It checks nothing."""

from __future__ import annotations

from dataclasses import dataclass

from flexdsl.testing.limits import Limits
from flexdsl.testing.numerics import Accuracy


@dataclass(frozen=True)
class Report:
    """What `verify` did, and found to hold.

    Attributes:
        name, text: of the mod.
        backends: what was compared with the reference, and in how many of the cases each.
        examples: cases that were drawn.
        varied: those of them with other captured numbers or contents than the mod's own.
        pairs: pairs that the user's function was asked about.
        tiles: tiles of plans that were compared with brute force.
        dtypes: element types that were drawn.
        limits: the largest sizes that were drawn, as captured tensors allow.
        limited: do captured tensors allow less than what is drawn otherwise?
        worst: the largest absolute error of each output and gradient, over all dtypes.
        worst_of_bound: the largest error as a share of what rounding explains.
        numerics: errors by situation and dtype beside SDPA's, where they were asked for.
    """

    name: str
    text: str
    backends: dict[str, int]
    examples: int
    varied: int
    pairs: int
    tiles: int
    dtypes: tuple[str, ...]
    limits: Limits
    limited: bool
    worst: dict[str, float]
    worst_of_bound: float
    numerics: tuple[Accuracy, ...] = ()

    def __str__(self) -> str:
        why = "as captured tensors allow" if self.limited else "no captured tensor allows less"
        worst = ", ".join(f"{n} {x:.1e}" for n, x in self.worst.items())
        each = [f"'{n}' ({c} cases)" for n, c in self.backends.items()]
        several = "backends " + ", ".join(each)
        only = f"backend '{next(iter(self.backends))}'"
        backends = only if len(self.backends) == 1 else several
        return "\n".join(
            [
                f"{self.name}: verified in {self.examples} cases on {backends}",
                f"  {self.text}",
                f"  drawn     {self.limits} ({why}); {', '.join(self.dtypes)}",
                f"  captured  other numbers and contents in {self.varied} cases",
                f"  function  {self.pairs} pairs on plain numbers, as its expression says",
                f"  plan      {self.tiles} tiles, the pairs and empty rows, as brute force says",
                "  kernel    output, lse and gradients as dense float64 attention says",
                "  laws      padding, parts, prefixes, other orders, earlier calls, mask algebra",
                f"  errors    {worst}; at most {self.worst_of_bound:.0%} of what rounding explains",
                *(f"  {'numerics' if n == 0 else '':<10}{x}" for n, x in enumerate(self.numerics)),
            ]
        )
