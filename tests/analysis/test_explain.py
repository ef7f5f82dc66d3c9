"""What a plan says of itself in words and pictures."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

import flexdsl as fx
from flexdsl import stdlib
from flexdsl.analysis import make_plan
from flexdsl.errors import ArgumentError, Span
from flexdsl.ir import Kind, Program
from flexdsl.mod import from_program
from support.masks import Mask, Table, both, either

DOC = Table("doc", np.arange(1536) // 100)
CHOSEN = Table("chosen", np.random.default_rng(0).random((24, 24)) < 0.3)
WINDOW = Mask(lambda b, h, q, kv: both(q >= kv, q - kv < 128))
DOCUMENTS = Mask(lambda b, h, q, kv: both(DOC[q] == DOC[kv], q >= kv), {}, (DOC,))


def test_a_closed_form_in_words() -> None:
    text = make_plan(WINDOW.program(), 512, 512).explain()
    assert "closed form: for each q the allowed kv are one interval" in text
    assert "max(0, q - 127) <= kv < q + 1" in text
    assert "q >= kv: 37.5% empty, 25.0% partial, 37.5% full" in text
    assert "57408 pairs (21.90%)" in text and "density: 43.75%" in text
    assert "bytes that a kernel reads: 0" in text and "every query row has a key" in text


def test_a_transposed_plan_in_words() -> None:
    text = make_plan(WINDOW.program(), 512, 512).transposed().explain()
    assert "for each kv the allowed q are one interval" in text
    assert "kv <= q < kv + 128" in text


def test_a_union_of_intervals_in_words() -> None:
    sinks = Mask(lambda b, h, q, kv: both(q >= kv, either(kv < 4, q - kv < 128)))
    text = make_plan(sinks.program(), 512, 512).explain()
    assert "a union of 2 intervals" in text and "kv < min(q + 1, 4)" in text


def test_a_table_points_at_what_stands_in_the_way() -> None:
    program = DOCUMENTS.program()
    load = program.expr.args[0].args[0]
    span = Span("mods.py", 7, 11, 17, text="    return doc[q] == doc[kv] and q >= kv")
    marked = Program(Kind.MASK, "documents", program.expr, program.values, {load: span})
    text = make_plan(marked, 512, 512).explain()
    assert "no closed form: doc[q] is read at q" in text.replace("kv", "q")
    assert "mods.py:7:12" in text and "^^^^^^" in text
    assert "to change: doc never decreases" in text and "is a closed form" in text
    assert "min(doc_first[q], q) <= kv and kv < max(doc_stop[q], q + 1) in place of" in text


MADE = {
    "repeats along the diagonal": lambda b, h, q, kv: both(q >= kv, (q // 32 - kv // 32) % 3 == 0),
    "the parts that `or` joins": lambda b, h, q, kv: either(DOC[q] == 3, DOC[kv] == DOC[q]),
    "joining the runs of equal values": lambda b, h, q, kv: DOC[q] == DOC[kv],
    "no captured value changes": lambda b, h, q, kv: both(
        kv >= 600 * DOC[q], kv < 600 * DOC[q] + 9
    ),
    "one look at each block": lambda b, h, q, kv: CHOSEN[q // 64, kv // 64],
    "subdivision of the tile grid": lambda b, h, q, kv: both(DOC[q] <= DOC[kv], q >= kv),
}


@pytest.mark.parametrize("words", MADE)
def test_a_table_says_how_it_was_made(words: str) -> None:
    plan = make_plan(Mask(MADE[words], {}, (DOC, CHOSEN)).program(), 1536, 1536)
    tables = [made for made in (plan, plan.transposed()) if made.kind == "table"]
    assert tables[0] is plan
    for made in tables:
        (line,) = (n for n in made.explain().splitlines() if n.startswith("table of runs, made "))
        assert words in line


def test_what_no_form_tells_is_judged_on_boxes() -> None:
    mask = Mask(MADE["subdivision of the tile grid"], {}, (DOC,))
    text = make_plan(mask.program(), 512, 512).explain()
    assert "judged on boxes by the ranges of q, kv and the elements of doc" in text


def test_every_condition_says_where_it_is_and_how_it_was_decided() -> None:
    program = DOCUMENTS.program()
    spans = {
        part: Span("mods.py", 7, 11 + 20 * i, 17 + 20 * i, text="...")
        for i, part in enumerate(program.expr.args)
    }
    marked = Program(Kind.MASK, "documents", program.expr, program.values, spans)
    lines = make_plan(marked, 512, 512).explain().splitlines()
    shares = lines.index("  doc[q] == doc[kv]: 37.5% empty, 62.5% partial, 0.0% full")
    how = "    mods.py:7:12: a table, made by joining the runs of equal values of both axes"
    assert lines[shares + 1].startswith(how)
    after = lines[lines.index("  q >= kv: 37.5% empty, 25.0% partial, 37.5% full") + 1]
    assert after == "    mods.py:7:32: solved for kv: kv < q + 1"


def test_a_condition_that_reads_past_its_tensor_alone() -> None:
    """Under the other condition it does not, so the whole mask is fine."""
    short = Table("short", np.arange(100))
    mask = Mask(lambda b, h, q, kv: both(kv < 100, short[kv] > 7), {}, (short,))
    assert "short[kv] > 7: " in make_plan(mask.program(), 512, 512).explain()


def test_a_plan_of_a_device_says_what_it_is() -> None:
    text = make_plan(DOCUMENTS.program(), 512, 512, device="cuda:3").explain()
    assert "table made on cuda:3, by a kernel that reckons with the ranges of q, kv and doc" in text
    assert "found on the host, from a copy" in text and "to change" not in text
    assert "no closed form: doc[q] is read at q" in text.replace("kv", "q")


def row_major(width: int, rows: int, columns: int) -> Mask:
    return Mask(
        lambda b, h, q, kv: both(
            abs(q // width - kv // width) <= rows, abs(q % width - kv % width) <= columns
        )
    )


@pytest.mark.parametrize(
    ("width", "reach", "tile", "patch"), [(64, (2, 3), 16, (4, 4)), (64, (20, 6), 128, (8, 16))]
)
def test_advice_on_the_order_of_tokens(
    width: int, reach: tuple[int, int], tile: int, patch: tuple[int, int]
) -> None:
    """The figures are those of the mask whose tokens were moved, by brute force."""
    length = 32 * width
    plan = make_plan(row_major(width, *reach).program(), length, length, tile=(tile, tile))
    y, x = np.divmod(np.arange(length), width)
    # All tokens of a patch before those of the next one, patches row by row.
    order = np.lexsort((x, y, x // patch[1], y // patch[0]))
    y, x = y[order], x[order]
    near = abs(y[:, None] - y) <= reach[0]
    near &= abs(x[:, None] - x) <= reach[1]
    cut = near.reshape(length // tile, tile, length // tile, tile)
    live, full = int(cut.any((1, 3)).sum()), int(cut.all((1, 3)).sum())
    where = "pieces of" if width >= tile else "straddle rows of 64"
    text = plan.explain()
    assert f"row-major 2-D window: tiles of {tile} tokens" in text and where in text
    assert f"patches of {patch[0]} x {patch[1]}, one patch after the other, {live} tiles" in text
    shape = (length // width, width)
    assert f"stdlib.TileOrder({shape}, {patch}) orders tokens so" in text
    named = stdlib.TileOrder(shape, patch)
    mask = from_program(row_major(width, *reach).program()).in_order(named)
    ordered = fx.plan(mask, length, length, tile=(tile, tile))
    assert (ordered.live_tiles, ordered.full_tiles) == (live, full)
    assert f"(now {plan.live_tiles}), {full / live:.0%} of them full" in text


ORDERS = {
    "window": (stdlib.dilated_window(256, 2), "remainders by 2: "),
    "strided": (stdlib.strided(32), "remainders by 32: "),
    "frames": (stdlib.timesformer_spatial(8), "remainders by 8: "),
    "grid": (stdlib.grid_2d((32, 32), (4, 8)), "remainders by 8 x 4: "),
    "rows of a grid": (
        fx.mask_mod(lambda b, h, q, kv: (q // 32 - kv // 32) % 4 == 0 and q % 32 >= kv % 32),
        "remainders by 4 x 1: ",
    ),
    "neighborhood": (stdlib.neighborhood((32, 32), 5, dilation=2), "remainders by 2 x 2: "),
    "columns": (stdlib.neighborhood((32, 32), 5, dilation=(1, 4)), "remainders by 1 x 4: "),
    "video": (stdlib.neighborhood((2, 8, 64), (2, 5, 5)), "row-major 3-D window: tiles of 16"),
    "dilated video": (
        stdlib.neighborhood((4, 8, 32), (2, 3, 3), dilation=(2, 2, 2)),
        "remainders by 2 x 2 x 2: ",
    ),
}


@pytest.mark.parametrize("name", ORDERS)
def test_advice_on_an_order_has_the_figures_of_that_order(name: str) -> None:
    mask, begins = ORDERS[name]
    plan = fx.plan(mask, 1024, 1024, tile=(16, 16))
    text = plan.explain()
    assert f"to change: {begins}" in text
    named = re.search(r"stdlib\.TileOrder\((.*?)\) orders tokens so", text)
    assert named is not None
    order = eval(f"TileOrder({named[1]})", {"TileOrder": stdlib.TileOrder})
    other = fx.plan(mask.in_order(order), 1024, 1024, tile=(16, 16))
    assert other.pairs == plan.pairs and other.live_tiles < plan.live_tiles
    assert f"{other.live_tiles} tiles are live (now {plan.live_tiles})" in text
    assert f"{other.full_tiles / other.live_tiles:.0%} of them full (now " in text


@pytest.mark.parametrize(
    ("mask", "length"),
    [
        (stdlib.dilated_window(64, 3), 1024),  # classes of other lengths
        (stdlib.dilated_window(64, 2), 1032),  # no whole tiles
        (stdlib.causal() & fx.mask_mod(lambda b, h, q, kv: (q + kv) % 2 == 0), 16),  # one tile
    ],
)
def test_no_advice_on_classes_that_are_no_better(mask: fx.Mod, length: int) -> None:
    plan = fx.plan(mask, length, length, tile=(16, 16))
    assert "remainders by" not in plan.explain()


@pytest.mark.parametrize(
    "mask",
    [
        row_major(7, 1, 1),  # no patch of whole tiles
        Mask(lambda b, h, q, kv: both(abs(q // 64 - kv // 64) <= 1, (q + kv) % 64 != 3)),
        Mask(lambda b, h, q, kv: both(q % 64 == kv % 64, q // 32 == kv // 32)),
    ],
)
def test_no_advice_on_the_order_of_what_is_no_window(mask: Mask) -> None:
    assert "row-major" not in make_plan(mask.program(), 1792, 1792, tile=(16, 16)).explain()


def test_empty_rows_and_heads_in_words() -> None:
    mask = Mask(lambda b, h, q, kv: q - kv >= 10 + h)
    text = make_plan(mask.program(), 64, 64, heads=2, tile=(16, 16)).explain()
    assert "some query rows have no key" in text and "depends on h" in text


def test_no_pair_in_words() -> None:
    assert "no pair is allowed" in make_plan(Mask(lambda *p: False).program(), 64, 64).explain()


def test_a_drawing() -> None:
    lines = str(make_plan(WINDOW.program(), 512, 512)).splitlines()
    assert lines[:4] == ["▒···", "▒▒··", "·▒▒·", "··▒▒"]
    assert lines[4].startswith("4 x 4 tiles of 128 x 128")
    assert str(make_plan(None, 200, 300)).splitlines()[:2] == ["███", "███"]


def test_a_long_drawing_is_sampled() -> None:
    plan = make_plan(Mask(lambda b, h, q, kv: q >= kv).program(), 20000, 30000)
    *rows, note = str(plan).splitlines()
    assert len(rows) == 64 and {len(r) for r in rows} == {64}
    assert rows[0] == "▒" + "·" * 63 and rows[-1].startswith("█" * 40)
    assert "several tiles" in note
    drawn = np.array([[c != "·" for c in row] for row in rows])
    assert abs(drawn.mean() - plan.density) < 0.03


def test_a_drawing_of_one_head_says_so() -> None:
    plan = make_plan(Mask(lambda b, h, q, kv: q >= kv + h).program(), 256, 256, heads=2)
    assert str(plan).endswith("batch 0, head 0")


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_picture(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"plan.{ending}"
    make_plan(DOCUMENTS.program(), 512, 512).plot(path)
    assert path.stat().st_size > 1000


def test_a_picture_of_another_format(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"\.png or \.svg"):
        make_plan(None, 5, 5).plot(tmp_path / "plan.gif")


def test_a_picture_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ArgumentError, match=r"flexdsl\[plot\]"):
        make_plan(None, 5, 5).plot(tmp_path / "plan.png")
