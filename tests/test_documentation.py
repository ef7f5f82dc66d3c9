"""The documentation: every block of Python on every page runs, and prints what the page shows."""

from __future__ import annotations

import pytest

from support.pages import PAGES, run_page

NAMES = sorted(p.name for p in PAGES.glob("*.md"))


@pytest.mark.parametrize("name", NAMES)
def test_blocks_print_what_the_page_shows(name, update_golden, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if update_golden:
        run_page(PAGES / name, update=True)
    for block, printed, shown in run_page(PAGES / name):
        if shown is not None:
            assert printed == shown
        else:
            assert "FX" not in printed, f"{block.text}\n{printed}"
