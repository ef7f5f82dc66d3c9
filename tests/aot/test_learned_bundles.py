"""Bundles of scores that learn: which kernels they have, beside those that `attention` compiles."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import flexdsl as fx
from flexdsl.aot import parse_target
from flexdsl.aot.plan import plan_builds
from flexdsl.aot.specs import Shape
from flexdsl.bundle.files import open_bundle
from flexdsl.errors import BundleError
from flexdsl.runtime import bundled, launch, tuning
from flexdsl.runtime.bundled import Bundled
from flexdsl.runtime.call import Call
from tests.codegen.text_on_numbers import bound_of
from tests.codegen.variants import CAUSAL, Variant

HEADS, LENGTH = 4, 40


def learned(*shape: int) -> torch.Tensor:
    return torch.ones(shape, requires_grad=True)


def one_side() -> fx.Mod:
    """A learned bias by the difference of positions for later keys, and one by the key for others.

    Under a causal mask nothing is loaded for later keys, and no kernel adds up diagonals.
    """
    later, earlier = learned(HEADS, LENGTH), learned(HEADS, LENGTH)
    return fx.score_mod(lambda s, b, h, q, kv: s + (later[h, kv - q] if kv > q else earlier[h, kv]))


SCORES: dict[str, Any] = {
    "relative": fx.stdlib.learned_bias(learned(HEADS, 2 * LENGTH + 1), "hr"),
    "buckets": fx.stdlib.t5_bias(learned(32, HEADS)),
    "slopes": fx.stdlib.alibi(slopes=learned(HEADS)),
    "distances": fx.stdlib.alibi_bidirectional(slopes=learned(HEADS)),
    "one_side": one_side(),
    "keys": fx.stdlib.learned_bias(learned(HEADS, LENGTH), "hk"),
    "pairs": fx.stdlib.learned_bias(learned(LENGTH, LENGTH), "qk"),
    "factors": fx.stdlib.lowrank_bias(learned(LENGTH, 2), learned(LENGTH, 2)),
    "frozen": fx.stdlib.learned_bias(torch.ones(HEADS, 2 * LENGTH + 1), "hr"),
}


def call_of(score: Any, dim: int = 128) -> Call:
    tensors = [torch.zeros(1, HEADS, LENGTH, dim).bfloat16() for _ in range(3)]
    bound = bound_of(Variant(CAUSAL, score), tensors, 0)
    named = dict(zip(("query", "key", "value"), tensors, strict=True))
    return Call(bound, 1.0, named, {}, hopper=True)


@pytest.mark.parametrize("name", SCORES)
def test_a_build_has_the_kernels_of_a_call(name: str) -> None:
    variant = fx.variant(name, mask=CAUSAL, score=SCORES[name])
    shape = Shape(parse_target("cuda:90"), "bf16", 128, 128)
    (planned,) = plan_builds([variant], [shape], ("forward", "backward"), {})
    phases = {job.phase.value for job in planned.jobs.values()}
    wanted = {phase.value for phase in launch.phases_of(call_of(SCORES[name]))}
    assert {phase for phase in phases if phase.startswith("backward")} == wanted
    assert ("backward" in wanted) == (name != "factors")


def test_a_bundle_for_hopper(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its kernels run in the order of a call's; sums that it lays out otherwise are refused."""
    variant = fx.variant("relative", mask=CAUSAL, score=SCORES["relative"])
    fx.build(variant, out=tmp_path / "dist", target="cuda:90", head_dims=[64], jobs=2)
    bundle = open_bundle(tmp_path / "dist")
    (of_variant,) = bundle.manifest.variants
    kernels, call = Bundled(bundle, of_variant, of_variant.builds[0]), call_of(SCORES["relative"])
    assert kernels.hopper and of_variant.learned == ("biases",)
    assert kernels.backward_phases(call) == launch.phases_of(call)
    diagonal = kernels.backward_phases(call)[-1]
    assert kernels._code(diagonal, None).tile == (64, 64)
    other = tuning.Config(32, 32, 4, 1)
    monkeypatch.setattr(bundled, "diagonal_config", lambda *_, **__: other)
    with pytest.raises(BundleError, match="has other tiles"):
        kernels._code(diagonal, None)
