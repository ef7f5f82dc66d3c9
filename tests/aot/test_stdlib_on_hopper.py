"""All of the library has a Hopper GPU's own kernels, forward and backward: no GPU is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from tests.stdlib.samples import SAMPLES

# Products of tiles, and tiles that the copy engine brings, of a kernel at the least.
LEAST = {"forward": (2, 3), "backward": (5, 4)}


def wrong(facts: dict[str, Any]) -> Iterator[str]:
    """What the kernels of one variant are not as they are to be."""
    if facts["reason"] is not None:
        yield f"{facts['name']}: {facts['reason']}"
    for phase, (products, loads) in LEAST.items():
        counts = facts[phase]
        has_all = counts["wgmma"] >= products and counts["tma_loads"] >= loads
        if not (has_all and counts["partitions"] and counts["other_products"] == 0):
            yield f"{facts['name']}, {phase}: {counts}"


def test_own_instructions() -> None:
    """One test, since all of them are compiled by one process with two below it."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.aot.hopper_stages"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert {facts["name"] for facts in found} == set(SAMPLES)
    assert [line for facts in found for line in wrong(facts)] == []


def test_a_product_by_other_means_is_seen() -> None:
    good = {"wgmma": 8, "tma_loads": 6, "partitions": 1, "other_products": 0}
    facts = {"name": "x", "reason": None, "forward": good, "backward": good}
    assert not list(wrong(facts))
    for change in ({"wgmma": 1}, {"tma_loads": 0}, {"partitions": 0}, {"other_products": 1}):
        assert list(wrong(facts | {"forward": good | change})) == [f"x, forward: {good | change}"]
    assert list(wrong(facts | {"reason": "none"})) == ["x: none"]
