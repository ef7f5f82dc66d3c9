"""What is launched again gets the machine's words of the new call, on a driver that writes down."""

from __future__ import annotations

import ctypes
import struct
import time
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import flexdsl as fx
from flexdsl.aot.specs import Shape, job_of
from flexdsl.aot.targets import parse_target
from flexdsl.bundle.manifest import Parameter
from flexdsl.bundle.words import MAP_BYTES, Layout
from flexdsl.codegen import Argument, Phase, Role
from flexdsl.runtime import bind, machine
from flexdsl.runtime.blocks import Blocks
from flexdsl.runtime.call import Call, programs_of, value_of
from flexdsl.runtime.compiled import replay_of_compiled
from flexdsl.runtime.replay import Function, replay_of

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

    def prepare(self, *arguments: Any) -> Any:
        *shape, pointers = arguments

        def start(stream: int) -> None:
            self.launch, self.addresses = [*shape, stream], list(pointers)

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


def addresses(call: Call) -> list[int]:
    return [getattr(call, group)[name].data_ptr() for group, name in ORDER]


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
    return Call(bound, 0.25, tensors, rows, sums, hopper=True, order=ORDER)


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
    again = replay_of_compiled(compiled, kernel, values(kernel, first, config), programs, 2, ORDER)
    assert again is not None
    again.run(addresses(second))
    threads, shared = compiled.metadata.num_warps * 32, compiled.metadata.shared
    assert programs == 6 and again.counts  # five stay, and share the sixth one's work
    assert driver.launch == [4711, 5, threads, shared, 2, STREAM]
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
    again = replay_of_compiled(compiled, kernel, values(kernel, call, config), 6, 0, ORDER)
    assert again is not None
    for _ in range(3):
        again.run(addresses(call))
    assert driver.encoded == 4


def test_threads_do_not_mix_their_addresses(driver, monkeypatch):
    """Each start takes a while, as one does that waits for the GPU: its parameters stay."""
    compiled, kernel, config = made(MASK, SCORE)
    calls = [call_of(MASK, SCORE) for _ in range(2)]
    seen = []

    def prepare(*arguments: Any) -> Any:
        *_, pointers = arguments
        begin, end = pointers[0], pointers[len(pointers) - 1]

        def start(stream: int) -> None:
            before = ctypes.string_at(begin, end - begin)
            time.sleep(0.001)
            seen.append(before == ctypes.string_at(begin, end - begin))

        return start

    monkeypatch.setattr(driver, "prepare", prepare, raising=False)
    again = replay_of_compiled(compiled, kernel, values(kernel, calls[0], config), 6, 0, ORDER)
    assert again is not None
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
    assert replay_of_compiled(compiled, kernel, given, 6, 0, ORDER) is None


def test_parameters_that_the_assembly_does_not_have(driver):
    compiled, kernel, config = made(MASK, SCORE)
    compiled.src.signature["scale"] = "constexpr"
    given = values(kernel, call_of(MASK, SCORE), config)
    assert replay_of_compiled(compiled, kernel, given, 6, 0, ORDER) is None


def test_a_table_of_the_call_has_a_new_address_and_its_own_strides(driver):
    pointer, stride = Argument("t", Role.CAPTURE, "t"), Argument("t_stride_0", Role.STRIDE, "t", 0)
    parameters = (Parameter(pointer, "pointer", "fp32"), Parameter(stride, "i32"))
    function = Function(4711, 128, 0, 0, parameters, Layout(("pointer", "i32")))
    again = replay_of(function, 1, [torch.zeros(16), 7], (("tables", "t"),))
    again.run([4096])
    table, seven = driver.addresses
    assert ctypes.c_uint64.from_address(table).value == 4096
    assert ctypes.c_int32.from_address(seven).value == 7
