"""Compile variants for targets in a process without Triton's interpreter; print facts as JSON.

Usage: python -m tests.aot.compile_all VARIANT@TARGET@DTYPE[@PHASE[@D or D/DV]] ...

The phases "bits" and "backward_bits" are kernels of a Hopper GPU that read their mask as bits, and
"skipping" is that of the forward pass whose consumers skip tiles. In "blocks" and "backward_blocks"
they skip what a table of blocks leaves out, and evaluate it and the variant's mask. Of kernels of
captured tensors alone, all that the score captures is learned.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import triton

from flexdsl import stdlib
from flexdsl.aot import compile_kernel, parse_target
from flexdsl.aot.compile import compile_job
from flexdsl.aot.specs import Job, Shape, job_of
from flexdsl.codegen import Language, Phase, unbound_spec
from flexdsl.codegen.unbound import GENERATORS
from flexdsl.ir import captures_of
from tests.codegen.variants import VARIANTS, Variant

OF_LEARNED = ("backward_learned_query", "backward_learned_key", "backward_diagonal")
OF_BLOCKS = {"blocks": Phase.FORWARD, "backward_blocks": Phase.BACKWARD}
READ_BITS = {"bits": Phase.FORWARD, "skipping": Phase.FORWARD, "backward_bits": Phase.BACKWARD}


def facts(job: str) -> dict[str, object]:
    """What the assembly of one kernel shows."""
    name, target, dtype, *more = job.split("@")
    variant = VARIANTS[name]
    dims = variant.head_dim, variant.value_dim
    if len(more) > 1:
        of_query, _, of_value = more[1].partition("/")
        dims = int(of_query), int(of_value or of_query)
    shape = Shape(parse_target(target), dtype, *dims)
    if more and more[0] in OF_LEARNED:
        compiled = compile_job(learning(Phase(more[0]), variant, shape))
    elif more and more[0] in READ_BITS:
        skips = more[0] == "skipping"
        compiled = compile_job(reading_bits(READ_BITS[more[0]], variant, shape, skips))
    elif more and more[0] in OF_BLOCKS:
        compiled = compile_job(of_blocks(OF_BLOCKS[more[0]], variant, shape))
    else:
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
        "shuffles": machine.count("SHFL"),
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


def learning(phase: Phase, variant: Variant, shape: Shape) -> Job:
    """A kernel of the gradients of all that the variant's score captures."""
    assert variant.score is not None
    names = [c.name for c in captures_of(variant.score.program.expr)]
    mask = None if variant.mask is None else variant.mask.program
    return job_of(phase, mask, variant.score.program, shape, names)


def reading_bits(phase: Phase, variant: Variant, shape: Shape, skips: bool) -> Job:
    """The kernel of the variant's score whose mask is bits."""
    score = None if variant.score is None else variant.score.program
    job = job_of(phase, None, score, shape)
    spec = unbound_spec(None, score, shape.head_dim, shape.value_dim, phase)
    spec = replace(spec, closed_form=None, mask_bits=True, skips=skips)
    of_hopper = (c for _, c in job.candidates if c.language is Language.GLUON)
    generate = GENERATORS[phase, Language.GLUON]
    kernels = tuple((generate(replace(spec, consumers=c.consumers)), c) for c in of_hopper)
    return replace(job, candidates=kernels)


def of_blocks(phase: Phase, variant: Variant, shape: Shape) -> Job:
    """The kernel of a table of blocks of 64 and the variant's mask and score."""
    mask = stdlib.block_table(np.eye(6, dtype=bool), 64)
    program = (mask if variant.mask is None else mask & variant.mask).program
    score = None if variant.score is None else variant.score.program
    return job_of(phase, program, score, shape, reads="blocks")


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
