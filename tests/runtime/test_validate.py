"""Every wrong argument of attention: one clear error that names it and says what to write."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import flexdsl as fx
from flexdsl.errors import ArgumentError, BackendError, CaptureError, KindError, PlanError
from support.calls import MASKS


def tensor(*shape: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype, device=device)


K = tensor(2, 4, 9, 16)

BAD_TENSORS = {
    "no tensor": ((np.zeros((2, 4, 9, 16)), K, K), "q is a ndarray", "torch.as_tensor(q)"),
    "three dimensions": ((K, K[0], K), "k has shape [4, 9, 16]", "k[None]"),
    "two dimensions": ((K, K, K[0, 0]), "v has shape [9, 16]", "v[None, None]"),
    "five dimensions": ((K[None], K, K), "four dimensions, [B, H, L, D]", "reshape(B, H, L, D)"),
    "integers": ((K.int(), K, K), "q is int32: attention takes float16", "q.to(torch.float16)"),
    "sparse": ((K, K.to_sparse(), K), "k has layout torch.sparse_coo", "k.to_dense()"),
    "no head dimension": ((K[..., :0],) * 3, "q has shape [2, 4, 9, 0]", "at least one element"),
    "dtypes": ((K, K.half(), K), "q is float32, k is float16, v is float32", "q.to(k.dtype)"),
    "devices": ((K, tensor(2, 4, 9, 16, device="meta"), K), "k is meta", "x.to(q.device)"),
    "batches": ((K[:1], K, K), "batch, their first dimension: q [1, 4, 9, 16]", "expand"),
    "head dimensions": ((K[..., :8], K, K), "their last: q [2, 4, 9, 8]", "one D for q and k"),
    "key and value lengths": ((K, K, K[:, :, :5]), "length", "k [B, Hkv, Lkv, D]"),
    "key and value heads": ((K, K, K[:, :2]), "k and v differ in heads", "v [B, Hkv, Lkv, Dv]"),
    "head counts": ((K, K[:, :3], K[:, :3]), "4 query heads are no multiple of 3", "Hq a multiple"),
    "no key heads": ((K, K[:, :0], K[:, :0]), "4 query heads are no multiple of 0", "multiple"),
    "heads and length swapped": (
        (tensor(2, 7, 4, 16), tensor(2, 9, 4, 16), tensor(2, 9, 4, 16)),
        "7 query heads are no multiple of 9",
        "q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)",
    ),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_tensors(case):
    tensors, what, fix = BAD_TENSORS[case]
    with pytest.raises(ArgumentError) as caught:
        fx.attention(*tensors)
    assert what in caught.value.what and fix in caught.value.fix


BAD_NUMBERS = {
    "scale of text": ({"scale": "8"}, "scale is '8'"),
    "scale of infinity": ({"scale": math.inf}, "scale is inf"),
    "scale of nan": ({"scale": math.nan}, "scale is nan"),
    "scale of a bool": ({"scale": True}, "scale is True"),
    "scale of a tensor": ({"scale": torch.ones(3)}, "scale is a tensor of shape [3]"),
    "negative offset": ({"q_offset": -1}, "q_offset is -1"),
    "fractional offset": ({"q_offset": 0.5}, "q_offset is 0.5"),
    "offset of a bool": ({"q_offset": True}, "q_offset is True"),
    "backend": ({"backend": "ampere"}, "backend is 'ampere'"),
    "backend of a number": ({"backend": 3}, "backend is 3"),
}


@pytest.mark.parametrize("case", BAD_NUMBERS)
def test_numbers_and_names(case):
    arguments, what = BAD_NUMBERS[case]
    with pytest.raises(ArgumentError) as caught:
        fx.attention(K, K, K, **arguments)
    assert what in caught.value.what and caught.value.fix


def test_an_unknown_backend_lists_the_known_ones():
    with pytest.raises(ArgumentError, match='"auto", "triton", "hopper", "cpu", "reference"'):
        fx.attention(K, K, K, backend="cuda")


def test_triton_needs_a_gpu_or_its_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(BackendError, match="TRITON_INTERPRET=1"):
        fx.attention(K, K, K, backend="triton")


def test_triton_takes_no_double(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ArgumentError, match="float64"):
        fx.attention(*(K.double(),) * 3, backend="triton")


def test_the_cpu_executor_needs_tensors_there():
    meta = K.to("meta")
    with pytest.raises(BackendError, match="tensors on meta"):
        fx.attention(meta, meta, meta, backend="cpu")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"mask": 3}, KindError),
        ({"score": K}, KindError),
        ({"mask": fx.score_mod(lambda score, b, h, q, kv: score)}, KindError),
        ({"score": fx.mask_mod(lambda b, h, q, kv: q > kv)}, KindError),
        ({"score": fx.plan(None, 9, 9)}, KindError),
        ({"mask": "q >="}, fx.errors.TextError),
        ({"mask": lambda b, h, q, kv: q - kv}, fx.errors.ResultError),
        ({"score": lambda score, b, h, q, kv: q > kv}, fx.errors.ResultError),
    ],
)
def test_mods_of_the_wrong_kind(arguments, error):
    with pytest.raises(error):
        fx.attention(K, K, K, **arguments)


@pytest.mark.parametrize(
    ("sizes", "options"),
    [((8, 9), {}), ((9, 8), {}), ((9, 9), {"q_offset": 1}), ((9, 9), {"batch": 3, "heads": 4})],
)
def test_a_plan_of_other_lengths(sizes, options):
    plan = fx.plan(MASKS["batch and head"], *sizes, **({"batch": 2, "heads": 4} | options))
    with pytest.raises(PlanError, match="the plan is for"):
        fx.attention(K, K, K, mask=plan)


def test_a_plan_serves_any_batch_where_the_mask_does_not_depend_on_it():
    fx.attention(K, K, K, mask=fx.plan(MASKS["causal"], 9, 9))


def test_a_capture_on_another_device():
    seen = torch.ones(9, dtype=torch.bool)
    program = fx.mask_mod(lambda b, h, q, kv: seen[kv]).program
    from flexdsl.runtime.bind import with_tensors

    with pytest.raises(CaptureError) as caught:
        with_tensors(program, torch.device("meta"))
    assert "seen" in caught.value.what and "device='meta'" in caught.value.fix


def test_a_capture_without_a_value():
    with pytest.raises(CaptureError, match="seen"):
        fx.attention(K, K, K, mask="mask padded(seen: bool[9]) = seen[kv]")
