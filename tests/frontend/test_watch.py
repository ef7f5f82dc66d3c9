"""A program is traced again after any change that its function can see, and only then."""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import flexdsl as fx
from flexdsl.ir import evaluate

WINDOW = 5
LIMITS = [5]
REACH = [4]
SETTINGS = types.SimpleNamespace(window=5)


def by_global(b, h, q, kv):
    return q - kv < WINDOW


def helper(q, kv):
    return q - kv < WINDOW


def closure() -> tuple[Callable[..., Any], Callable[[int], None]]:
    window = 5

    def change(value):
        nonlocal window
        window = value

    return lambda b, h, q, kv: q - kv < window, change


class Windowed:
    kind = 5

    def __init__(self):
        self.window = 5

    def mask(self, b, h, q, kv):
        return q - kv < self.window

    def by_class(self, b, h, q, kv):
        return q - kv < self.kind

    def by_method(self, b, h, q, kv):
        return self.mask(b, h, q, kv)

    __call__ = mask


class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("ids", torch.arange(9) // 4)

    def forward(self, b, h, q, kv):
        return self.ids[q] == self.ids[kv]


TABLE = torch.arange(9)
FUNCTIONS = {
    "closure": closure()[0],
    "global": by_global,
    "helper": lambda b, h, q, kv: helper(q, kv),
    "default": lambda b, h, q, kv, window=5: q - kv < window,
    "keyword": lambda b, h, q, kv, *, window=5: q - kv < window,
    "partial": functools.partial(lambda b, h, q, kv, window: q - kv < window, window=5),
    "method": Windowed().mask,
    "callable": Windowed(),
    "layer": Layer().forward,
    "tensor": lambda b, h, q, kv: TABLE[q] == TABLE[kv],
    "torch": lambda b, h, q, kv: torch.where(q < 3, True, q >= kv),
    "inlined": lambda b, h, q, kv: CAUSAL(b, h, q, kv) or kv < 3,
    "library": fx.stdlib.sliding_window(5) & ~fx.stdlib.document([0, 0, 1]),
}
CAUSAL = fx.mask_mod(lambda b, h, q, kv: q >= kv)


def as_mask(function: Any) -> fx.Mod:
    return function if isinstance(function, fx.Mod) else fx.mask_mod(function)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_without_a_change_the_program_is_the_same_object(name):
    mod = as_mask(FUNCTIONS[name])
    assert mod.program is mod.program
    both = mod & CAUSAL
    assert both.program is both.program


def answer(mod: fx.Mod, pair: tuple[int, int]) -> bool:
    """What the mod's program says, with the values that it has now."""
    variables = dict(zip(("b", "h", "q", "kv"), (0, 0, *pair), strict=True))
    return bool(evaluate(mod.program.expr, variables, mod.program.values))


def expect_change(function: Any, change: Callable[[], Any], pair: tuple[int, int] = (6, 0)) -> None:
    """The program forbids a pair before `change` and allows it after, alone and combined."""
    mod = fx.mask_mod(function)
    masks = [mod, mod & fx.parse("q >= 0")]
    assert not any(answer(mask, pair) for mask in masks)
    change()
    assert all(answer(mask, pair) for mask in masks)


def test_a_closure():
    function, change = closure()
    expect_change(function, lambda: change(7))


def test_globals(monkeypatch):
    expect_change(by_global, lambda: monkeypatch.setitem(globals(), "WINDOW", 7))
    monkeypatch.undo()
    through = FUNCTIONS["helper"]
    expect_change(through, lambda: monkeypatch.setitem(globals(), "WINDOW", 7))
    monkeypatch.undo()
    another = lambda q, kv: q - kv < 7  # noqa: E731
    expect_change(through, lambda: monkeypatch.setitem(globals(), "helper", another))


def test_a_global_that_hides_a_builtin(monkeypatch):
    nothing = lambda x: 0  # noqa: E731
    expect_change(
        lambda b, h, q, kv: abs(q - kv) < 5,
        lambda: monkeypatch.setitem(globals(), "abs", nothing),
    )


def test_defaults_and_code():
    def function(b, h, q, kv, window=5):
        return q - kv < window

    def change():
        function.__defaults__ = (7,)

    expect_change(function, change)

    def other(b, h, q, kv):
        return q - kv < 5

    def change_code():
        other.__code__ = (lambda b, h, q, kv: q - kv < 7).__code__

    expect_change(other, change_code)


def test_keyword_defaults_and_partials():
    def function(b, h, q, kv, *, window=5):
        return q - kv < window

    expect_change(function, lambda: function.__kwdefaults__.update(window=7))
    bound = functools.partial(lambda b, h, q, kv, window: q - kv < window, window=5)
    expect_change(bound, lambda: bound.keywords.update(window=7))


@pytest.mark.parametrize("read", ["mask", "by_method", "__call__"])
def test_an_attribute(read):
    holder = Windowed()
    function = holder if read == "__call__" else getattr(holder, read)
    expect_change(function, lambda: setattr(holder, "window", 7))


def test_an_attribute_of_the_class(monkeypatch):
    expect_change(Windowed().by_class, lambda: monkeypatch.setattr(Windowed, "kind", 7))
    monkeypatch.undo()
    holder = Windowed()
    expect_change(holder.by_class, lambda: setattr(holder, "kind", 7))


def test_a_buffer_of_a_layer():
    layer = Layer()
    expect_change(layer.forward, lambda: setattr(layer, "ids", torch.zeros(9, dtype=torch.int64)))


def test_a_mod_inside_of_a_mod():
    function, change = closure()
    inner = fx.mask_mod(function)
    expect_change(lambda b, h, q, kv: inner(b, h, q, kv) and q >= kv, lambda: change(7))


@pytest.mark.parametrize(
    ("function", "change"),
    [
        (lambda b, h, q, kv: q - kv < LIMITS[0], lambda: LIMITS.__setitem__(0, 7)),
        (lambda b, h, q, kv: q - kv < SETTINGS.window, lambda: setattr(SETTINGS, "window", 7)),
    ],
    ids=["list", "object"],
)
def test_what_changes_unseen_is_read_each_time(function, change):
    expect_change(function, change)


@dataclasses.dataclass(frozen=True)
class Near:
    """The user's own, whose methods may read what changes."""

    width: int

    def __call__(self, q, kv):
        return abs(q - kv) < self.width + REACH[0]


def test_frozen_objects():
    """A grid of the library never changes; how an object of the user's computes may."""
    coordinates = fx.stdlib.grid((3, 3))
    same_row = fx.mask_mod(lambda b, h, q, kv: coordinates(q)[0] == coordinates(kv)[0])
    assert same_row.program is same_row.program
    near = Near(1)
    expect_change(lambda b, h, q, kv: near(q, kv), lambda: REACH.__setitem__(0, 7))


def test_elements_read_while_tracing():
    number = torch.tensor(5)
    expect_change(lambda b, h, q, kv: q - kv < number.item(), lambda: number.fill_(7))
    wide = torch.tensor(False)
    expect_change(lambda b, h, q, kv: q - kv < (7 if wide else 5), lambda: wide.fill_(True))


def test_another_array():
    ids = np.arange(9)

    def change():
        nonlocal ids
        ids = np.zeros(9, np.int64)

    expect_change(lambda b, h, q, kv: ids[q] == ids[kv], change)
