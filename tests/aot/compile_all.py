"""Compile variants for targets in a process without Triton's interpreter; print facts as JSON.

Usage: python -m tests.aot.compile_all VARIANT@TARGET@DTYPE[@PHASE] ...
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ProcessPoolExecutor

from flexdsl.aot import compile_kernel
from tests.codegen.variants import VARIANTS


def facts(job: str) -> dict[str, object]:
    """What the assembly of one kernel shows."""
    name, target, dtype, *phase = job.split("@")
    variant = VARIANTS[name]
    compiled = compile_kernel(
        variant.mask,
        variant.score,
        target=target,
        dtype=dtype,
        head_dim=variant.head_dim,
        value_dim=variant.value_dim,
        phase=phase[0] if phase else "forward",
    )
    text = compiled.stages["ptx" if target.startswith("cuda") else "amdgcn"]
    assert isinstance(text, str)
    return {
        "job": job,
        "bytes": len(compiled.machine_code),
        "magic": compiled.machine_code[:4].decode("latin1"),
        "shared": compiled.shared_bytes,
        "wgmma": text.count("wgmma.mma_async"),
        "mma": text.count("mma.sync") + text.count("tcgen05.mma") + text.count("v_mfma"),
        "tma_loads": text.count("cp.async.bulk.tensor"),
        "text": target.split(":")[1] in text,
    }


if __name__ == "__main__":
    with ProcessPoolExecutor(2) as pool:
        print(json.dumps(list(pool.map(facts, sys.argv[1:]))))
