"""Compile variants for targets in a process without Triton's interpreter; print facts as JSON.

Usage: python -m tests.aot.compile_all VARIANT@TARGET@DTYPE[@PHASE[@HEAD_DIM]] ...
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import triton

from flexdsl.aot import compile_kernel
from tests.codegen.variants import VARIANTS


def facts(job: str) -> dict[str, object]:
    """What the assembly of one kernel shows."""
    name, target, dtype, *more = job.split("@")
    variant = VARIANTS[name]
    dims = (variant.head_dim, variant.value_dim) if len(more) < 2 else (int(more[1]),) * 2
    compiled = compile_kernel(
        variant.mask,
        variant.score,
        target=target,
        dtype=dtype,
        head_dim=dims[0],
        value_dim=dims[1],
        phase=more[0] if more else "forward",
    )
    text = compiled.stages["ptx" if target.startswith("cuda") else "amdgcn"]
    assert isinstance(text, str)
    machine = sass(compiled.machine_code) if target == "cuda:90" else ""
    return {
        "job": job,
        "language": compiled.kernel.language.value,
        # Loads from and stores to local memory, where registers are spilled to.
        "spills": machine.count("LDL") + machine.count("STL"),
        "products": machine.count("HGMMA"),
        "waits": machine.count("WARPGROUP.DEPBAR"),
        "bytes": len(compiled.machine_code),
        "magic": compiled.machine_code[:4].decode("latin1"),
        "shared": compiled.shared_bytes,
        "wgmma": text.count("wgmma.mma_async"),
        "mma": text.count("mma.sync") + text.count("tcgen05.mma") + text.count("v_mfma"),
        "tma_loads": text.count("cp.async.bulk.tensor"),
        "text": target.split(":")[1] in text,
    }


def sass(cubin: bytes) -> str:
    """The machine code as text, by the tool that comes with triton."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run([tool, "-sass", file.name], capture_output=True, text=True)
    return done.stdout


if __name__ == "__main__":
    with ProcessPoolExecutor(2) as pool:
        print(json.dumps(list(pool.map(facts, sys.argv[1:]))))
