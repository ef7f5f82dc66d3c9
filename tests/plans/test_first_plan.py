"""What the first plan of a process does besides planning: nothing. No time is asserted."""

from __future__ import annotations

import subprocess
import sys

PLANS = """
import sys
import flexdsl as fx
from flexdsl.bench import plans

masks = [fx.mask_mod(make(4096)) for make in plans.MASKS.values()]
masks += [fx.stdlib.window_2d((63, 63), 7), fx.stdlib.shared_prefix([400, 700, 900], [0, 0, 0])]
assert all(mask.program for mask in masks)
plan = fx.plan
before = set(sys.modules)
for mask in masks:
    plan(mask, 2000, 2000, heads=8)
print(*sorted(set(sys.modules) - before))
"""


def test_all_that_a_plan_needs_is_imported_with_the_name_plan() -> None:
    done = subprocess.run([sys.executable, "-c", PLANS], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
