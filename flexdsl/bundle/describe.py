"""A bundle in words, for people. It reads what the manifest says, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

from flexdsl.bundle.files import Bundle
from flexdsl.bundle.manifest import Build, Code, Variant

_PLANS = {
    "closed-form": "closed form",
    "table": "table of runs",
    "bits": "table of runs, mask as bits",
    "blocks": "table of runs, of each half of a tile",
    "none": "no pairs",
}


def describe(bundle: Bundle) -> str:
    """Lines about every variant, what it is for, its kernels, and what built it."""
    manifest = bundle.manifest
    tools = ", ".join(f"{name} {number}" for name, number in sorted(manifest.tools.items()))
    size = sum(len(bundle.bytes_of(path)) for path in manifest.files)
    head = f"bundle {manifest.name}: {len(manifest.files)} files, {size / 1024:.0f} KiB, by {tools}"
    lines = [head, f"digest {bundle.digest}, every file is what was built"]
    for variant in manifest.variants:
        lines += _variant(variant, bundle)
    return "\n".join(lines)


def _variant(variant: Variant, bundle: Bundle) -> Iterator[str]:
    yield f"\n{variant.name}"
    for program in (variant.mask, variant.score):
        if program is not None:
            yield f"  {program.text}"
    if variant.positions:
        ranges = [f"{n} {low} to {high}" for n, (low, high) in variant.ranges.items()]
        axes = (("batch", variant.batch), ("heads", variant.heads))
        ranges += [f"{name} up to {most}" for name, most in axes if most]
        yield f"  closed form, proven for {', '.join([*ranges, ''])}{variant.positions} positions"
    if variant.learned:
        yield f"  gradients of {', '.join(variant.learned)}"
    for build in variant.builds:
        yield from _build(build, bundle)


def _build(build: Build, bundle: Bundle) -> Iterator[str]:
    yield f"  {build.title}"
    for code in build.kernels:
        size = len(bundle.machine_code(code)) / 1024
        yield f"    {code.phase}: {in_words(code)}, {size:.0f} KiB"


def in_words(code: Code) -> str:
    """A kernel, but for its phase."""
    plan = ", ".join([_PLANS[code.plan], *(f"after {name}" for name in code.before)])
    return (
        f"{code.language}, tile {code.tile[0]} x {code.tile[1]}, {code.threads} threads,"
        f" {code.shared_bytes / 1024:.0f} KiB shared, {plan}"
    )
