"""Hypothesis strategies: calls of attention, captured tensors, random masks and scores.

    from hypothesis import given
    from flexdsl.testing import check, strategies

    @given(strategies.masks(), strategies.cases())
    def test_any_mask(mask, case):
        check(mask, case)

A drawn mod is text that is also Python: its expression is what flexdsl parses, and calling it lets
Python itself compute, so that each is the other's oracle. Nothing is checked here.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from flexdsl.ir import Kind
from flexdsl.mod import Mod
from flexdsl.testing.case import Case
from flexdsl.testing.limits import Limits
from flexdsl.testing.reproduce import parse_with

__all__ = ["captures", "cases", "dtypes", "masks", "scores", "shapes", "tile_shapes"]

Shape = tuple[int, int, int, int]
Shapes = tuple[Shape, Shape, Shape]

LENGTH = 48  # rows and keys of drawn cases, unless limits say otherwise
LIMITS = Limits(batch=3, heads=6, q_positions=72, kv_len=LENGTH)
PAIRS = 4096  # of a case at most, where one batch and head has no more
_DIMS = (16, 2, 8, 24, 40)
_PYTHON = {n: getattr(builtins, n) for n in ("min", "max", "abs", "float", "int")}
_PYTHON |= {n: getattr(math, n) for n in ("tanh", "exp", "sin", "cos", "sqrt", "inf")}


def dtypes(names: Sequence[str] = ("float32", "float16", "bfloat16")) -> st.SearchStrategy[str]:
    """Names of element types; it shrinks to the first."""
    return st.sampled_from(tuple(names))


def tile_shapes(longest: int = LENGTH) -> st.SearchStrategy[tuple[int, int]]:
    """Rows and columns of a tile: any, mostly smaller than `longest`, as well as powers of two."""
    side = st.integers(1, 12) | st.sampled_from([16, 32, 64]) | st.integers(1, longest)
    return st.tuples(side, side)


@st.composite
def shapes(
    draw: st.DrawFn,
    limits: Limits = LIMITS,
    *,
    q_len: int | None = None,
    kv_len: int | None = None,
    heads: int | None = None,
    dims: Sequence[int] = _DIMS,
    equal_dims: bool = False,
) -> Shapes:
    """Shapes of q [B, Hq, Lq, D], k [B, Hkv, Lkv, D] and v [B, Hkv, Lkv, Dv] within `limits`.

    Args:
        q_len, kv_len, heads: draw exactly these; they are within the limits.
        dims: head dimensions.
        equal_dims: only Dv that is D.
    """
    rows = q_len or draw(st.integers(1, min(max(LENGTH, limits.kv_len), limits.q_positions)))
    keys = kv_len or draw(st.integers(1, limits.kv_len))
    planes = max(1, PAIRS // (rows * keys))
    count = heads or draw(st.integers(1, max(1, min(limits.heads, planes))))
    group = draw(st.sampled_from([n for n in range(1, count + 1) if count % n == 0]))
    batch = draw(st.integers(1, max(1, min(limits.batch, planes // count))))
    dim = draw(st.sampled_from(tuple(dims)))
    v_dim = dim if equal_dims or draw(st.booleans()) else draw(st.sampled_from(tuple(dims)))
    of_keys = batch, count // group, keys
    return (batch, count, rows, dim), (*of_keys, dim), (*of_keys, v_dim)


@st.composite
def cases(
    draw: st.DrawFn,
    limits: Limits = LIMITS,
    *,
    q_len: int | None = None,
    kv_len: int | None = None,
    heads: int | None = None,
    dtypes: Sequence[str] = ("float32", "float16", "bfloat16"),
    dims: Sequence[int] = _DIMS,
    equal_dims: bool = False,
    exact: bool = False,
    contents: Sequence[str] = ("own",),
    parameters: Mapping[str, int | float] | None = None,
) -> Case:
    """Calls of attention within `limits`.

    Args:
        q_len, kv_len, heads, dims, equal_dims: as of `shapes`.
        dtypes: names of element types.
        exact: only scales that keep a score exact, which are powers of two.
        contents: what captured tensors may hold, as `Case.contents`.
        parameters: captured numbers by name, to draw others of.
    """
    sizes = {"q_len": q_len, "kv_len": kv_len, "heads": heads}
    q, k, v = draw(shapes(limits, **sizes, dims=dims, equal_dims=equal_dims))
    scales = [0.25, 0.5, 1.0] if exact else [None, 0.25, 1.0]
    return Case(
        q_len=q[2],
        kv_len=k[2],
        batch=q[0],
        heads=q[1],
        kv_heads=k[1],
        dim=q[3],
        v_dim=v[3],
        q_offset=draw(st.integers(0, limits.q_positions - q[2])),
        tile=draw(tile_shapes(max(q[2], k[2]))),
        dtype=draw(st.sampled_from(tuple(dtypes))),
        scale=draw(st.sampled_from(scales)),
        strided=draw(st.booleans()),
        padding=draw(st.integers(1, 20)),
        seed=draw(st.integers(0, 9)),
        contents=draw(st.sampled_from(tuple(contents))),
        parameters=draw(_other_numbers(parameters or {})),
    )


@st.composite
def _other_numbers(
    draw: st.DrawFn, own: Mapping[str, int | float]
) -> tuple[tuple[str, int | float], ...]:
    """Nothing, or numbers for all of these: whole ones of the same sign, floats of like size."""
    if not own or not draw(st.booleans()):
        return ()
    return tuple((name, draw(_number_like(value))) for name, value in own.items())


def _number_like(value: int | float) -> st.SearchStrategy[int | float]:
    if isinstance(value, float):
        # Zero and the other sign may be outside of what a formula means.
        return st.sampled_from([1.0, 0.5, 0.75, 1.5, 2.0]).map(lambda factor: factor * value)
    least, most = min(max(value, 0), 1), LENGTH
    return st.integers(-most if value < 0 else least, most)


@st.composite
def captures(
    draw: st.DrawFn, dtype: torch.dtype, shape: tuple[int, ...], values: int = 6
) -> Tensor:
    """Contents of a captured tensor.

    Integers in [0, values): sorted along the last dimension, as documents are, in any order, or
    constant. Bools: any. Floats: multiples of 1/8 in [-1, 1], which every float dtype holds.
    """
    count = math.prod(shape)
    element = st.integers(-8, 8) if dtype.is_floating_point else st.integers(0, values - 1)
    drawn = draw(st.lists(element, min_size=count, max_size=count))
    tensor = torch.tensor(drawn, dtype=torch.int64).reshape(shape)
    if dtype.is_floating_point:
        return (tensor / 8).to(dtype)
    if dtype is torch.bool:
        return tensor % 2 == 0
    kind = draw(st.sampled_from(["sorted", "any", "constant"]))
    if kind == "sorted" and shape:
        tensor = tensor.sort(-1).values
    elif kind == "constant" and count:
        tensor = tensor.flatten()[:1].expand(count).reshape(shape).clone()
    return tensor.to(dtype)


@st.composite
def masks(draw: st.DrawFn, limits: Limits = LIMITS, depth: int = 2) -> Mod:
    """Random masks, with captured tensors that are long enough for `limits`.

    All operations on integers, comparisons, `and`, `or`, `not`, choices; loads at positions, at
    the head, and at computed indices that are cut to the tensor.
    """
    tables = draw(_tables(limits))
    return _mod("mask", draw(_conditions(depth, _integers(depth, tables))), tables)


@st.composite
def scores(draw: st.DrawFn, limits: Limits = LIMITS, depth: int = 2) -> Mod:
    """Random score modifications: products, sums, tanh, biases by distance, slopes of heads."""
    tables = draw(_tables(limits))
    integers = _integers(1, tables)
    return _mod("score", draw(_floats(depth, integers)), tables)


def _tables(limits: Limits) -> st.SearchStrategy[dict[str, Tensor]]:
    length = max(limits.q_positions, limits.kv_len)
    return st.fixed_dictionaries(
        {
            "document": captures(torch.int64, (length,)),
            "window": captures(torch.int32, (limits.heads,), values=20),
            "slope": captures(torch.float32, (limits.heads,)),
        }
    )


def _mod(kind: str, text: str, tables: dict[str, Tensor]) -> Mod:
    """The mod of an expression: parsed for flexdsl, compiled by Python for calls."""
    names = {"int64": "i64", "int32": "i32", "float32": "f32"}
    used = {n: t for n, t in tables.items() if f"{n}[" in text}
    declared = ", ".join(
        f"{n}: {names[str(t.dtype).removeprefix('torch.')]}[{len(t)}]" for n, t in used.items()
    )
    program = parse_with(f"{kind} drawn({declared}) = {text}", **used).program
    arguments = "b, h, q, kv" if kind == "mask" else "score, b, h, q, kv"
    lists: dict[str, Any] = {n: t.tolist() for n, t in used.items()}
    call: Callable[..., Any] = eval(f"lambda {arguments}: {text}", {**_PYTHON, **lists})
    return Mod(Kind(kind), "drawn", lambda: program, call)


def _integers(depth: int, tables: dict[str, Tensor]) -> st.SearchStrategy[str]:
    plain = st.sampled_from(["q", "kv", "q - kv", "h", "b", "document[q]", "document[kv]"])
    leaves = plain | st.just("window[h]") | st.integers(-6, 20).map(lambda n: f"({n})")
    if depth == 0:
        return leaves
    below = _integers(depth - 1, tables)
    last = len(tables["document"]) - 1
    pairs = st.tuples(st.sampled_from("+-^&|"), below, below)
    quotients = st.tuples(st.sampled_from(["//", "%", "*"]), below, st.integers(1, 17))
    return st.one_of(
        leaves,
        pairs.map(lambda p: f"(({p[1]}) {p[0]} ({p[2]}))"),
        quotients.map(lambda p: f"(({p[1]}) {p[0]} {p[2]})"),
        st.tuples(st.sampled_from(["min", "max"]), below, below).map(
            lambda p: f"{p[0]}({p[1]}, {p[2]})"
        ),
        below.map(lambda x: f"abs({x})"),
        below.map(lambda x: f"document[max(0, min({last}, {x}))]"),
    )


def _conditions(depth: int, integers: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    signs = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
    leaves = st.tuples(integers, signs, integers).map(lambda p: f"({p[0]}) {p[1]} ({p[2]})")
    usual = st.sampled_from(
        ["q >= kv", "q - kv < window[h]", "document[q] == document[kv]", "abs(q - kv) <= 5"]
    )
    if depth == 0:
        return leaves | usual
    below = _conditions(depth - 1, integers)
    return st.one_of(
        usual,
        leaves,
        st.tuples(below, st.sampled_from(["and", "or"]), below).map(
            lambda p: f"(({p[0]}) {p[1]} ({p[2]}))"
        ),
        below.map(lambda x: f"(not ({x}))"),
        st.tuples(below, below, below).map(lambda p: f"(({p[1]}) if ({p[0]}) else ({p[2]}))"),
    )


def _floats(depth: int, integers: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    usual = st.sampled_from(
        ["score", "(score + slope[h] * (kv - q))", "(2.0 * tanh(score / 2.0))", "(0.5 * score)"]
    )
    if depth == 0:
        return usual
    below = _floats(depth - 1, integers)
    return st.one_of(
        usual,
        st.tuples(below, st.sampled_from("+-*"), below).map(lambda p: f"({p[0]} {p[1]} {p[2]})"),
        st.tuples(st.sampled_from(["tanh", "sin", "cos"]), below).map(lambda p: f"{p[0]}({p[1]})"),
        st.tuples(below, integers).map(lambda p: f"({p[0]} + 0.125 * ({p[1]}))"),
        st.tuples(_conditions(0, integers), below, below).map(
            lambda p: f"({p[1]} if {p[0]} else {p[2]})"
        ),
    )
