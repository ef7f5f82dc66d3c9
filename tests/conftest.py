"""Profiles of hypothesis and options of the whole suite."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import HealthCheck, settings

# Without a GPU, generated kernels run under Triton's interpreter. Triton reads this when it is
# imported; tests that compile for a GPU do so in a process of their own.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# A property is given a number of examples, never a time: machines differ.
_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("dev", max_examples=50, **_COMMON)
settings.register_profile("ci", max_examples=200, derandomize=True, print_blob=True, **_COMMON)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "dev")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fuzz",
        type=int,
        metavar="N",
        help="examples that each property draws: pytest tests/fuzz --fuzz 100000",
    )
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write golden files from what the code makes now, then check them",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Draw as many examples as asked for, not those of the profile."""
    examples = config.getoption("--fuzz")
    if examples:
        settings.register_profile("fuzz", max_examples=examples, print_blob=True, **_COMMON)
        settings.load_profile("fuzz")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without a GPU, what needs one is no part of the suite."""
    if torch.cuda.is_available():
        return
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    config.hook.pytest_deselected(items=on_gpu)
    items[:] = [item for item in items if item not in on_gpu]


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be written anew."""
    return bool(request.config.getoption("--update-golden"))
