"""Plain kernels take the registers, shared memory and stack that are recorded: no GPU is needed."""

from __future__ import annotations

import pytest

from flexdsl.aot import resources
from flexdsl.aot.plan import tools


def test_every_plain_kernel_is_recorded() -> None:
    found = resources.recorded()["kernels"]
    assert set(found) == set(resources.jobs())
    for name, kernel in found.items():
        forward_on_hopper = name.startswith("cuda:90") and " forward " in name
        assert kernel["stack_bytes"] == 0 or not forward_on_hopper, name
        assert 0 < kernel["registers"] <= 255 and kernel["shared_bytes"] <= 227 * 1024, name


def test_kernels_take_what_is_recorded() -> None:
    """A spill more fails here. After a change: python -m flexdsl.aot.resources --write."""
    then = resources.recorded()
    if then["triton"] != tools()["triton"]:
        pytest.skip(f"the records are of triton {then['triton']}: another one spills otherwise")
    assert resources.differences(then, resources.compiled()) == []


def test_differences() -> None:
    then = {"kernels": {"a": {"stack_bytes": 0}, "b": {"stack_bytes": 0}, "c": {}}}
    now = {"kernels": {"a": {"stack_bytes": 8}, "b": {"stack_bytes": 0}, "d": {}}}
    lines = resources.differences(then, now)
    assert [line.split(":")[0] for line in lines] == ["a", "c", "d"]
    assert "'stack_bytes': 0} is now {'stack_bytes': 8}" in lines[0]
