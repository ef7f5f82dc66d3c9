"""Every mask and score of the library in Triton's GPU dialect for Hopper; print facts as JSON.

Usage, in a process without Triton's interpreter: python -m tests.aot.hopper_stages

The compiler stops there, before LLVM and ptxas, which take 5 to 10 times as long: an operation for
wgmma or for the copy engine is one instruction or a few of them in PTX, and never another one.
`compile_all.py` goes all the way, for fewer.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any
from unittest.mock import patch

from triton.backends.nvidia.compiler import CUDABackend

from flexdsl.analysis.products import width_of
from flexdsl.aot import compile_kernel
from flexdsl.codegen import Phase, backward_reason, unbound_spec
from tests.stdlib.samples import MASKS, SAMPLES

DIM = 128
_add_stages = CUDABackend.add_stages


class Stopped(Exception):
    """The compiler has done what is wanted: its text is the message."""


def _stop_after_ttgir(
    self: CUDABackend, stages: dict[str, Callable[..., Any]], *arguments: Any
) -> None:
    _add_stages(self, stages, *arguments)

    def stop(module: Any, metadata: Any) -> Any:
        raise Stopped(str(module))

    stages["llir"] = stop


def ttgir(mask: Any, score: Any, phase: Phase) -> str:
    """A kernel for Hopper in Triton's GPU dialect, bfloat16."""
    call = {"target": "cuda:90", "dtype": "bf16", "head_dim": DIM, "phase": phase.value}
    with patch.object(CUDABackend, "add_stages", _stop_after_ttgir):
        try:
            return str(compile_kernel(mask, score, **call).stages["ttgir"])
        except Stopped as found:
            return str(found)


def facts(name: str) -> dict[str, Any]:
    """What the kernels of one variant show, and why its backward pass is not in Gluon if so."""
    sample = SAMPLES[name]
    mod = sample.make(*(x.float().numpy() for x in sample.tensors()))
    mask, score = (mod, None) if name in MASKS else (None, mod)
    programs = (None if m is None else m.program for m in (mask, score))
    spec = unbound_spec(*programs, DIM, DIM, Phase.BACKWARD, products=True)
    return {
        "name": name,
        "reason": backward_reason(DIM, 0, (), False, width_of(spec.products)),
        **{p.value: _counts(ttgir(mask, score, p)) for p in (Phase.FORWARD, Phase.BACKWARD)},
    }


def _counts(text: str) -> dict[str, int]:
    return {
        "partitions": text.count("ttg.warp_specialize("),
        "wgmma": text.count("ttng.warp_group_dot "),
        "tma_loads": text.count("ttng.async_tma_copy_global_to_local"),
        "other_products": text.count("tt.dot "),
    }


if __name__ == "__main__":
    with ProcessPoolExecutor(2) as pool:
        print(json.dumps(list(pool.map(facts, SAMPLES))))
