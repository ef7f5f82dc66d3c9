"""The named workloads: a table of shapes with their masks and scores, for flexdsl and for peers.

A mask or score stands here twice: as a user of flexdsl writes it, and as a function of tensors, the
form that FlexAttention takes and that makes a dense mask by broadcasting. Nothing is measured here.
"""

from __future__ import annotations

import difflib
import fnmatch
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

import flexdsl as fx
from flexdsl.errors import ArgumentError

DOCUMENTS = 12
# How scaled_dot_product_attention can say a workload: by is_causal alone, by a dense mask or bias.
Sdpa = Literal["full", "causal", "mask", "bias", "none"]


@dataclass(frozen=True)
class Shape:
    """Attention of q [batch, heads, queries, dim] to k and v [batch, kv_heads, tokens, dim].

    Attributes:
        q_len: queries, which are the last tokens; None for self-attention.
    """

    batch: int
    heads: int
    kv_heads: int
    tokens: int
    dim: int
    q_len: int | None = None

    @property
    def queries(self) -> int:
        """Rows of q for each head."""
        return self.tokens if self.q_len is None else self.q_len

    @property
    def q_offset(self) -> int:
        """Position of the first query."""
        return self.tokens - self.queries

    def tensors(self, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
        """q, k, v and a gradient of the output: normally distributed, the same ones every time."""
        generator = torch.Generator(device=device).manual_seed(1)
        options: dict[str, Any] = {"device": device, "dtype": dtype, "generator": generator}
        return [
            torch.randn((self.batch, heads, length, self.dim), **options)
            for heads, length in (
                (self.heads, self.queries),
                *[(self.kv_heads, self.tokens)] * 2,
                (self.heads, self.queries),
            )
        ]

    def __str__(self) -> str:
        heads = f"{self.heads}" if self.heads == self.kv_heads else f"{self.heads}:{self.kv_heads}"
        lengths = f"{self.tokens}" if self.q_len is None else f"{self.q_len}:{self.tokens}"
        return f"B{self.batch} H{heads} N{lengths} D{self.dim}"


@dataclass(frozen=True)
class Mods:
    """The mask and score of a workload.

    Attributes:
        mask, score: as flexdsl takes them; None for none.
        flex_mask, flex_score: the same as functions of tensors.
    """

    mask: fx.Mod | None = None
    score: fx.Mod | None = None
    flex_mask: Callable[..., Any] | None = None
    flex_score: Callable[..., Any] | None = None


@dataclass(frozen=True)
class Workload:
    """One row of the benchmark.

    Attributes:
        name: what `--only` takes, which takes patterns of names too.
        make: the mods for a shape, with their captured tensors on a device.
        gpu, cpu: the shape on a GPU, in bfloat16, and on the CPU, in float32; None where it has
            no place.
        sdpa: how scaled_dot_product_attention can say it.
        backward: has it a backward pass?
    """

    name: str
    make: Callable[[Shape, torch.device], Mods]
    gpu: Shape | None
    cpu: Shape | None
    sdpa: Sdpa = "mask"
    backward: bool = True

    def shape(self, device: torch.device) -> Shape | None:
        """The shape on this kind of device."""
        return self.cpu if device.type == "cpu" else self.gpu


def _full(shape: Shape, device: torch.device) -> Mods:
    return Mods()


def _flex_causal(b: Any, h: Any, q: Any, kv: Any) -> Any:
    return q >= kv


def _causal(shape: Shape, device: torch.device) -> Mods:
    return Mods(mask=fx.stdlib.causal(), flex_mask=_flex_causal)


def _sliding(shape: Shape, device: torch.device, *, keys: int) -> Mods:
    def window(b: Any, h: Any, q: Any, kv: Any) -> Any:
        return (q >= kv) & (q - kv < keys)

    return Mods(mask=fx.stdlib.sliding_window(keys), flex_mask=window)


def _alibi(shape: Shape, device: torch.device) -> Mods:
    slopes = torch.tensor(fx.stdlib.alibi_slopes(shape.heads), device=device)

    def alibi(score: Any, b: Any, h: Any, q: Any, kv: Any) -> Any:
        return score + slopes[h] * (kv - q)

    return Mods(fx.stdlib.causal(), fx.stdlib.alibi(slopes=slopes), _flex_causal, alibi)


def _softcap(shape: Shape, device: torch.device) -> Mods:
    def softcap(score: Any, b: Any, h: Any, q: Any, kv: Any) -> Any:
        return 50.0 * torch.tanh(score / 50.0)

    return Mods(fx.stdlib.causal(), fx.stdlib.softcap(50.0), _flex_causal, softcap)


def _document(shape: Shape, device: torch.device) -> Mods:
    generator = torch.Generator().manual_seed(0)
    starts = torch.randperm(shape.tokens - 1, generator=generator)[: DOCUMENTS - 1] + 1
    first = torch.zeros(shape.tokens, dtype=torch.int32)
    first[starts] = 1
    ids = first.cumsum(0).to(device, torch.int32)

    def packed(b: Any, h: Any, q: Any, kv: Any) -> Any:
        return (ids[q] == ids[kv]) & (q >= kv)

    return Mods(mask=fx.stdlib.document_causal(ids), flex_mask=packed)


def _prefix_lm(shape: Shape, device: torch.device) -> Mods:
    prefix = shape.tokens // 4

    def prefix_lm(b: Any, h: Any, q: Any, kv: Any) -> Any:
        return (kv < prefix) | (q >= kv)

    return Mods(mask=fx.stdlib.prefix_lm(prefix), flex_mask=prefix_lm)


def _blocks(shape: Shape, device: torch.device, *, size: int) -> Mods:
    """A fifth of all blocks, drawn at random, and each query's own block besides."""
    count = -(-shape.tokens // size)
    generator = torch.Generator().manual_seed(3)
    chosen = torch.rand(count, count, generator=generator) < 0.2
    chosen = (chosen | torch.eye(count, dtype=torch.bool)).to(device)

    def blocks(b: Any, h: Any, q: Any, kv: Any) -> Any:
        return chosen[q // size, kv // size]

    return Mods(mask=fx.stdlib.block_table(chosen, size), flex_mask=blocks)


def _rel_bias(shape: Shape, device: torch.device) -> Mods:
    """A learned bias for each head and distance, T5's without its buckets."""
    furthest = shape.tokens - 1
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    generator = torch.Generator().manual_seed(2)
    table = torch.randn(shape.heads, 2 * furthest + 1, generator=generator).to(device, dtype)

    def biased(score: Any, b: Any, h: Any, q: Any, kv: Any) -> Any:
        return score + table[h, kv - q + furthest]

    return Mods(score=fx.score_mod(biased), flex_score=biased)


def _natten2d(shape: Shape, device: torch.device, *, window: int) -> Mods:
    """A neighbourhood of window x window pixels around each pixel, moved inwards at the borders."""
    side, half = math.isqrt(shape.tokens), window // 2
    if side * side != shape.tokens or side < window:
        raise ArgumentError(
            f"natten2d has {shape.tokens} tokens, but its image must be a square of at least"
            f" {window} x {window}",
            fix=f"{max(side, window) ** 2} tokens",
        )

    @fx.mask_mod
    def natten2d(b: int, h: int, q: int, kv: int) -> bool:
        row = fx.minimum(fx.maximum(q // side, half), side - 1 - half)
        column = fx.minimum(fx.maximum(q % side, half), side - 1 - half)
        return bool(abs(row - kv // side) <= half and abs(column - kv % side) <= half)

    def flex(b: Any, h: Any, q: Any, kv: Any) -> Any:
        row = (q // side).clamp(half, side - 1 - half)
        column = (q % side).clamp(half, side - 1 - half)
        return ((row - kv // side).abs() <= half) & ((column - kv % side).abs() <= half)

    return Mods(mask=natten2d, flex_mask=flex)


def _sta3d(shape: Shape, device: torch.device, *, tile: int, grid: tuple[int, int, int]) -> Mods:
    """Sliding tile attention on a video in tile-major order: 3 x 3 x 3 tiles around each tile."""
    times, rows, columns = grid
    if shape.tokens != tile * math.prod(grid):
        raise ArgumentError(
            f"sta3d has {shape.tokens} tokens, but its video has {tile * math.prod(grid)}",
            fix=f"{tile * math.prod(grid)} tokens",
        )

    @fx.mask_mod
    def sta3d(b: int, h: int, q: int, kv: int) -> bool:
        near = True
        for extent, after in ((times, rows * columns), (rows, columns), (columns, 1)):
            middle = fx.minimum(fx.maximum(q // tile // after % extent, 1), extent - 2)
            near = near and abs(middle - kv // tile // after % extent) <= 1
        return near

    def flex(b: Any, h: Any, q: Any, kv: Any) -> Any:
        near = None
        for extent, after in ((times, rows * columns), (rows, columns), (columns, 1)):
            middle = (q // tile // after % extent).clamp(1, extent - 2)
            close = (middle - kv // tile // after % extent).abs() <= 1
            near = close if near is None else near & close
        return near

    return Mods(mask=sta3d, flex_mask=flex)


def _short(name: str, make: Callable[[Shape, torch.device], Mods], sdpa: Sdpa) -> list[Workload]:
    """A workload in lengths at which a call waits for Python, or for the last of few programs."""
    shapes = [Shape(1, 16, 16, tokens, 128) for tokens in (512, 1024, 2048)]
    return [Workload(f"short_{name}_{s.tokens}", make, s, None, sdpa) for s in shapes]


def _decode(batch: int, tokens: int) -> Workload:
    """A step of decoding: one query, which sees all tokens."""
    shape = Shape(batch, 32, 8, tokens, 128, q_len=1)
    return Workload(f"decode_b{batch}", _full, shape, None, "full", backward=False)


_GPU = Shape(2, 16, 16, 8192, 128)
_LONG = Shape(1, 16, 16, 16384, 128)
_CPU = Shape(1, 8, 8, 4096, 64)
_CPU_LONG = Shape(1, 8, 8, 8192, 64)
_CPU_DENSE = Shape(1, 8, 8, 2048, 64)  # peers hold matrices of all scores

WORKLOADS: tuple[Workload, ...] = (
    Workload("full", _full, _GPU, _CPU, "full"),
    Workload("causal", _causal, _GPU, _CPU_LONG, "causal"),
    Workload("causal_d64", _causal, Shape(2, 32, 32, 8192, 64), None, "causal"),
    Workload("causal_d256", _causal, Shape(2, 8, 8, 8192, 256), None, "causal"),
    Workload("causal_gqa", _causal, Shape(1, 32, 8, 8192, 128), Shape(1, 8, 2, 4096, 64), "causal"),
    Workload("sliding_256", partial(_sliding, keys=256), None, _CPU_LONG),
    # FlashAttention's window_size=(1024, 0) keeps the query's own key besides.
    Workload("sliding_1024", partial(_sliding, keys=1025), _LONG, _CPU),
    Workload("alibi", _alibi, _GPU, _CPU_DENSE, "bias"),
    Workload("softcap", _softcap, _GPU, _CPU_DENSE, "none"),
    Workload("document", _document, _LONG, _CPU),
    Workload("prefix_lm", _prefix_lm, _GPU, _CPU),
    Workload("blocks_64", partial(_blocks, size=64), _LONG, _CPU),
    Workload("rel_bias", _rel_bias, Shape(2, 16, 16, 4096, 128), _CPU_DENSE, "bias"),
    Workload(
        "natten2d",
        partial(_natten2d, window=13),
        Shape(2, 16, 16, 96 * 96, 128),
        Shape(1, 8, 8, 64 * 64, 64),
    ),
    # 30 x 48 x 80 in tiles of 6 x 8 x 8.
    Workload(
        "sta3d", partial(_sta3d, tile=384, grid=(5, 6, 10)), Shape(1, 8, 8, 115200, 128), None
    ),
    _decode(8, 32768),
    _decode(1, 131072),
    *_short("full", _full, "full"),
    *_short("causal", _causal, "causal"),
    *_short("sliding", partial(_sliding, keys=256), "mask"),
)


def select(names: Sequence[str], device: torch.device) -> list[Workload]:
    """The workloads of these names, or all that have a shape on this kind of device.

    Args:
        names: may be patterns such as "short_*".

    Raises:
        ArgumentError: there is no such workload on it; the message lists those there are.
    """
    known = {w.name: w for w in WORKLOADS if w.shape(device) is not None}
    found: list[str] = []
    for name in names:
        matching = fnmatch.filter(known, name)
        found += matching
        if not matching:
            near = difflib.get_close_matches(name, known, 1)
            raise ArgumentError(
                f"there is no workload '{name}' on {device.type}",
                why=f"known: {', '.join(known)}",
                fix=near[0] if near else "",
            )
    return [known[n] for n in dict.fromkeys(found)] if names else list(known.values())
