"""Passes of which one kernel for Hopper is run as text, on numbers, in any interleaving.

The plan, the tables, the parts of the heads and the arguments are the runtime's, the kernels before
and after run under Triton's interpreter. In between, the texts of the producer and of the consumers
are Python (`support/on_numbers.py`).
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from flexdsl.codegen import Kernel, KernelSpec, Phase, Role
from flexdsl.codegen.module import HELPERS_OF_MODULES
from flexdsl.runtime import bind, device_plan, launch
from flexdsl.runtime.blocks import Blocks
from flexdsl.runtime.call import Call, value_of
from flexdsl.runtime.call_table import table_of
from support.on_numbers import (
    Address,
    Descriptor,
    Language,
    Numbers,
    Products,
    Tile,
    keep_columns,
)
from tests.codegen.test_backward_sides import FLOATS, shared_of, side
from tests.codegen.test_query_sums import ORDER
from tests.codegen.test_skipped_tiles import Alone
from tests.codegen.test_works import Pointer, function_of
from tests.codegen.variants import Variant

DIMS = [(64, 64), (96, 96), (128, 128), (192, 128), (256, 256)]


def add_to(unit: int) -> Any:
    """What adds products of 64 rows to sums, in parts of 64 columns."""

    def add(sums: Address, tile: int, order: Any, numbers: Tensor) -> None:
        at, flat = sums.at + tile * unit, sums.tensor.view(-1)
        for n, part in enumerate(numbers.split(64, 1)):
            flat[at + 4096 * n : at + 4096 * (n + 1)] += part.reshape(-1)[ORDER]

    return add


def spread(words: Tensor, columns: int, layout: Any) -> Tensor:
    """The word of each pair of 64 rows with `columns` others."""
    r, c = torch.arange(64)[:, None], torch.arange(columns)[None, :]
    return words[(r // 16 * 32 + r % 8 * 4 + c % 8 // 2) * (columns // 64) + c // 64]


def keep(numbers: Tensor, words: Tensor, bit: Tensor, other: float) -> Tensor:
    """The numbers whose bit is set in their words."""
    return torch.where((words & bit) != 0, numbers, other)


def consumer_knows(program: Numbers, unit: int) -> dict[str, Any]:
    """What a consumer calls."""
    products = Products()
    known: dict[str, Any] = {"gl": Language(), "tma": program, "mbarrier": program}
    known |= {"warpgroup_mma": products.start, "warpgroup_mma_wait": products.wait}
    known |= {"warpgroup_mma_init": lambda x: x, "counted": lambda n: n}
    known |= {"fence_async_shared": lambda: None, "read": program.notes.__getitem__}
    known |= {"LN2": 0.6931471805599453, "LOG2E": 1.4426950408889634, "spread": spread}
    known |= {"tanh": lambda x, factor, scale: scale * torch.tanh(x * factor)}
    known |= {"half_tangent": lambda x, factor, sign: sign * (torch.tanh(x * factor) - 1.0) / 2.0}
    known |= {"keep": keep, "keep_columns": keep_columns}
    known |= {"in_pairs": lambda x, dtype: x.to(dtype)}
    return known | {"add_query_sums": add_to(unit)}


def with_helpers(kernel: Kernel, known: dict[str, Any]) -> None:
    """Add the functions that the kernel's text has for expressions, bits, and ranges of tiles."""
    known |= {"held_sum": operator.add, "held_difference": operator.sub}  # nothing overflows here
    for name in re.findall(r"^def (\w+)\(", kernel.source, re.M):
        if (
            name in (*HELPERS_OF_MODULES, "between", "softmax", "bounded_softmax")
            and name not in known
        ):
            function_of(kernel, name, known)


def argument_of(value: Any, role: Role) -> Any:
    """An argument as the text's functions take it."""
    match value:
        case Blocks():
            return Descriptor(value.tensor.view(value.shape), value.block)
        case Tensor() if role in (Role.TABLE, Role.COUNTER):
            return Pointer(value.tolist())
        case Tensor():
            return Address(value)
    return value


class Producer(Alone):
    """What a producer calls; ends of rows are tensors."""

    def load(self, at: Any, mask: Any = True, other: int = 0) -> Any:
        return Language().load(at) if isinstance(at, Address) else super().load(at, mask, other)

    def arange(self, first: int, last: int, layout: Any) -> Tensor:
        return torch.arange(first, last)

    def where(self, condition: Any, a: Any, b: Any) -> Any:
        if isinstance(condition, Tensor):
            return torch.where(condition, a, b)
        return super().where(condition, a, b)

    def minimum(self, a: Any, b: Any) -> Any:
        tensors = isinstance(a, Tensor) or isinstance(b, Tensor)
        return Language().minimum(a, b) if tensors else super().minimum(a, b)

    def maximum(self, a: Any, b: Any) -> Any:
        tensors = isinstance(a, Tensor) or isinstance(b, Tensor)
        return Language().maximum(a, b) if tensors else super().maximum(a, b)

    def min(self, x: Tensor) -> int:
        return int(x.min())

    def max(self, x: Tensor) -> int:
        return int(x.max())


@contextmanager
def one_thread() -> Iterator[None]:
    """Products of 64 rows are done sooner than threads are woken."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass
class OnNumbers:
    """The kernels of a pass, the one for Hopper on numbers; those around it are interpreted.

    Attributes:
        phase: of the one on numbers.
        seed: of the order in which the sides go on.
        fault: what is replaced in the text, and by what.
        specs, tiles: of each text that ran.
    """

    phase: Phase
    seed: int = 0
    fault: tuple[str, str] = ("", "")
    hopper: bool = True
    compiles: bool = True
    specs: list[KernelSpec] = field(default_factory=list[KernelSpec])
    tiles: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])

    def backward_phases(self, call: Call) -> tuple[Phase, ...]:
        return launch.phases_of(call)

    def prepares(self, phases: tuple[Phase, ...], backward: bool) -> bool:
        return True

    def splits(self, call: Call) -> None:
        """Few queries are for the kernel on numbers, too."""

    def run(self, phase: Phase, call: Call) -> None:
        if phase is not self.phase:
            launch.run(phase, call)
            return
        config = launch.candidates(phase, call, 90)[0]
        plan = call.plan(phase, config)
        spec = call.spec(phase, plan, config)
        kernel = launch.kernel_of(phase, config.language, spec)
        self.specs.append(spec)
        self.tiles.append(config.tile)
        table = table_of(kernel.arguments, plan, call, device_plan.launch_compiled)
        given = shared_of(kernel, lambda of: Tile()) | config.constants
        for argument in kernel.arguments:
            value = value_of(argument, call, plan, table, config)
            given[argument.name] = argument_of(value, argument.role)
        self._run(kernel, given, spec.consumers)

    def _run(self, kernel: Kernel, given: dict[str, Any], groups: int) -> None:
        program, text = Numbers(self.seed), kernel.source.replace(*self.fault)
        assert not self.fault[0] or text != kernel.source
        known = {"gl": Producer(0), "mbarrier": program}
        known["leave"] = lambda note, number: program.notes.__setitem__(note, int(number))
        with_helpers(kernel, known)
        program.sides["producer"] = side(text, "producer", known | {"tma": program}, given)
        names = re.findall(r"^def (consumer\w*)", text, re.M)
        unit = re.search(FLOATS, text)
        for group in range(groups):
            known = consumer_knows(program, int(unit[1]) if unit else 0)
            with_helpers(kernel, known)
            own = side(text, names[group % len(names)], known, given | {"GROUP": group})
            program.sides[f"consumer {group}"] = own
        with one_thread():
            program.run()


def bound_of(variant: Variant, tensors: Sequence[Tensor], offset: int) -> bind.Bound:
    """A call on q, k and v, of queries that begin at position `offset`."""
    q, k, _ = tensors
    lengths = bind.lengths_of(q, k, offset)
    sources = (None if m is None else m.program for m in (variant.mask, variant.score))
    reading = bind.read(*sources, lengths, q.device)
    learned = tuple(n for n, x in bind.captured(reading.score).items() if x.requires_grad)
    return bind.bind(reading.mask, reading.score, lengths, (64, 64), learned)
