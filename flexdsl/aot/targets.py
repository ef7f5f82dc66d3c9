"""The GPUs that kernels can be compiled for, by name: `cuda:90`, `hip:gfx942`."""

from __future__ import annotations

from dataclasses import dataclass

from flexdsl.errors import TargetError


@dataclass(frozen=True, slots=True)
class Target:
    """One kind of GPU.

    Attributes:
        backend: "cuda" or "hip".
        arch: compute capability of an NVIDIA GPU as a number (90), gfx name of an AMD one.
        warp_size: threads of a warp.
    """

    backend: str
    arch: int | str
    warp_size: int

    @property
    def name(self) -> str:
        """As users write it."""
        return f"{self.backend}:{self.arch}"

    @property
    def capability(self) -> int:
        """Compute capability of an NVIDIA GPU, 0 for others."""
        return self.arch if isinstance(self.arch, int) else 0


TARGETS: dict[str, Target] = {
    t.name: t
    for t in (
        *(Target("cuda", arch, 32) for arch in (80, 86, 89, 90, 100, 120)),
        *(Target("hip", arch, 64) for arch in ("gfx90a", "gfx942")),
    )
}


def parse_target(name: str) -> Target:
    """The target of that name.

    Raises:
        TargetError: there is none.
    """
    if name not in TARGETS:
        raise TargetError(
            f"there is no target {name!r}",
            why="a target is a backend and an architecture",
            fix=f"one of {', '.join(TARGETS)}",
        )
    return TARGETS[name]
