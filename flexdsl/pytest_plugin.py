"""The pytest plugin: a test marked `flexdsl_verify` returns mods, and each of them is verified.

    @pytest.mark.flexdsl_verify(examples=50)
    def test_masks():
        return sliding, sliding & document

The arguments of the mark are those of `fx.verify`; fixtures and parametrization work as in any
test. A mod that fails is told as `fx.verify` tells it. pytest loads this file by its entry point at
every start, so neither torch nor hypothesis is imported before such a test runs.
"""

from __future__ import annotations

from typing import Any

import pytest

MARK = "flexdsl_verify"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--flexdsl-examples`."""
    parser.getgroup("flexdsl").addoption(
        "--flexdsl-examples",
        type=int,
        metavar="N",
        help="cases that each flexdsl_verify test draws, where its mark does not say",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known."""
    config.addinivalue_line(
        "markers", f"{MARK}(**arguments of fx.verify): verify the mods that the test returns"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a marked test, and verify what it returns."""
    mark = pyfuncitem.get_closest_marker(MARK)
    if mark is None:
        return None
    names = pyfuncitem._fixtureinfo.argnames
    returned = pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names})
    how = dict(mark.kwargs)
    examples = pyfuncitem.config.getoption("--flexdsl-examples")
    if examples is not None:
        how.setdefault("examples", examples)
    for mod in returned if isinstance(returned, tuple | list) else (returned,):
        _verify(pyfuncitem, mod, how)
    return True


def _verify(item: pytest.Function, mod: Any, how: dict[str, Any]) -> None:
    from flexdsl.errors import FlexdslError, KindError
    from flexdsl.testing import verify

    try:
        if mod is None:
            raise KindError(
                f"{item.name} returns None, and is marked {MARK}",
                fix="return mod, or return mod, other",
            )
        report = verify(mod, **how)
    except FlexdslError as error:
        # The message says everything; frames of flexdsl and of hypothesis say nothing more.
        pytest.fail(str(error), pytrace=False)
    item.add_report_section("call", "flexdsl", str(report))
