"""Packed documents: by ids, by offsets, of each batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import flexdsl as fx
from flexdsl import stdlib
from flexdsl.ir import Op, walk
from flexdsl.stdlib.tables.document_ends import _of_tensor

DOC = [0, 0, 0, 1, 1, 2, 2, 2, 2, 3]
OFFSETS = [0, 3, 5, 9, 10]


def allowed(mask: fx.Mod, rows: int, keys: int, batch: int = 0) -> list[list[int]]:
    return [[kv for kv in range(keys) if mask(batch, 0, q, kv)] for q in range(rows)]


def test_documents_by_offsets_are_documents_by_ids():
    for variant in (stdlib.document, stdlib.document_causal):
        assert allowed(variant(offsets=OFFSETS), 10, 10) == allowed(variant(DOC), 10, 10)
    # An empty document between two others.
    assert allowed(stdlib.document(offsets=[0, 1, 1, 2]), 2, 2) == [[0], [1]]


def test_offsets_are_loaded_by_rows_alone():
    for mask, loads in (
        (stdlib.document(offsets=OFFSETS), {"first[q]", "stop[q]"}),
        (stdlib.document_causal(offsets=OFFSETS), {"first[q]"}),
        (stdlib.document(offsets=OFFSETS, within=stdlib.prefix_lm(2)), {"first[q]", "stop[q]"}),
    ):
        assert {repr(n) for n in walk(mask.expr) if n.op is Op.LOAD} == loads


def test_a_mask_inside_of_documents_by_offsets():
    for within in (stdlib.causal(), stdlib.prefix_lm(2), stdlib.sliding_window(2)):
        found = stdlib.document(offsets=OFFSETS, within=within)
        assert allowed(found, 10, 10) == allowed(stdlib.document(DOC, within=within), 10, 10)


@pytest.mark.parametrize(
    "make", [list, np.array, torch.tensor, lambda x: torch.tensor(x, dtype=torch.int32)]
)
def test_ends_of_documents(make):
    for offsets, length, first, stop in (
        (OFFSETS, None, [0, 0, 0, 3, 3, 5, 5, 5, 5, 9], [3, 3, 3, 5, 5, 9, 9, 9, 9, 10]),
        ([0, 1, 1, 2], 2, [0, 1], [1, 2]),
        ([0, 2], 4, [0, 0, 2, 2], [2, 2, 4, 4]),  # two positions of padding
        ([0, 0], 3, [0, 0, 0], [3, 3, 3]),
    ):
        given = make(offsets)
        ends = stdlib.document_ends(given, length=length)
        assert [x.tolist() for x in ends] == [first, stop]
        assert {str(x.dtype).removeprefix("torch.") for x in ends} == {"int32"}
        assert all(isinstance(x, torch.Tensor) == isinstance(given, torch.Tensor) for x in ends)


def test_offsets_on_a_device_are_not_read_where_the_length_is_given():
    """A tensor without elements: whoever reads one raises."""
    for mask in (stdlib.document, stdlib.document_causal):
        made = mask(offsets=torch.empty(5, dtype=torch.int32, device="meta"), length=10)
        captured = made.program.values.values()
        assert {(x.device.type, tuple(x.shape)) for x in captured} == {("meta", (10,))}


@given(st.lists(st.integers(-5, 20), min_size=1, max_size=8))
def test_any_offsets_on_a_device_give_ends_of_that_many_positions(offsets):
    """They are not checked there, and nothing may be read outside of a tensor."""
    first, stop = _of_tensor(torch.tensor(offsets), 10)
    assert first.shape == stop.shape == (10,)
    assert {*first.tolist(), *stop.tolist()} <= {*offsets, 10}


def test_documents_of_each_batch():
    for array in (np.array([[0, 0, 1], [0, 1, 1]]), [[0, 0, 1], [0, 1, 1]]):
        mask = stdlib.document(array)
        assert allowed(mask, 3, 3, batch=0) == [[0, 1], [0, 1], [2]]
        assert allowed(mask, 3, 3, batch=1) == [[0], [1, 2], [1, 2]]
        assert allowed(stdlib.document_causal(array), 3, 3, batch=1) == [[0], [1], [1, 2]]


def test_document_ids_that_are_too_short_for_a_call_are_an_error_of_the_plan():
    with pytest.raises(fx.errors.FlexdslError, match="doc"):
        fx.plan(stdlib.document(DOC), 11, 11)
