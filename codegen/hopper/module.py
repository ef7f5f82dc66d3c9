"""The module around a Hopper kernel: imports, the functions of its partitions, its signature.

Also what the partitions share: tiles in shared memory and the barriers that guard them. What the
partitions compute is for the file of each kernel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap

from ..kernel import Argument, Kernel, KernelSpec, Language, Role, pieces
from ..lower import Lowering
from ..module import HELPERS_OF_MODULES, write_docstring, write_signature
from ..writer import Block

GROUP_ROWS = 64  # rows that one warpgroup's matrix products have
ELEMENT_BYTES = 2  # the kernels take 16-bit elements
CONSTANTS = ("BLOCK_M", "BLOCK_N", "STAGES")

_IMPORTS = """\
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_init,
    warpgroup_mma_wait,
)

LOG2E = gl.constexpr(1.4426950408889634)
LN2 = gl.constexpr(0.6931471805599453)
"""

BARRIERS = '''\
@gluon.jit
def barriers(COUNT: gl.constexpr, ARRIVALS: gl.constexpr):
    """COUNT barriers in shared memory; ARRIVALS arrivals complete a phase of each."""
    made = gl.allocate_shared_memory(gl.int64, [COUNT, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(COUNT):
        mbarrier.init(made.index(i), count=ARRIVALS)
    return made
'''

# The scores come from 16-bit elements: the absolute error is what counts.
_TANH = '''\
@gluon.jit
def tanh(x, factor, scale):
    """scale * tanh(x * factor) by 1 - 2 / (1 + exp(2 y)), whose absolute error is below 3e-7."""
    divisor = 1.0 + gl.exp2(x * (2.8853900817779268 * factor))
    reciprocal: gl.constexpr = "rcp.approx.ftz.f32 $0, $1;"
    inverse = gl.inline_asm_elementwise(reciprocal, "=f,f", [divisor], gl.float32, True, 1)
    return scale - (2.0 * scale) * inverse
'''

NO_SCORE = '-float("inf")'  # the source of a masked pair's score

# Names that the Hopper kernels' own lines use beside those of the portable ones.
RESERVED = frozenset(
    """gluon gl tma mbarrier fence_async_shared warpgroup_mma warpgroup_mma_init
    warpgroup_mma_wait barriers softmax bounded_softmax
    producer consumer GROUP STAGES step stage phase before first_tile last_step turn
    leading_run leading_kind second_run second_kind kind first_stop following next_start next_stop
    next_kind later later_kind own unfreed q_of_tile kv_of_tile
    next_work nth_work taken query_place key_place mine note after masked notes leave read counted
    QUERIES query_0 query_1 query_2
    work_notes tile_notes query_free
    query_ready key_ready key_free value_ready value_free zero SCORES ROWS KEYS
    weights_0 weights_1 weights_2 bits_tile words words_at word column bit spread WORDS
    keep in_pairs normalizer softmax_turn half_tangent tangent_cap tangent_sign tangent_factor
    EIGHT between by_columns keep_columns first_column columns column_stop row_words position
    """.split()  # noqa: SIM905
)


@dataclass(frozen=True)
class Partition:
    """A function that some warps of a program run.

    Attributes:
        name: of the function.
        title: its docstring.
        constants: names of its compile-time arguments, which come first.
        arguments: names of the others; the kernel has values of the same names.
        body: its lines, indented by one level.
    """

    name: str
    title: str
    constants: tuple[str, ...]
    arguments: tuple[str, ...]
    body: Block

    def call(self, *constants: int) -> str:
        """The source of the pair (function, arguments) that `warp_specialize` takes.

        Args:
            constants: values of the first compile-time arguments; the others go by their names.
        """
        given = [f"gl.constexpr({c})" for c in constants]
        given += self.constants[len(constants) :]
        return f"({self.name}, ({', '.join([*given, *self.arguments])}))"

    def write(self, module: Block) -> None:
        """Write the function."""
        constants = (f"{c}: gl.constexpr" for c in self.constants)
        module.line(f"\n@gluon.jit\ndef {self.name}(")
        for line in wrap(", ".join([*constants, *self.arguments]) + ",", 96):
            module.line(f"    {line}")
        module.line("):")
        module.line(f'    """{self.title}"""')
        module.line(str(self.body))


# Registers of the consumers but the first, then of the producer, by the number of consumers: a
# multiprocessor has 65,536, for 128 threads of each warpgroup.
_REGISTERS = {2: "[240, 24]", 3: "[160, 160, 32]"}


def write_barriers(block: Block, counts: Mapping[str, str]) -> None:
    """Write the barriers, by name: how many of each, and how many arrivals complete a phase."""
    for name, count in counts.items():
        block.line(f"{name} = barriers({count})")
    block.line("fence_async_shared()")


def write_partitions(block: Block, consumers: Sequence[str], producer: Partition) -> None:
    """Write the start of a warpgroup for each consumer, and of the producer's one warp.

    Args:
        consumers: what `Partition.call` gives for each.
    """
    with block.indented("gl.warp_specialize([") as calls:
        for call in (*consumers, producer.call()):
            calls.line(f"{call},")
    warps = [*[4] * (len(consumers) - 1), 1]
    block.line(f"], {warps}, {_REGISTERS[len(consumers)]})")


def names_of_mods(lowering: Lowering) -> list[str]:
    """The arguments that mask and score read; those of a table are the schedule's to hand."""
    table = (Role.TABLE, Role.TABLE_STRIDE)
    return [a.name for a in lowering.arguments.values() if a.role not in table]


def write_hopper_module(
    title: str,
    entry: str,
    spec: KernelSpec,
    arguments: tuple[Argument, ...],
    functions: Iterable[str],
    partitions: Sequence[Partition],
    body: Block,
) -> Kernel:
    """A kernel in Gluon.

    Args:
        title: what it computes.
        functions: texts of the functions that it uses, in Gluon or in portable Triton.
        partitions: the functions of its warps.
        body: its own lines, indented by one level.
    """
    module = Block()
    write_docstring(module, title, spec, arguments)
    module.line(_IMPORTS)
    for text in functions:
        module.line(f"\n{in_gluon(text)}")
    for partition in partitions:
        partition.write(module)
    write_signature(module, "gluon", entry, arguments, CONSTANTS)
    return Kernel(str(module) + str(body), entry, arguments, CONSTANTS, Language.GLUON)


def helpers_of(names: Iterable[str]) -> list[str]:
    """The texts of the helper functions of those names."""
    return [{**HELPERS_OF_MODULES, "tanh": _TANH}[name] for name in sorted(names)]


def in_gluon(text: str) -> str:
    """The text of a function of elementwise Triton as one of Gluon."""
    return text.replace("@triton.jit", "@gluon.jit").replace("tl.", "gl.")


def allocate(block: Block, tensor: str, dim: int, count: int | str, rows: int | str) -> list[str]:
    """Write the allocation of `count` tiles of `rows` rows of a tensor, one array for each piece.

    Returns:
        The names of the arrays.
    """
    names: list[str] = []
    for i, (_, width) in enumerate(pieces(dim)):
        names.append(f"{tensor}_tiles_{i}")
        descriptor = f"{tensor}_{width}"
        shape = f"[{count}, 1, 1, {rows}, {width}]"
        block.line(
            f"{names[-1]} = gl.allocate_shared_memory("
            f"{descriptor}.dtype, {shape}, {descriptor}.layout)"
        )
    return names


def allocate_scores(block: Block, name: str, dim: int, places: int) -> list[str]:
    """Write the allocation of `places` for 64 by BLOCK_M numbers of the type of queries; its name.

    Args:
        dim: elements of a query.
    """
    dtype, shape = f"query_{pieces(dim)[0][1]}.dtype", f"{GROUP_ROWS}, BLOCK_M]"
    layout = f"gl.NVMMASharedLayout.get_default_for([{shape}, {dtype})"
    block.line(f"{name} = gl.allocate_shared_memory({dtype}, [{places}, {shape}, {layout})")
    return [name]


def accumulator(columns: int | str) -> str:
    """The source of a constant: the layout of a warpgroup's product of 64 rows by `columns`."""
    return f"gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, {columns}, 16])"


def matrix(tensor: str, piece: int, index: str, rows: int | str, width: int) -> str:
    """The source of a tile in shared memory as a matrix of `rows` by `width`."""
    return f"{tensor}_tiles_{piece}.index({index}).reshape([{rows}, {width}])"


def write_fetch(
    block: Block, tensor: str, dim: int, at: str, row: str, rows: int | str, index: str, ready: str
) -> None:
    """Write the copies of a tile into place `index` of its arrays; `ready` counts their bytes.

    Args:
        at: source of the coordinates before the row.
        row: source of the first row.
    """
    for i, (offset, width) in enumerate(pieces(dim)):
        block.line(
            f"tma.async_copy_global_to_shared({tensor}_{width}, [{at}, {row}, {offset}],"
            f" {ready}, {tensor}_tiles_{i}.index({index}))"
        )


def tile_bytes(rows: int | str, *dims: int) -> str:
    """The source of the bytes that the copies of tiles bring, by the elements of their rows."""
    widths = (width for dim in dims for _, width in pieces(dim))
    return f"{rows} * {sum(widths) * ELEMENT_BYTES}"
