"""Mods of the library are traced once: nothing in them is of a kind that changes unseen."""

from __future__ import annotations

import pytest

import flexdsl as fx
from flexdsl import stdlib
from tests.stdlib.samples import MASKS, SCORES


@pytest.mark.parametrize("name", [*MASKS, *SCORES])
def test_a_mod_is_traced_once(name: str) -> None:
    sample = {**MASKS, **SCORES}[name]
    mod = sample.make(*sample.tensors())
    assert mod.program is mod.program


def test_a_mod_in_tiles_is_traced_once() -> None:
    order = stdlib.TileOrder((12, 10), (4, 4), extra=3)
    mod = stdlib.neighborhood((12, 10), 5).in_order(order)
    assert mod.program is mod.program
    coordinates = stdlib.grid((12, 10))
    mine = fx.mask_mod(lambda b, h, q, kv: coordinates(q)[0] == coordinates(kv)[0])
    assert mine.program is mine.program
