"""What is launched again gets the machine's words of the new call, on a driver that writes down."""

from __future__ import annotations

import ctypes
import struct
import time
from collections.abc import Sequence
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import flexdsl as fx
from flexdsl.aot.specs import Shape, job_of
from flexdsl.aot.targets import parse_target
from flexdsl.bundle.driver import Clear, Start
from flexdsl.bundle.manifest import Parameter
from flexdsl.bundle.words import MAP_BYTES, Layout
from flexdsl.codegen import Argument, Phase, Role
from flexdsl.runtime import bind, machine
from flexdsl.runtime.blocks import Blocks
from flexdsl.runtime.call import Call, programs_of, value_of
from flexdsl.runtime.compiled import launch_of_compiled
from flexdsl.runtime.replay import Cleared, Function, Replay, launch_of

LENGTHS = bind.Lengths(1, 2, 300, 260, 40)
STREAM = 77


class Driver:
    """A machine whose driver makes a tensor map of its arguments, and keeps the last launch."""

    encoded = 0

    @property
    def driver(self) -> Driver:
        return self

    def multiprocessors(self, device: torch.device) -> int:
        return 5

    def stream(self, device: int) -> int:
        return STREAM

    def encoder(self, box: Any, shape: list[int], strides: list[int]) -> Any:
        def encode(address: int) -> bytes:
            self.encoded += 1
            numbers = [address, *shape, *strides]
            return struct.pack(f"<{len(numbers)}Q", *numbers).ljust(MAP_BYTES, b"\0")

        return encode

    def prepare(self, works: Sequence[Start | Clear], device: int) -> Any:
        def start(stream: int) -> None:
            self.done, self.given = [], []
            for work in works:
                if isinstance(work, Clear):
                    self.done.append(("clear", work.address.value, work.size))
                    continue
                shape = work.programs, work.threads, work.shared_bytes
                self.done.append((work.function, *shape, device, stream))
                self.addresses = list(work.parameters)
                self.given.append(self.addresses)

        return start


@pytest.fixture
def driver(monkeypatch):
    found = Driver()
    monkeypatch.setattr(machine, "MACHINE", found)
    return found


ORDER = (
    *(("tensors", n) for n in ("query", "key", "value", "out")),
    *(("rows", "lse"), ("sums", "next_work")),
)


PLACES = {slot: (i, 0) for i, slot in enumerate(ORDER)}


def addresses(call: Call) -> list[int]:
    return [getattr(call, group)[name].data_ptr() for group, name in ORDER]


def again_of(*arguments: Any) -> Replay:
    launch = launch_of_compiled(*arguments)
    assert launch is not None
    return Replay([launch], len(ORDER))


def call_of(mask: fx.Mod, score: fx.Mod, shift: int = 0) -> Call:
    """A call with tensors of its own; `shift` bytes from where memory begins."""
    bound = bind.bind(mask.program, score.program, LENGTHS, (0, 0))

    def tensor(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        size = torch.Size(shape).numel()
        skipped = shift // dtype.itemsize
        return torch.zeros(size + skipped, dtype=dtype)[skipped:].reshape(shape)

    tensors = {
        "query": tensor(1, 2, LENGTHS.q_len, 128),
        "key": tensor(1, 2, LENGTHS.kv_len, 128),
        "value": tensor(1, 2, LENGTHS.kv_len, 128),
        "out": tensor(1, 2, LENGTHS.q_len, 128),
    }
    rows = {"lse": tensor(1, 2, LENGTHS.q_len, dtype=torch.float32)}
    sums = {"next_work": torch.zeros(1)}
    return Call(bound, 0.25, tensors, rows, sums, hopper=True, places=PLACES)


def made(mask: fx.Mod, score: fx.Mod) -> tuple[Any, Any, Any]:
    """A kernel, as if triton had launched it, its source, and its configuration."""
    shape = Shape(parse_target("cuda:90"), "bf16", 128, 128)
    job = job_of(Phase.FORWARD, mask.program, score.program, shape)
    kernel, config = job.candidates[0]
    signature = {a.name: job_type(job, a) for a in kernel.arguments}
    about = SimpleNamespace(num_ctas=1, num_warps=9, shared=4096, tensordesc_meta=[])
    sizes: list[str] = []
    for argument in kernel.arguments:
        if signature[argument.name] != "tensordesc<>":
            pointer = signature[argument.name].startswith("*")
            sizes.append(".param .u64 .ptr .global" if pointer else ".param .u32")
            continue
        block = [1, 1, config.rows(argument), argument.index]
        about.tensordesc_meta.append({"swizzle": 3, "block_size": block})
        sizes += [".param .align 64 .b8 [128]", *[".param .u32"] * 4, *[".param .u64"] * 4]
    sizes += [".param .u64 .ptr .global .align 1"] * 2  # scratch memory that is not used
    lines = [
        f"\t{text.replace(' [', f' forward_param_{i}[')}"
        if "[" in text
        else f"\t{text} forward_param_{i}"
        for i, text in enumerate(sizes)
    ]
    stands_for = SimpleNamespace(
        asm={"ptx": ".visible .entry forward(\n" + ",\n".join(lines) + "\n)\n"},
        name=kernel.entry,
        metadata=about,
        src=SimpleNamespace(signature=signature),
        function=4711,
    )
    return stands_for, kernel, config


def job_type(job: Any, argument: Any) -> str:
    of_blocks = argument.role in (Role.DESCRIPTOR, Role.ROWS_DESCRIPTOR)
    return "tensordesc<>" if of_blocks else job.type_of(argument)


def values(kernel: Any, call: Call, config: Any) -> list[Any]:
    return [value_of(a, call, None, None, config) for a in kernel.arguments]


SLOPES = torch.linspace(0.5, 0.1, 2)
MASK = fx.stdlib.sliding_window(70)
SCORE = fx.score_mod(lambda s, b, h, q, kv: s + SLOPES[h] * (kv - q))


def test_words_of_another_call(driver):
    compiled, kernel, config = made(MASK, SCORE)
    first, second = call_of(MASK, SCORE), call_of(MASK, SCORE)
    programs = programs_of(Phase.FORWARD, kernel.arguments, first, config)
    given = values(kernel, first, config)
    launch = launch_of_compiled(compiled, kernel, given, programs, 2, PLACES)
    assert launch is not None and first.addresses == addresses(first)
    Replay([launch], len(ORDER)).run(addresses(second))
    threads, shared = compiled.metadata.num_warps * 32, compiled.metadata.shared
    assert programs == 6 and launch.counts  # five stay, and share the sixth one's work
    assert driver.done == [(4711, 5, threads, shared, 2, STREAM)]
    at = iter(driver.addresses)
    for argument, value in zip(kernel.arguments, values(kernel, second, config), strict=True):
        place = next(at)
        if isinstance(value, Blocks):
            numbers = [value.tensor.data_ptr(), *value.shape, *value.strides]
            size = 8 * len(numbers)
            assert struct.unpack(f"<{len(numbers)}Q", ctypes.string_at(place, size)) == tuple(
                numbers
            )
            assert place % 64 == 0
            again_i32 = [ctypes.c_int32.from_address(next(at)).value for _ in value.shape]
            again_i64 = [ctypes.c_int64.from_address(next(at)).value for _ in value.strides]
            assert (again_i32, again_i64) == (value.shape, value.strides)
        elif isinstance(value, torch.Tensor):
            assert ctypes.c_uint64.from_address(place).value == value.data_ptr(), argument
        elif isinstance(value, float):
            assert ctypes.c_float.from_address(place).value == value, argument
        else:
            assert ctypes.c_int32.from_address(place).value == value, argument
    rest = [ctypes.c_uint64.from_address(place).value for place in at]
    assert rest == [0] * len(rest)


def test_maps_are_encoded_once_for_an_address(driver):
    compiled, kernel, config = made(MASK, SCORE)
    call = call_of(MASK, SCORE)
    again = again_of(compiled, kernel, values(kernel, call, config), 6, 0, PLACES)
    for _ in range(3):
        again.run(addresses(call))
    assert driver.encoded == 4


def test_threads_do_not_mix_their_addresses(driver, monkeypatch):
    """Each start takes a while, as one does that waits for the GPU: its parameters stay."""
    compiled, kernel, config = made(MASK, SCORE)
    calls = [call_of(MASK, SCORE) for _ in range(2)]
    seen = []

    def prepare(works: Any, device: int) -> Any:
        (work,) = works

        def now() -> list[bytes]:
            """The first bytes of each parameter, which in a tensor map are its address."""
            return [ctypes.string_at(place, 8) for place in work.parameters]

        def start(stream: int) -> None:
            before = now()
            time.sleep(0.001)
            seen.append(before == now())

        return start

    monkeypatch.setattr(driver, "prepare", prepare, raising=False)
    again = again_of(compiled, kernel, values(kernel, calls[0], config), 6, 0, PLACES)
    run = again.run
    threads = [Thread(target=lambda c=c: [run(addresses(c)) for _ in range(20)]) for c in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [True] * 40


@pytest.mark.parametrize(
    ("field", "value"),
    [("tensordesc_meta", None), ("num_ctas", 2), ("global_scratch_size", 16), ("launch_pdl", True)],
)
def test_what_only_triton_launches(driver, field, value):
    compiled, kernel, config = made(MASK, SCORE)
    setattr(compiled.metadata, field, value)
    given = values(kernel, call_of(MASK, SCORE), config)
    assert launch_of_compiled(compiled, kernel, given, 6, 0, PLACES) is None


def test_parameters_that_the_assembly_does_not_have(driver):
    compiled, kernel, config = made(MASK, SCORE)
    compiled.src.signature["scale"] = "constexpr"
    given = values(kernel, call_of(MASK, SCORE), config)
    assert launch_of_compiled(compiled, kernel, given, 6, 0, PLACES) is None


def test_a_table_of_the_call_has_a_new_address_and_its_own_strides(driver):
    pointer, stride = Argument("t", Role.CAPTURE, "t"), Argument("t_stride_0", Role.STRIDE, "t", 0)
    parameters = (Parameter(pointer, "pointer", "fp32"), Parameter(stride, "i32"))
    function = Function(4711, 128, 0, 0, parameters, Layout(("pointer", "i32")))
    launch = launch_of(function, 1, [torch.zeros(16), 7], {("tables", "t"): (0, 0)})
    Replay([launch], 1).run([4096])
    table, seven = driver.addresses
    assert ctypes.c_uint64.from_address(table).value == 4096
    assert ctypes.c_int32.from_address(seven).value == 7


def test_several_in_a_row_with_parts_of_a_tensor_and_memory_that_is_cleared(driver):
    """Two launches have parts of one tensor under one name, each its own; all is in order."""
    pointer = Argument("left", Role.SUMS, "left")
    parameters = (Parameter(pointer, "pointer", "fp32"),)
    function = Function(4711, 128, 64, 3, parameters, Layout(("pointer",)))
    offsets = 0, 256
    launches = [
        launch_of(function, 1 + o, [torch.zeros(4)], {("sums", "left"): (1, o)}) for o in offsets
    ]
    again = Replay([Cleared((1, 64), 192), launches[0], Cleared((0, 0), 8), launches[1]], 3)
    for first, second in ((16, 4096), (32, 8192)):
        again.run([first, second, 48])
        shapes = [(4711, 1 + o, 128, 64, 3, STREAM) for o in offsets]
        assert driver.done == [
            *(("clear", second + 64, 192), shapes[0]),
            *(("clear", first, 8), shapes[1]),
        ]
        left = [ctypes.c_uint64.from_address(given[0]).value for given in driver.given]
        assert left == [second + o for o in offsets]
