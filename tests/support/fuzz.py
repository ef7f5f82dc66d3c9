"""How many examples the fuzz tests draw: a bound in the suite, or what --fuzz asks for."""

from __future__ import annotations

from hypothesis import HealthCheck, settings


def at_most(examples: int) -> settings:
    """`examples` of them, whatever the profile, unless pytest was given --fuzz."""
    asked = settings.get_current_profile_name() == "fuzz"
    count = settings.get_profile("fuzz").max_examples if asked else examples
    return settings(max_examples=count, suppress_health_check=list(HealthCheck))
