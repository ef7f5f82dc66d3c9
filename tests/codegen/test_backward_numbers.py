"""The gradients that the text of a Hopper backward kernel gives, on numbers, in any interleaving.

The whole backward pass runs as on such a GPU: the plan, the tables, the parts of the heads and the
arguments are the runtime's, the kernels before and after run under Triton's interpreter. In
between, the texts of the producer and of the consumers are Python (`support/on_numbers.py`).
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

import flexdsl as fx
from flexdsl.codegen import Kernel, Phase, Role
from flexdsl.codegen.module import HELPERS_OF_MODULES
from flexdsl.runtime import bind, device_plan, launch, triton_backward
from flexdsl.runtime.blocks import Blocks
from flexdsl.runtime.call import Call, table_of, value_of
from support.on_numbers import (
    Address,
    Descriptor,
    Language,
    Numbers,
    Products,
    Tile,
    keep_columns,
)
from tests.codegen.oracle import error, gradients
from tests.codegen.test_backward_sides import FLOATS, shared_of, side
from tests.codegen.test_query_sums import ORDER, WITHOUT_GPU, Dense
from tests.codegen.test_skipped_tiles import Alone
from tests.codegen.test_works import Pointer, function_of
from tests.codegen.variants import VARIANTS, Variant

DIMS = [(64, 64), (96, 96), (128, 128), (192, 128), (256, 256)]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Products of 64 rows are done sooner than threads are woken."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
    known |= {"keep": keep, "keep_columns": keep_columns}
    return known | {"add_query_sums": add_to(unit)}


def with_helpers(kernel: Kernel, known: dict[str, Any]) -> None:
    """Add the functions that the kernel's text has for expressions, bits, and ranges of tiles."""
    known |= {"held_sum": operator.add, "held_difference": operator.sub}  # nothing overflows here
    for name in re.findall(r"^def (\w+)\(", kernel.source, re.M):
        if name in (*HELPERS_OF_MODULES, "between", "softmax") and name not in known:
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


@dataclass
class OnNumbers(Dense):
    """The kernels of a backward pass, the one for Hopper on numbers.

    Attributes:
        seed: of the order in which the sides go on.
        fault: what is replaced in the text, and by what.
        read_bits: of each text that ran, whether it reads its mask as bits.
    """

    seed: int = 0
    fault: tuple[str, str] = ("", "")
    read_bits: list[bool] = field(default_factory=list[bool])

    def prepares(self, phases: tuple[Phase, ...], backward: bool) -> bool:
        return True

    def run(self, phase: Phase, call: Call) -> None:
        if phase is not Phase.BACKWARD:
            launch.run(phase, call)
            return
        config = launch.candidates(phase, call, 90)[0]
        plan = call.plan(phase, config)
        spec = call.spec(phase, plan, config)
        kernel = launch.kernel_of(phase, config.language, spec)
        self.read_bits.append(spec.mask_bits)
        table = table_of(kernel.arguments, plan, call, device_plan.launch_compiled)
        given = shared_of(kernel, lambda of: Tile()) | config.constants
        for argument in kernel.arguments:
            value = value_of(argument, call, plan, table, config)
            given[argument.name] = argument_of(value, argument.role)
        self._run(kernel, given)

    def _run(self, kernel: Kernel, given: dict[str, Any]) -> None:
        program, text = Numbers(self.seed), kernel.source.replace(*self.fault)
        assert not self.fault[0] or text != kernel.source
        known = {"gl": Alone(0), "leave": program.notes.__setitem__, "mbarrier": program}
        with_helpers(kernel, known)
        program.sides["producer"] = side(text, "producer", known | {"tma": program}, given)
        names = re.findall(r"^def (consumer\w*)", text, re.M)
        (unit,) = re.findall(FLOATS, text)
        for group in range(2):
            known = consumer_knows(program, int(unit))
            with_helpers(kernel, known)
            own = side(text, names[group % len(names)], known, given | {"GROUP": group})
            program.sides[f"consumer {group}"] = own
        program.run()


def backward_of(
    kernels: OnNumbers, variant: Variant, tensors: list[Tensor], d_out: Tensor, offset: int
) -> list[Tensor]:
    """Gradients of q, k and v by the text of the kernel."""
    q, k, v = tensors
    lengths = bind.lengths_of(q, k, offset)
    sources = (None if m is None else m.program for m in (variant.mask, variant.score))
    reading = bind.read(*sources, lengths, q.device)
    bound, scale = bind.bind(reading.mask, reading.score, lengths, (64, 64), ()), q.shape[3] ** -0.5
    mods = {"mask": variant.mask, "score": variant.score, "q_offset": offset, "return_lse": True}
    out, lse = fx.attention(q.double(), k.double(), v.double(), **mods, backend="reference")
    given = q, k, v, out.half(), d_out, lse.float()
    return [*triton_backward.backward(kernels, bound, scale, *given)(*given)]


def expect_on_numbers(
    name: str,
    dims: tuple[int, int],
    lengths: tuple[int, int, int],
    heads: tuple[int, int],
    seed: int,
    fault: tuple[str, str] = ("", ""),
) -> OnNumbers:
    """Hold gradients against those of float64 autograd through the reference."""
    (q_len, kv_len, offset), (of_queries, of_keys), (dim, value_dim) = lengths, heads, dims
    generator = torch.Generator().manual_seed(seed + q_len + dim)
    shapes = [(of_queries, q_len, dim), (of_keys, kv_len, dim), (of_keys, kv_len, value_dim)]
    shapes += [(of_queries, q_len, value_dim)]
    *tensors, d_out = (torch.randn(1, *s, generator=generator).half() for s in shapes)
    variant = VARIANTS[name]
    kernels = OnNumbers(seed=seed, fault=fault)
    found = backward_of(kernels, variant, tensors, d_out, offset)
    exact, none = [x.double() for x in tensors], torch.zeros(1, of_queries, q_len).double()
    incoming = [d_out.double(), none]
    wanted = gradients(variant.mask, variant.score, exact, incoming, "reference", q_offset=offset)
    for of, x, y in zip("qkv", found, wanted, strict=True):
        assert x.shape == y.shape and error(x, y) < 2e-3, (of, error(x, y))
    return kernels


NAMES = ("full", "causal", "sliding_window", "sinks", "document", "strided_heads")
NAMES += ("softcap", "alibi", "products", "decay")


@WITHOUT_GPU
@pytest.mark.parametrize("dims", DIMS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_variants(name: str, dims: tuple[int, int]) -> None:
    expect_on_numbers(name, dims, (96, 96, 0), (4, 4), seed=0)


@WITHOUT_GPU
@pytest.mark.parametrize("dims", DIMS, ids=str)
@pytest.mark.parametrize("lengths", [(1, 200, 199), (130, 70, 0), (192, 256, 0)])
def test_gradients_of_lengths(lengths: tuple[int, int, int], dims: tuple[int, int]) -> None:
    for name in ("causal", "full"):
        expect_on_numbers(name, dims, lengths, (2, 2), seed=1)


@WITHOUT_GPU
@pytest.mark.parametrize("dims", DIMS, ids=str)
@pytest.mark.parametrize(
    ("of_keys", "length", "enough"), [(4, 128, 1), (2, 150, 1), (1, 128, 1), (1, 150, 999)]
)
def test_gradients_of_heads_in_parts(
    of_keys: int, enough: int, length: int, dims: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums in the memory of dQ and beside it, and dK and dV that launches add up."""
    monkeypatch.setattr(triton_backward, "_ENOUGH", enough)
    expect_on_numbers("causal", dims, (length, length, 0), (4, of_keys), seed=3)


@WITHOUT_GPU
@pytest.mark.parametrize("dims", DIMS, ids=str)
def test_gradients_of_a_mask_read_as_bits(dims: tuple[int, int]) -> None:
    kernels = expect_on_numbers("neighborhood", dims, (150, 150, 0), (4, 4), seed=5)
    assert kernels.read_bits and all(kernels.read_bits)


FAULTS = {
    "columns of another part of dQ": (".slice(128, 128,", ".slice(0, 128,", "'q'"),
    "sums of another half": ("add_query_sums(right_sums", "add_query_sums(left_sums", "'q'"),
    "weights that are not masked": ("weights = gl.where", "_ = gl.where", "'q'"),
    "dS of another sign": ("- delta", "+ delta", "'q'"),
    "queries of another tile": ("stage = at % STAGES", "stage = (at + 1) % STAGES", "wait|come"),
    "a product that was not waited for": ("wait(0, deps=[d_w", "wait(1, deps=[d_w", "operand"),
}


@WITHOUT_GPU
@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_found(name: str) -> None:
    *fault, message = FAULTS[name]
    with pytest.raises((AssertionError, TypeError), match=message):
        expect_on_numbers("causal", (256, 256), (150, 150, 0), (2, 2), 7, (fault[0], fault[1]))
