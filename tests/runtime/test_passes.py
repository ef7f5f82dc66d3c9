"""A pass hands each launch the addresses of its own tensors, in the order that it was told."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from flexdsl.bundle.driver import Clear, Start
from flexdsl.bundle.manifest import Parameter
from flexdsl.bundle.words import Layout
from flexdsl.codegen import Argument, Phase, Role
from flexdsl.runtime import machine, passes
from flexdsl.runtime.blocks import aligned_rows, strides_of
from flexdsl.runtime.call import Call, Slot
from flexdsl.runtime.passes import COUNTER, Made, Pass, Step
from flexdsl.runtime.replay import Function, Launch, launch_of

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
SLOTS = (*GIVEN, ("tensors", "d_query"), ("gradients", "bias"), *WORK)
ROLES = {"tensors": Role.FACTORS, "rows": Role.ROWS, "sums": Role.SUMS}
ROLES |= {"gradients": Role.GRADIENT}

Kernel = Callable[[Phase, dict[Slot, int]], None]


class Kernels:
    """Runs `kernel` on the addresses of tensors, on a machine that does so again.

    Args:
        slots: what it takes.
        again: the phases that can be run again.
    """

    hopper = compiles = True

    def prepares(self, phases: tuple[Phase, ...], backward: bool) -> bool:
        return True

    def __init__(
        self, kernel: Kernel, slots: Sequence[Slot], again: tuple[Phase, ...] = PHASES
    ) -> None:
        self.kernel, self.slots, self.again = kernel, slots, again
        self.calls: list[tuple[Phase, Call]] = []
        self.phases: list[Phase] = []
        self.stays = False  # do programs stay, and count with a counter?

    def backward_phases(self, call: Call) -> tuple[Phase, ...]:
        return PHASES

    def run(self, phase: Phase, call: Call) -> Launch | None:
        self.calls.append((phase, call))
        tensors = [getattr(call, group)[name] for group, name in self.slots]
        self.kernel(phase, dict(zip(self.slots, (x.data_ptr() for x in tensors), strict=True)))
        if phase not in self.again:
            return None
        parameters = tuple(
            Parameter(
                Argument(name, Role.COUNTER if (g, name) == COUNTER else ROLES[g], name), "pointer"
            )
            for g, name in self.slots
        )
        self.phases.append(phase)
        handle, layout = len(self.phases) - 1, Layout(("pointer",) * len(parameters))
        function = Function(handle, 32, 0, 0, parameters, layout)
        return launch_of(function, 9 if self.stays else 1, tensors, call.places)

    # The machine, and its driver.

    @property
    def driver(self) -> Kernels:
        return self

    def multiprocessors(self, device: torch.device) -> int:
        return 4

    def stream(self, device: int) -> int:
        return 0

    def prepare(self, works: Sequence[Start | Clear], device: int) -> Callable[[int], None]:
        def start(stream: int) -> None:
            for work in works:
                if isinstance(work, Clear):
                    ctypes.memset(work.address.value, 0, work.size)
                else:
                    read = [ctypes.c_uint64.from_address(p).value for p in work.parameters]
                    self.kernel(
                        self.phases[work.function], dict(zip(self.slots, read, strict=True))
                    )

        return start


@pytest.fixture
def machine_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[Kernels], Kernels]:
    """Makes kernels those of the machine."""

    def use(kernels: Kernels) -> Kernels:
        monkeypatch.setattr(machine, "MACHINE", kernels)
        return kernels

    return use


def floats(address: int, shape: tuple[int, ...]) -> Any:
    return (ctypes.c_float * torch.Size(shape).numel()).from_address(address)


def given() -> list[torch.Tensor]:
    return [torch.randn(1, 2, 3, 5).half(), torch.randn(1, 2, 3)]


def made_by(kernels: Kernels) -> Pass:
    return Pass(
        kernels, [Step(p) for p in PHASES], PLAIN, 0.5, torch.device("cpu"), GIVEN, MADE, WORK
    )


def test_addresses_of_each_run(machine_of):
    seen: list[tuple[Phase, dict[Slot, int]]] = []

    def kernel(phase: Phase, at: dict[Slot, int]) -> None:
        seen.append((phase, at))
        if phase is PHASES[0]:
            for slot, shape in (WORK | {("gradients", "bias"): (7,)}).items():
                assert not any(floats(at[slot], shape))
        for slot, shape in WORK.items():  # the work space of another run is another one
            floats(at[slot], shape)[:] = [3.0] * torch.Size(shape).numel()
        floats(at["gradients", "bias"], (7,))[:] = range(7)

    kernels = machine_of(Kernels(kernel, SLOTS))
    again = made_by(kernels)
    first = given()
    d_query, bias = again.run(*first)
    call = kernels.calls[0][1]
    assert call.hopper and call.scale == 0.5 and tuple(call.places) == SLOTS
    assert call.tensors["query"] is first[0] and call.rows["lse"] is first[1]
    assert call.tensors["d_query"] is d_query and call.gradients["bias"] is bias
    for (group, name), shape in WORK.items():
        part = getattr(call, group)[name]
        assert part.shape == shape and part.is_contiguous()
        assert part.data_ptr() % 64 == call.rows["delta"].data_ptr() % 64
    for _ in range(2):
        seen.clear()
        second = given()
        results = again.run(*second)
        assert len(kernels.calls) == 2 and [phase for phase, _ in seen] == list(PHASES)
        for _, at in seen:
            assert [*at.values()][:4] == [x.data_ptr() for x in (*second, *results)]
        assert results[1].tolist() == [*range(7)] and results[0].data_ptr() != d_query.data_ptr()


@pytest.mark.parametrize("again", [(), PHASES])
def test_heads_in_parts(machine_of, again: tuple[Phase, ...]) -> None:
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
    slots = [("rows", "delta"), ("sums", "right"), ("tensors", "d_query"), ("sums", "left")]
    seen: list[tuple[int, float, bool]] = []

    def kernel(phase: Phase, at: dict[Slot, int]) -> None:
        if phase is Phase.BACKWARD_ROWS:
            return
        delta, right, d_query, left = at.values()
        assert not any(floats(right, (2, 64)))
        floats(right, (2, 64))[:] = [1.0] * 128  # the next part is to have none of them
        seen.append((left - d_query, floats(delta, (1,))[0], any(floats(left, (2, 64, 4)))))
        floats(delta, (1,))[0] = 5.0  # rows are not sums: they stay
        floats(left, (2, 64, 4))[0] = 1.0  # nor are those in dQ cleared: each part has its own

    run = Pass(
        machine_of(Kernels(kernel, slots, again)),
        *(steps, PLAIN, 0.5, torch.device("cpu"), (("tensors", "query"),), (made,), work, inside),
    ).run
    for _ in range(3):
        (d_query,) = run(torch.randn(1, 4, 64, 8).half())
        assert seen == [(0, 0.0, False), (offset, 5.0, False)]
        assert d_query.view(torch.float32).flatten()[[0, offset // 4]].tolist() == [1.0, 1.0]
        seen.clear()


@pytest.mark.parametrize("again", [(), PHASES[:1]])
def test_what_cannot_be_done_again_is_asked_for_each_time(machine_of, again):
    kernels = machine_of(Kernels(lambda *_: None, SLOTS, again))
    run = made_by(kernels).run
    for count in (2, 4, 6):
        run(*given())
        assert len(kernels.calls) == count


@pytest.mark.parametrize("stays", [False, True])
def test_a_counter_is_made_where_programs_count_with_it(machine_of, stays: bool) -> None:
    seen: list[int] = []

    def kernel(phase: Phase, at: dict[Slot, int]) -> None:
        seen.append(at[COUNTER])
        if at[COUNTER]:
            assert floats(at[COUNTER], (1,))[0] == 0.0
            floats(at[COUNTER], (1,))[0] = 1.0

    kernels = machine_of(Kernels(kernel, [("tensors", "query"), COUNTER]))
    kernels.again, kernels.stays = (Phase.FORWARD,), stays
    query: Any = (("tensors", "query"),)
    counter = {COUNTER: (1,)}
    steps = [Step(Phase.FORWARD)]
    run = Pass(kernels, steps, PLAIN, 0.5, torch.device("cpu"), query, (), counter).run
    for _ in range(3):
        run(torch.zeros(1, 1, 2, 8))
    assert len(kernels.calls) == 1 and [x > 0 for x in seen] == [True, stays, stays]


@pytest.mark.parametrize("current", [0, 1])
def test_memory_is_that_of_the_gpu_of_the_call(machine_of, monkeypatch, current: int) -> None:
    """torch's fast allocation knows no GPU but the current one, which is made that of the call."""
    now, seen = [current], []

    class Device:
        def __init__(self, index: int) -> None:
            self.index, self.before = index, now[0]

        def __enter__(self) -> None:
            now[0] = self.index

        def __exit__(self, *_: Any) -> None:
            now[0] = self.before

    def empty(*of: Any) -> torch.Tensor:
        seen.append(now[0])
        return torch.empty_strided(*of[:2], dtype=of[2])

    monkeypatch.setattr(torch._C, "_cuda_getDevice", lambda: now[0], raising=False)
    monkeypatch.setattr(torch.cuda, "device", Device)
    monkeypatch.setitem(passes._EMPTY, "cuda", empty)
    kernels = machine_of(Kernels(lambda *_: None, SLOTS))
    steps, device = [Step(p) for p in PHASES], torch.device("cuda", 1)
    run = Pass(kernels, steps, PLAIN, 0.5, device, GIVEN, MADE, WORK).run
    for _ in range(3):
        run(*given())
        assert seen == [1] * 3 and now == [current]
        seen.clear()


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
