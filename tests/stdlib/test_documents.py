"""Packed documents: by ids, by offsets, of each batch."""

from __future__ import annotations

import numpy as np
import pytest

import flexdsl as fx
from flexdsl import stdlib

DOC = [0, 0, 0, 1, 1, 2, 2, 2, 2, 3]
OFFSETS = [0, 3, 5, 9, 10]


def allowed(mask: fx.Mod, rows: int, keys: int, batch: int = 0) -> list[list[int]]:
    return [[kv for kv in range(keys) if mask(batch, 0, q, kv)] for q in range(rows)]


def test_documents_by_offsets_are_documents_by_ids():
    for variant in (stdlib.document, stdlib.document_causal):
        assert allowed(variant(offsets=OFFSETS), 10, 10) == allowed(variant(DOC), 10, 10)
    # An empty document between two others.
    assert allowed(stdlib.document(offsets=[0, 1, 1, 2]), 2, 2) == [[0], [1]]


def test_documents_of_each_batch():
    for array in (np.array([[0, 0, 1], [0, 1, 1]]), [[0, 0, 1], [0, 1, 1]]):
        mask = stdlib.document(array)
        assert allowed(mask, 3, 3, batch=0) == [[0, 1], [0, 1], [2]]
        assert allowed(mask, 3, 3, batch=1) == [[0], [1, 2], [1, 2]]
        assert allowed(stdlib.document_causal(array), 3, 3, batch=1) == [[0], [1], [1, 2]]


def test_document_ids_that_are_too_short_for_a_call_are_an_error_of_the_plan():
    with pytest.raises(fx.errors.FlexdslError, match="doc"):
        fx.plan(stdlib.document(DOC), 11, 11)
