"""Attention built ahead of time: for GPUs that are not here, loaded without a compiler.

It builds a bundle in a folder of its own, says what is in it, and loads it. On the GPU that it was
built for, `attention(q, k, v)` then needs neither triton nor a parser. `examples/c` uses such a
bundle from C.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch

import flexdsl as fx

# The window is an argument of the kernels: it is chosen when the bundle is used.
SLIDING = fx.variant(
    "sliding_window", mask="mask sliding(window: int = 1024) = q >= kv and q - kv < window"
)


def main(folder: Path) -> None:
    begin = time.perf_counter()
    built = fx.build(
        SLIDING, out=folder, target=["cuda:90", "hip:gfx942"], head_dims=[64], phases=["forward"]
    )
    print(f"{built.compiled} kernels in {time.perf_counter() - begin:.1f} s")
    for path in sorted(built.files):
        print(f"  {len(built.files[path]):8,} bytes  {path}")
    again = fx.build(
        SLIDING, out=folder, target=["cuda:90", "hip:gfx942"], head_dims=[64], phases=["forward"]
    )
    print(f"built again: {again.compiled} compiled, {again.reused} were there")

    begin = time.perf_counter()
    attention = fx.load(folder, window=256)
    print(f"loaded in {(time.perf_counter() - begin) * 1000:.1f} ms: {attention.variant.name}")
    if torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0):
        q, k, v = (
            torch.randn(1, 8, 4096, 64, device="cuda", dtype=torch.bfloat16) for _ in range(3)
        )
        print(f"output {list(attention(q, k, v).shape)}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        main(Path(place) / "dist")
