"""The documentation: every block on every page runs, and prints what the page shows."""

from __future__ import annotations

import re
import tomllib

import pytest
from click.testing import CliRunner

from flexdsl.cli.main import main
from flexdsl.docs import gallery
from flexdsl.stdlib.listing import catalog
from support.pages import PAGES, ROOT, blocks_of, commands_of, run_page

NAMES = sorted(p.name for p in PAGES.glob("*.md"))
COMMANDS = [(name, c) for name in NAMES for c in commands_of((PAGES / name).read_text())]


@pytest.mark.parametrize("name", NAMES)
def test_blocks_print_what_the_page_shows(name, update_golden, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if update_golden:
        run_page(PAGES / name, update=True)
        (tmp_path / "again").mkdir()
        monkeypatch.chdir(tmp_path / "again")  # without what the page has written
    for block, printed, shown in run_page(PAGES / name):
        if shown is not None:
            assert printed == shown
        else:
            assert not printed, f"{block.text} prints\n{printed}"


@pytest.mark.parametrize(("name", "arguments"), COMMANDS, ids=lambda x: " ".join(x[:2]))
def test_commands_run(name, arguments, tmp_path, monkeypatch):
    monkeypatch.setenv("FLEXDSL_CACHE_DIR", str(tmp_path))
    result = CliRunner().invoke(main, arguments)
    # A machine without a compiler is a broken one to the doctor.
    assert result.exit_code == 0 or arguments == ["doctor"], result.output
    assert result.output


def test_every_block_is_run():
    for name in NAMES:
        page = (PAGES / name).read_text()
        languages = [block.language for block in blocks_of(page)]
        assert set(languages) <= {"python", "text", "sh"}, name
        assert all(languages[n - 1] == "python" for n, x in enumerate(languages) if x == "text")
        lines = "".join(b.text for b in blocks_of(page) if b.language == "sh").splitlines()
        assert all(line.startswith("flexdsl ") for line in lines), name


def test_links_lead_to_pages():
    for name in NAMES:
        for target in re.findall(r"\]\(([\w-]+\.md)", (PAGES / name).read_text()):
            assert target in NAMES or target == gallery.PAGE, f"{name} links to {target}"


def test_all_pages_are_in_the_site_and_shipped():
    settings = (PAGES.parent / "mkdocs.yml").read_text()
    listed = re.findall(r"^  - ([\w-]+\.md)$", settings, re.MULTILINE)
    assert sorted(listed) == sorted([*NAMES, gallery.PAGE])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    shipped = project["package-data"]["flexdsl.docs"]
    assert shipped == ["mkdocs.yml", *(f"pages/{name}" for name in NAMES)]


def test_the_gallery_has_every_variant_and_a_picture_of_every_mask():
    pictures = gallery.draw_masks()
    assert all(png.startswith(b"\x89PNG") and len(png) > 500 for png in pictures.values())
    entries = catalog()
    page = gallery.page(set(pictures))
    for entry in entries:
        assert f"\n### {entry.name}\n" in page and entry.summary in page
        pictured = f"](pictures/{entry.name}.png)" in page
        assert pictured == (entry.kind == "mask")
