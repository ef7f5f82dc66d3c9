"""A process that compiles: jobs come in, machine code goes out. `pool.py` starts it.

A process of its own, since the compiler's settings are those of a process (no interpreter, no paths
of this machine in the machine code), and since several compile at a time. Messages are pickles with
their length before them; whatever else is printed goes to stderr.
"""

from __future__ import annotations

import os
import pickle
import sys
import traceback
from dataclasses import dataclass
from typing import IO, Any

from flexdsl.aot.specs import Job
from flexdsl.bundle.manifest import Code
from flexdsl.errors import FlexdslError, InternalError

# What a worker's environment has, and what it has not.
SETTINGS = {"TRITON_DISABLE_LINE_INFO": "1"}
UNSET = ("TRITON_INTERPRET",)


@dataclass(frozen=True)
class Made:
    """A compiled job.

    Attributes:
        code: what the manifest says of it.
        machine_code: the cubin or hsaco file.
        source: the generated text.
    """

    code: Code
    machine_code: bytes
    source: str


def make(job: Job, made_of: str) -> Made:
    """Compile a job.

    Args:
        made_of: digest of its inputs, by which its files are named.
    """
    from flexdsl.aot.compile import compile_job
    from flexdsl.aot.interface import code_of

    compiled = compile_job(job)
    stem = f"{compiled.kernel.entry}_{made_of[:16]}"
    suffix = "cubin" if job.target.backend == "cuda" else "hsaco"
    folder = job.target.name.replace(":", "_")
    code = code_of(job, compiled, f"{folder}/{stem}.{suffix}", f"source/{stem}.py", made_of)
    return Made(code, compiled.machine_code, compiled.kernel.source)


def send(file: IO[bytes], message: Any) -> None:
    """Write a message."""
    data = pickle.dumps(message)
    file.write(len(data).to_bytes(8, "little") + data)
    file.flush()


def receive(file: IO[bytes]) -> Any:
    """Read a message; `EOFError` where there is none any more."""
    head = file.read(8)
    if len(head) < 8:
        raise EOFError
    data = file.read(int.from_bytes(head, "little"))
    return pickle.loads(data)


def serve() -> None:
    """Compile jobs from stdin until it ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while True:
        try:
            job, made_of = receive(sys.stdin.buffer)
        except EOFError:
            return
        answer: Made | FlexdslError
        try:
            answer = make(job, made_of)
        except FlexdslError as error:
            answer = error
        except Exception:
            answer = InternalError(f"the compiler failed:\n{traceback.format_exc()}")
        send(answers, answer)
