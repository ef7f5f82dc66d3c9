"""How long the planner on a GPU takes for packed documents, step by step, at several lengths.

Causal documents of 256 tokens on average, in tiles of 128 x 128: with ids that never decrease, with
ids in random order, and with an id drawn for every token. Those are no documents any more, but the
worst that a mask of ids can be: no summary of 128 ids tells a tile, each has some 4 allowed pairs
among 16384, and a third of them is looked at until one is found. The table of the host is not made:
that is for tests. Called by `plans.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

import flexdsl as fx
from flexdsl.errors import ArgumentError
from flexdsl.runtime import device_plan

REPEATS = 20
Ids = Callable[[int, torch.Generator], torch.Tensor]


@dataclass(frozen=True)
class DeviceFigure:
    """The planner on a device for one mask, in milliseconds.

    Attributes:
        call: of a call that waits for its end, the host's work included; the median of several.
        graph: of the same kernels replayed as a CUDA graph, which is the device's work alone.
        proofs, refinement: of the kernels of these steps, in graphs of their own; proofs include
            the summaries of the captured tensor.
        undecided: tiles that refinement looks at.
    """

    name: str
    tokens: int
    call: float
    graph: float
    proofs: float
    refinement: float
    undecided: int


def _in_order(tokens: int, generator: torch.Generator) -> torch.Tensor:
    """Ids that never decrease."""
    cuts = torch.randperm(tokens - 1, generator=generator)[: tokens // 256 - 1] + 1
    return torch.zeros(tokens, dtype=torch.int32).index_fill_(0, cuts, 1).cumsum(0).int()


def _in_random_order(tokens: int, generator: torch.Generator) -> torch.Tensor:
    names = torch.randperm(tokens // 256, generator=generator).int()
    return names[_in_order(tokens, generator).long()]


def _shuffled(tokens: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(tokens // 256, (tokens,), generator=generator, dtype=torch.int32)


IDS: dict[str, Ids] = {
    "sorted ids": _in_order,
    "ids in random order": _in_random_order,
    "an id drawn for each token": _shuffled,
}


def measure_on(device: str, tokens: int) -> list[DeviceFigure]:
    """Measure the planner of `device` for every mask of `IDS`.

    Raises:
        ArgumentError: it is no CUDA device.
    """
    if torch.device(device).type != "cuda" or not torch.cuda.is_available():
        raise ArgumentError(f"there is no CUDA device {device!r} here", fix="no --device at all")
    with torch.cuda.device(device):
        return [_measure(name, make, device, tokens) for name, make in IDS.items()]


def _measure(name: str, make: Ids, device: str, tokens: int) -> DeviceFigure:
    ids = make(tokens, torch.Generator().manual_seed(0)).to(device)
    mask = fx.mask_mod(lambda b, h, q, kv: ids[q] == ids[kv] and q >= kv)
    plan = fx.plan(mask, tokens, tokens, device=device)
    values = plan.mask.values if plan.mask is not None else {}
    on = torch.device(device)

    def proofs() -> torch.Tensor:
        return device_plan.states(plan, values, on, device_plan.launch_compiled)

    def table() -> object:
        return device_plan.make_table(plan, values, on, device_plan.launch_compiled)

    table()
    proven = proofs()
    both = _replay(lambda: device_plan.refine(proofs(), plan, values, device_plan.launch_compiled))
    alone = _replay(proofs)
    return DeviceFigure(
        name,
        tokens,
        call=_median(table),
        graph=_replay(table),
        proofs=alone,
        refinement=both - alone,
        undecided=int((proven == 1).sum()),
    )


def _replay(work: Callable[[], object]) -> float:
    """Median of the milliseconds that `work` takes as a graph."""
    work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return _median(graph.replay)


def _median(work: Callable[[], object]) -> float:
    """Median of the milliseconds of several calls, each waited for."""
    times = []
    for _ in range(REPEATS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return sorted(times)[REPEATS // 2]


def table_of_device(lengths: list[list[DeviceFigure]]) -> str:
    """Lines of text: a row for each mask and length."""
    head = (
        f"{'mask':28}{'tokens':>9}{'call ms':>9}{'graph ms':>10}{'proofs':>8}{'refined':>9}"
        f"{'undecided tiles':>17}"
    )
    return "\n".join(
        [head]
        + [
            f"{f.name:28}{f.tokens:9}{f.call:9.2f}{f.graph:10.2f}{f.proofs:8.2f}"
            f"{f.refinement:9.2f}{f.undecided:17}"
            for figures in lengths
            for f in figures
        ]
    )
