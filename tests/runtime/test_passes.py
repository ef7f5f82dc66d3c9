"""A pass hands each launch the addresses of its own tensors, in the order that it was told."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from flexdsl.codegen import Phase
from flexdsl.runtime.blocks import aligned_rows, strides_of
from flexdsl.runtime.call import Call
from flexdsl.runtime.passes import Made, Pass, Step

PLAIN: Any = SimpleNamespace(
    products=(), tables=()
)  # all that a pass itself looks at of a call's mods
PHASES = (Phase.BACKWARD_ROWS, Phase.BACKWARD)
GIVEN = (("tensors", "query"), ("rows", "lse"))
MADE = (
    Made(("tensors", "d_query"), (1, 2, 3, 5), torch.float16, padded=True),
    Made(("gradients", "bias"), (7,), zeroed=True),
)
WORK = {("rows", "delta"): (1, 2, 3), ("sums", "d_query"): (1, 2, 128, 5)}
ORDER = (*GIVEN, ("tensors", "d_query"), ("gradients", "bias"), *WORK)


class Kernels:
    """Writes down what it is to run; `again` says for which phases it can do so again."""

    hopper = True

    def __init__(self, again: tuple[Phase, ...] = PHASES) -> None:
        self.again, self.calls, self.launches = again, [], []

    def backward_phases(self, call: Call) -> tuple[Phase, ...]:
        return PHASES

    def run(self, phase: Phase, call: Call) -> Any:
        self.calls.append((phase, call))
        return Again(self.launches, phase) if phase in self.again else None


class Again:
    def __init__(self, launches: list[Any], phase: Phase) -> None:
        self.launches, self.phase = launches, phase

    def run(self, addresses: list[int]) -> None:
        work = [floats(addresses[ORDER.index(slot)], shape) for slot, shape in WORK.items()]
        self.launches.append((self.phase, list(addresses), work))


def floats(address: int, shape: tuple[int, ...]) -> list[float]:
    return list((ctypes.c_float * torch.Size(shape).numel()).from_address(address))


def given() -> list[torch.Tensor]:
    return [torch.randn(1, 2, 3, 5).half(), torch.randn(1, 2, 3)]


def made_by(kernels: Kernels) -> Pass:
    return Pass(
        kernels, [Step(p) for p in PHASES], PLAIN, 0.5, torch.device("cpu"), GIVEN, MADE, WORK
    )


def test_addresses_of_each_run():
    kernels = Kernels()
    again = made_by(kernels)
    first = given()
    d_query, bias = again.run(*first)
    assert [phase for phase, _ in kernels.calls] == list(PHASES) and not kernels.launches
    call = kernels.calls[0][1]
    assert call.order == ORDER and call.hopper and call.scale == 0.5
    assert call.tensors["query"] is first[0] and call.rows["lse"] is first[1]
    assert call.tensors["d_query"] is d_query and call.gradients["bias"] is bias
    for (group, name), shape in WORK.items():
        part = getattr(call, group)[name]
        assert part.shape == shape and part.is_contiguous() and not part.any()
        assert part.data_ptr() % 64 == call.rows["delta"].data_ptr() % 64
        part.fill_(3.0)  # the work space of another run is another one
    second = given()
    results = again.run(*second)
    assert len(kernels.calls) == 2
    for phase, (launched, addresses, work) in zip(PHASES, kernels.launches, strict=True):
        assert launched is phase
        assert addresses[:4] == [x.data_ptr() for x in (*second, *results)]
        assert not any(map(any, work))
    assert results[1].tolist() == [0.0] * 7 and results[0].data_ptr() != d_query.data_ptr()


@pytest.mark.parametrize("again", [(), PHASES])
def test_heads_in_parts(again: tuple[Phase, ...]) -> None:
    """Sums inside of dQ begin where the heads of the step do; those beside it are cleared again."""
    made = Made(("tensors", "d_query"), (1, 4, 64, 8), torch.float16, zeroed=True)
    work = {("rows", "delta"): (1, 4, 64), ("sums", "right"): (2, 64)}
    inside = {("sums", "left"): ("tensors", "d_query")}
    offset = 2 * 64 * 8 * 2
    steps = [
        Step(Phase.BACKWARD_ROWS),
        Step(Phase.BACKWARD, range(2)),
        Step(Phase.BACKWARD, range(2, 4), cleared=True, offset=offset),
    ]
    seen: list[tuple[int, ...]] = []

    def look(delta: int, right: int, d_query: int, left: int) -> None:
        assert not any(floats(right, (2, 64)))
        sums = (ctypes.c_float * 128).from_address(right)
        sums[:] = [1.0] * 128  # the next part is to have none of them
        seen.append((left - d_query, floats(delta, (1,))[0]))
        (ctypes.c_float * 1).from_address(delta)[0] = 5.0  # rows are not sums: they stay

    slots = [("rows", "delta"), ("sums", "right"), ("tensors", "d_query"), ("sums", "left")]

    class Parts:
        hopper = True

        def run(self, phase: Phase, call: Call) -> Any:
            if phase is Phase.BACKWARD:
                look(*(getattr(call, group)[name].data_ptr() for group, name in slots))
            return Replayed(phase, call.order) if phase in again else None

    class Replayed:
        def __init__(self, phase: Phase, order: tuple[Any, ...]) -> None:
            self.phase, self.order = phase, order

        def run(self, addresses: list[int]) -> None:
            if self.phase is Phase.BACKWARD:
                look(*(addresses[self.order.index(slot)] for slot in slots))

    given = (("tensors", "query"),)
    cpu = torch.device("cpu")
    run = Pass(Parts(), steps, PLAIN, 0.5, cpu, given, (made,), work, inside).run
    for _ in range(3):
        run(torch.randn(1, 4, 64, 8).half())
        assert seen == [(0, 0.0), (offset, 5.0)]
        seen.clear()


@pytest.mark.parametrize("again", [(), PHASES[:1]])
def test_what_cannot_be_done_again_is_asked_for_each_time(again):
    kernels = Kernels(again)
    run = made_by(kernels).run
    for count in (2, 4, 6):
        run(*given())
        assert len(kernels.calls) == count and not kernels.launches


def test_strides_of_what_is_made():
    assert strides_of((1, 2, 3, 5), torch.float16) == (48, 24, 8, 1)
    assert strides_of((1, 2, 3, 5), torch.float16, padded=False) == (30, 15, 5, 1)
    assert strides_of((4, 6), torch.float32) == (8, 1)
    assert strides_of((), torch.float32) == ()
    assert Made(("rows", "x"), ()).on(torch.device("cpu"))().shape == ()


def test_rows_are_copied_where_a_pointer_could_not_be_read():
    x = torch.arange(9.0)
    assert aligned_rows(x) is x
    for other in (x[1:], x[::2]):
        copied = aligned_rows(other)
        assert copied.data_ptr() % 16 == 0 and copied.is_contiguous()
        assert torch.equal(copied, other)
