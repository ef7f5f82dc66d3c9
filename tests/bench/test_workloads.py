"""The table of workloads: both forms of a mask mean the same, and all peers compute the same."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from functools import partial

import pytest
import torch

import flexdsl as fx
from flexdsl.bench import measure, peers, workloads
from flexdsl.bench.workloads import WORKLOADS, Shape, Workload

CPU = torch.device("cpu")
TINY = Shape(2, 4, 2, 256, 16)  # 256 is also the square image that natten2d needs
SHORT = {w.name for w in WORKLOADS if w.name.startswith("short_")}  # masks of other rows
SMALL = {w.name: w for w in WORKLOADS if w.name not in SHORT | {"sta3d"}} | {
    "sta3d": Workload("sta3d", partial(workloads._sta3d, tile=4, grid=(4, 4, 4)), TINY, TINY)
}


def case_of(name: str) -> peers.Case:
    workload = SMALL[name]
    return peers.make_case(workload, TINY, CPU, torch.float32, gradients=True)


def test_the_rows_are_those_that_peers_are_known_for():
    on_gpu = {w.name for w in WORKLOADS if w.gpu}
    assert on_gpu == {
        *("full", "causal", "causal_d64", "causal_d256", "causal_gqa", "sliding_1024", "alibi"),
        *("softcap", "document", "prefix_lm", "blocks_64", "rel_bias", "natten2d", "sta3d"),
        *("decode_b8", "decode_b1"),
        *(f"short_{m}_{n}" for m in ("full", "causal", "sliding") for n in (512, 1024, 2048)),
    }
    assert len({w.name for w in WORKLOADS}) == len(WORKLOADS)


@pytest.mark.parametrize("name", SMALL)
def test_both_forms_of_a_mask_allow_the_same_pairs(name):
    case = case_of(name)
    dense = peers.dense_mask(case)
    plan = fx.plan(case.mods.mask, 256, 256, batch=2, heads=4)
    assert plan.pairs == 2 * 4 * int(dense.sum())
    if case.mods.mask is not None:
        draw = random.Random(0)
        for q, kv in ((draw.randrange(256), draw.randrange(256)) for _ in range(300)):
            assert case.mods.mask(0, 0, q, kv) == bool(dense[q, kv]), (q, kv)


@pytest.mark.parametrize("name", [n for n in SMALL if "natten" in n or "sta" in n])
def test_neighbourhoods_have_one_size_everywhere(name):
    """Windows move inwards at the borders: every query sees as many keys."""
    keys = {"natten2d": 13 * 13, "sta3d": 27 * 4}[name]
    assert set(peers.dense_mask(case_of(name)).sum(1).tolist()) == {keys}


@pytest.mark.parametrize("name", SMALL)
def test_every_peer_of_the_cpu_computes_the_same(name):
    case = case_of(name)
    outs = {"definition": _written_out(case)}
    for peer in peers.PEERS:
        if "cpu" in peer.devices and peer.supports(case.workload):
            outs[peer.name] = peer.prepare(case).call()
    assert {"flexdsl"} < set(outs)
    for found in outs.values():
        torch.testing.assert_close(found, outs["flexdsl"], atol=1e-5, rtol=1e-4)


def _written_out(case: peers.Case) -> torch.Tensor:
    q, k, v = (x.detach().double() for x in case.tensors)
    k, v = (x.repeat_interleave(2, dim=1) for x in (k, v))
    scores = q @ k.transpose(-1, -2) / math.sqrt(16)
    if case.mods.flex_score is not None:
        scores = case.mods.flex_score(scores, *peers._axes(case))
    scores = scores.masked_fill(~peers.dense_mask(case), -math.inf)
    return (scores.softmax(-1) @ v).float()


def test_captured_tensors_are_on_the_device_asked_for():
    """On a device that holds no data: nothing may be read there."""
    meta = torch.device("meta")
    for name in ("alibi", "document", "rel_bias"):
        mods = SMALL[name].make(TINY, meta)
        used = [
            x
            for f in (mods.flex_mask, mods.flex_score)
            for c in (f.__closure__ or () if f else ())
            if isinstance(x := c.cell_contents, torch.Tensor)
        ]
        assert used and {x.device.type for x in used} == {"meta"}, name


@pytest.mark.parametrize("name", ["full", "sliding_1024", "alibi"])
def test_few_queries_are_the_last_tokens(name):
    last, whole = replace(TINY, q_len=3), case_of(name)
    assert str(last) == "B2 H4:2 N3:256 D16" and str(TINY) == "B2 H4:2 N256 D16"
    case = peers.make_case(SMALL[name], last, CPU, torch.float32, gradients=False)
    q, k, v = case.tensors
    assert (q.shape, k.shape, v.shape) == ((2, 4, 3, 16), (2, 2, 256, 16), (2, 2, 256, 16))
    assert torch.equal(peers.dense_mask(case), peers.dense_mask(whole)[-3:])
    plan = peers.plan_of(case.mods.mask, last)
    assert plan.pairs == 2 * 4 * int(peers.dense_mask(case).sum())
    ours, theirs = (p for p in peers.PEERS if p.name in ("flexdsl", "sdpa"))
    outs = [p.prepare(case).call() for p in (ours, theirs)]
    torch.testing.assert_close(*outs, atol=1e-5, rtol=1e-4)


def test_tensors_are_the_same_every_time():
    first, second = (TINY.tensors(CPU, torch.float32) for _ in range(2))
    assert [tuple(x.shape) for x in first] == [(2, h, 256, 16) for h in (4, 2, 2, 4)]
    assert all(map(torch.equal, first, second))
    assert not torch.equal(first[1], first[2])


def test_select():
    assert [w.name for w in workloads.select(["softcap", "causal", "softcap"], CPU)] == [
        "softcap",
        "causal",
    ]
    assert "sta3d" not in {w.name for w in workloads.select([], CPU)}
    gpu = torch.device("cuda")
    assert {w.name for w in workloads.select(["short_*"], gpu)} == SHORT
    assert [w.name for w in workloads.select(["c*_d64", "full"], gpu)] == ["causal_d64", "full"]
    assert {w.gpu.tokens <= measure.SHORT for w in workloads.select(["short_*"], gpu)} == {True}
    with pytest.raises(fx.errors.ArgumentError, match=r"known: full, causal[^?]*natten2d") as found:
        workloads.select(["casual"], CPU)
    assert found.value.fix == "causal"


def test_choose():
    assert [p.name for p in peers.choose(None, torch.device("cuda"))] == [
        *("flexdsl", "flex", "cudnn", "flash")
    ]
    assert [p.name for p in peers.choose(["sdpa"], CPU)] == ["flexdsl", "sdpa"]
    assert [p.name for p in peers.choose([], CPU)] == ["flexdsl"]
    with pytest.raises(fx.errors.ArgumentError, match="known: flexdsl, flex, cudnn"):
        peers.choose(["flx"], CPU)


@pytest.mark.parametrize(("name", "tokens"), [("natten2d", 200), ("natten2d", 64), ("sta3d", 200)])
def test_images_and_videos_have_their_own_sizes(name, tokens):
    with pytest.raises(fx.errors.ArgumentError, match="tokens"):
        SMALL[name].make(replace(TINY, tokens=tokens), CPU)
