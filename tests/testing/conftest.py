"""Every test of this folder starts without the cases of earlier ones."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis.database import InMemoryExampleDatabase


@pytest.fixture(autouse=True)
def fresh_cases():
    """No case of an earlier test or run helps to find a fault."""
    name = settings.get_current_profile_name()
    empty = InMemoryExampleDatabase()
    settings.register_profile("fresh cases", settings.get_profile(name), database=empty)
    settings.load_profile("fresh cases")
    yield
    settings.load_profile(name)
