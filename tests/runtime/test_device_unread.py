"""Captured tensors on a device: nothing of them is read on the host to make a plan."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import flexdsl as fx
from flexdsl.analysis import make_plan
from support.calls import Shape, assert_near, oracle
from support.masks import Mask, Table, either, no

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DOC = Table("doc", np.arange(256) // 30)
PER_HEAD = Table("window", np.array([3, 50, 120]))


class _Elsewhere:
    """A captured tensor whose contents nobody may read."""

    dtype, device = "int32", torch.device("cuda")

    def __init__(self, *shape):
        self.shape, self.ndim = shape, len(shape)

    def detach(self):
        raise AssertionError("the host waits for the device")


def test_a_closed_form_that_holds_for_any_contents_needs_no_table():
    """Lengths of each batch on a GPU: proven without them, and right after they change."""
    expr = Mask(lambda b, h, q, kv: kv < PER_HEAD[b], {}, (PER_HEAD,)).program()
    moved = type(expr)(expr.kind, "mask", expr.expr, {"window": _Elsewhere(3)})
    plan = make_plan(moved, 256, 200, batch=3, device="cuda")
    assert plan.kind == plan.transposed().kind == plan.with_tile((64, 64)).kind == "closed-form"
    assert plan.nbytes == 0
    union = Mask(lambda b, h, q, kv: either(kv < PER_HEAD[b], kv > q), {}, (PER_HEAD,)).program()
    moved = type(union)(union.kind, "mask", union.expr, {"window": _Elsewhere(3)})
    assert make_plan(moved, 256, 200, batch=3, device="cuda").kind == "device"
    lengths = torch.tensor([3, 33, 0], dtype=torch.int32, device=DEVICE)
    mask = fx.mask_mod(lambda b, h, q, kv: kv < lengths[b])
    shape = Shape(3, 2, 2, 33, 33)
    q, k, v = (x.to(DEVICE) for x in shape.tensors(torch.float32))
    plan = fx.plan(mask, 33, 33, batch=3, heads=2, tile=(16, 16), device=DEVICE)
    for _ in range(2):
        values = lengths.tolist()
        expected, _ = oracle(*shape.tensors(), mask=lambda b, h, q, kv, n=values: kv < n[b])
        assert_near(fx.attention(q, k, v, mask=plan, backend="triton").cpu(), expected, 1e-5)
        lengths += 7


def test_nothing_is_read_on_the_host():
    program = Mask(lambda b, h, q, kv: no(DOC[q] == DOC[kv]), {}, (DOC,)).program()
    values = {"doc": _Elsewhere(256)}
    moved = type(program)(program.kind, "mask", program.expr, values)
    plan = make_plan(moved, 256, 200, device="cuda")
    assert plan.kind == plan.transposed().kind == plan.with_tile((64, 64)).kind == "device"
    assert plan.nbytes > 0
    with pytest.raises(fx.errors.IndexRangeError, match="element 299 is read"):
        make_plan(moved, 256, 300, device="cuda")
    nested = Mask(lambda b, h, q, kv: DOC[DOC[q]] == 3, {}, (DOC,)).program()
    nested = type(nested)(nested.kind, "mask", nested.expr, values)
    loads = fx.analysis.check_loads(nested.expr, None, 256, 256, 1, 1, 0, values, {})
    assert [repr(node) for node in loads] == ["doc[doc[q]]"]
