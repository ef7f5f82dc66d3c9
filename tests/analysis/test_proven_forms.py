"""Closed forms of kernels built ahead of time: right for every value that they are proven for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flexdsl as fx
from flexdsl.analysis.typical import Proven, proven_form, typical_closed_form
from flexdsl.ir import Program, evaluate

LENGTH = 40
MASKS = {
    "window": fx.parse("mask w(window: int = 9) = q >= kv and q - kv < window"),
    "sinks": fx.stdlib.attention_sink(4, keys_including_self=8),
    "prefix": fx.stdlib.prefix_lm(7),
    "both sides": fx.parse(
        "mask m(left: int = 3, right: int = 5) = q - kv <= left and kv - q <= right"
    ),
    "each head": fx.parse("mask m(keys: int = 3) = q >= kv and q - kv < keys * (h + 1)"),
    "blocks": fx.parse("mask m(back: int = 1) = q // 8 >= kv // 8 and q // 8 - kv // 8 <= back"),
    "shifted": fx.parse("mask m(shift: int = 0) = kv < q + shift"),
    "from here": fx.parse("mask m(start: int = 3) = kv >= start and q >= kv"),
}
FORMS = [
    (name, inner, form)
    for name, mask in MASKS.items()
    for inner in ("kv", "q")
    if (form := proven_form(mask.program, inner)) is not None
]


def test_ranges() -> None:
    ranges = {name: form.ranges for name, inner, form in FORMS if inner == "kv"}
    assert ranges["window"] == {"window": (1, 2**30)}
    assert ranges["each head"] == {"keys": (1, 2**20)}
    assert ranges["prefix"]["prefix"][1] == 2**30
    assert len(ranges) >= 6


@pytest.mark.parametrize("name", MASKS)
def test_the_form_is_that_of_the_value_now(name: str) -> None:
    for inner in ("kv", "q"):
        form = proven_form(MASKS[name].program, inner)
        assert (None if form is None else form.form) == typical_closed_form(
            MASKS[name].program, inner
        )


def values_of(form: Proven) -> st.SearchStrategy[dict[str, int]]:
    """Values in the ranges, mostly those that matter for short sequences."""

    def near(low: int, high: int) -> st.SearchStrategy[int]:
        small = st.integers(max(low, -LENGTH), min(high, 2 * LENGTH))
        return small | st.sampled_from([low, high]) | st.integers(low, high)

    return st.fixed_dictionaries({n: near(*limits) for n, limits in form.ranges.items()})


def at(expr: object, values: dict[str, int], **variables: np.ndarray) -> np.ndarray:
    names = expr.variables  # type: ignore[attr-defined]
    known = {n: v for n, v in variables.items() if n in names}
    found = evaluate(expr, known, values)  # type: ignore[arg-type]
    return np.broadcast_to(found, np.broadcast_shapes(*(v.shape for v in variables.values())))


@pytest.mark.parametrize(("name", "inner", "form"), FORMS, ids=lambda x: str(x)[:12])
@given(data=st.data())
def test_forms_are_right_for_every_value_in_their_ranges(
    name: str, inner: str, form: Proven, data: st.DataObject
) -> None:
    values = data.draw(values_of(form))
    head = np.array(data.draw(st.integers(0, form.heads - 1)))
    outer = "q" if inner == "kv" else "kv"
    allowed = brute_force(MASKS[name].program, values, head, outer)
    position, inside = np.arange(LENGTH)[:, None], np.arange(LENGTH)[None, :]
    found = np.zeros((LENGTH, LENGTH), bool)
    for interval in form.form.intervals:
        ends = {outer: position, "h": head}
        lower, upper = (at(e, values, **ends) for e in (interval.lower, interval.upper))
        found |= (inside >= lower) & (inside < upper)
    assert np.array_equal(found, allowed)
    check_tiles(form, values, head, outer, allowed, data.draw(st.integers(1, 16)))


def brute_force(
    program: Program, values: dict[str, int], head: np.ndarray, outer: str
) -> np.ndarray:
    """The mask at every pair, [outer, inner]."""
    q, kv = np.arange(LENGTH)[:, None], np.arange(LENGTH)[None, :]
    allowed = at(program.expr, values, q=q, kv=kv, h=head)
    return allowed if outer == "q" else allowed.T


def check_tiles(
    form: Proven,
    values: dict[str, int],
    head: np.ndarray,
    outer: str,
    allowed: np.ndarray,
    height: int,
) -> None:
    """Tiles leave out no allowed pair, and full ones have no other."""
    for first in range(0, LENGTH, height):
        last = min(first + height, LENGTH) - 1
        rows = allowed[first : last + 1]
        live = np.zeros(LENGTH, bool)
        for interval in form.form.intervals:
            ends = {f"{outer}_first": np.array(first), f"{outer}_last": np.array(last), "h": head}
            live_lower, full_lower, full_upper, live_upper = (
                int(at(e, values, **ends))
                for e in (
                    *(interval.live_lower, interval.full_lower),
                    *(interval.full_upper, interval.live_upper),
                )
            )
            live[max(live_lower, 0) : max(live_upper, 0)] = True
            assert rows[:, max(full_lower, 0) : max(full_upper, 0)].all()
        assert not (rows.any(0) & ~live).any()
