"""What a bundle says of itself: plain data, to JSON and back.

Manifest: name, versions of tools, digests of files
    Variant: a mask and a score modification, and the calls that their kernels are right for
        Build: a target, an element type, head dimensions
            Code: one kernel in machine code, its parameters and how it is launched
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from flexdsl.bundle.expressions import program_of_json, program_to_json
from flexdsl.codegen import Argument, Role
from flexdsl.ir import Program

FORMAT = 1
Json = dict[str, Any]
Reads = Literal["", "bits", "blocks"]


@dataclass(frozen=True, slots=True)
class TensorMap:
    """How the copy engine sees a tensor: arguments of the driver's `cuTensorMapEncodeTiled`.

    Attributes:
        element: its `CUtensorMapDataType`.
        itemsize: bytes of an element.
        swizzle: its `CUtensorMapSwizzle`.
        block: lengths of a box, outermost first.
    """

    element: int
    itemsize: int
    swizzle: int
    block: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Parameter:
    """An argument of a kernel, and what the machine gets for it.

    Attributes:
        argument: what it is.
        type: "i8", "i16", "i32", "i64", "fp32", "pointer", or "descriptor": a tensor map, or else
            base, lengths and strides in 64 bits and `flags` bytes of 0; then lengths in 32 bits and
            strides in 64.
        element: type of the elements behind a pointer, "" for others.
        tensor_map: of a descriptor, where the target has a copy engine.
        rank: of a descriptor.
        block: of a descriptor.
        flags: of a descriptor without a tensor map.
    """

    argument: Argument
    type: str
    element: str = ""
    tensor_map: TensorMap | None = None
    rank: int = 0
    block: tuple[int, ...] = ()
    flags: int = 0


@dataclass(frozen=True)
class Code:
    """One kernel in machine code.

    Attributes:
        phase: what it computes, a name of `codegen.Phase`.
        entry: its name in the machine code.
        code, source: files, from the bundle's folder.
        tile: rows and columns.
        stages: of its pipeline.
        language: "triton" or "gluon".
        threads: of a program.
        shared_bytes: dynamic shared memory of a program.
        plan: "closed-form", "table", "bits" for a table and the mask as bits, "blocks" for a table
            of the parts of tiles, or "none" where it looks at no pair.
        grid: how many programs run, as a formula of sizes; `multiprocessors` are the GPU's.
        parameters: in the order of its signature.
        null_pointers: pointers after them, all 0.
        made_of: digest of all that it was compiled from.
        before: phases that write what it reads beside what a call is given: "factors", matrices of
            products, and "differences", tables of q - kv.
    """

    phase: str
    entry: str
    code: str
    source: str
    tile: tuple[int, int]
    stages: int
    language: str
    threads: int
    shared_bytes: int
    plan: str
    grid: str
    parameters: tuple[Parameter, ...]
    null_pointers: int
    made_of: str
    before: tuple[str, ...] = ()

    @property
    def reads(self) -> Reads:
        """What it reads of a plan beside the runs of tiles."""
        return "bits" if self.plan == "bits" else "blocks" if self.plan == "blocks" else ""


@dataclass(frozen=True, eq=False)
class Build:
    """The kernels of a variant for one target, element type and head dimensions.

    Attributes:
        read: gives the kernels; a process that loads a bundle looks at few of them.
    """

    target: str
    dtype: str
    head_dim: int
    value_dim: int
    read: Callable[[], tuple[Code, ...]]

    @cached_property
    def kernels(self) -> tuple[Code, ...]:
        """All of them."""
        return self.read()

    @property
    def title(self) -> str:
        """In words, for messages."""
        dims = f"{self.head_dim}/{self.value_dim}"
        return f"{self.target}, {self.dtype}, head dimensions {dims}"

    def of(
        self,
        phase: str,
        tile: tuple[int, int] | None = None,
        *,
        reads: Reads = "",
        before: tuple[str, ...] = (),
    ) -> Code | None:
        """The kernel of a phase, of that tile where there are several.

        Args:
            reads: the one that reads this.
            before: the phases that run before it.
        """
        of_phase = (k for k in self.kernels if k.phase == phase and tile in (None, k.tile))
        wanted = reads, before
        return next((k for k in of_phase if (k.reads, k.before) == wanted), None)


@dataclass(frozen=True)
class Variant:
    """A mask and a score modification.

    Attributes:
        name: an identifier.
        mask, score: the programs as they were given, or None.
        learned: captures of the score whose gradients the backward kernels add up.
        ranges: least and largest value of each parameter of the mask for which kernels of a closed
            form are proven; empty where there is none.
        positions: so many positions of queries and of keys they are proven for; likewise `batch`
            and `heads`, where the mask tells them apart. 0 for no limit.
    """

    name: str
    mask: Program | None
    score: Program | None
    builds: tuple[Build, ...]
    learned: tuple[str, ...] = ()
    ranges: dict[str, tuple[int, int]] = field(default_factory=dict)
    positions: int = 0
    batch: int = 0
    heads: int = 0


@dataclass(frozen=True)
class Manifest:
    """The whole.

    Attributes:
        files: digest (SHA-256) of every other file, by its path from the bundle's folder.
        tools: versions of what built it, by name.
    """

    name: str
    tools: dict[str, str]
    variants: tuple[Variant, ...]
    files: dict[str, str]

    def to_json(self) -> Json:
        """All of it, without the digest that `files.py` adds."""
        return {
            "format": FORMAT,
            "name": self.name,
            "tools": self.tools,
            "variants": [_variant_to_json(v) for v in self.variants],
            "files": self.files,
        }

    @staticmethod
    def of_json(data: Json) -> Manifest:
        """The manifest of data that satisfies the schema."""
        variants = tuple(_variant_of_json(v) for v in data["variants"])
        return Manifest(data["name"], data["tools"], variants, data["files"])


def _variant_to_json(variant: Variant) -> Json:
    return {
        "name": variant.name,
        "text": [p.text for p in (variant.mask, variant.score) if p is not None],
        "mask": None if variant.mask is None else program_to_json(variant.mask),
        "score": None if variant.score is None else program_to_json(variant.score),
        "learned": list(variant.learned),
        "limits": {
            "ranges": {n: list(r) for n, r in variant.ranges.items()},
            "positions": variant.positions,
            "batch": variant.batch,
            "heads": variant.heads,
        },
        "builds": [_build_to_json(b) for b in variant.builds],
    }


def _variant_of_json(data: Json) -> Variant:
    limits = data["limits"]
    return Variant(
        data["name"],
        None if data["mask"] is None else program_of_json(data["mask"]),
        None if data["score"] is None else program_of_json(data["score"]),
        tuple(_build_of_json(b) for b in data["builds"]),
        tuple(data["learned"]),
        {n: (low, high) for n, (low, high) in limits["ranges"].items()},
        limits["positions"],
        limits["batch"],
        limits["heads"],
    )


def _build_to_json(build: Build) -> Json:
    return {
        "target": build.target,
        "dtype": build.dtype,
        "head_dim": build.head_dim,
        "value_dim": build.value_dim,
        "kernels": [_code_to_json(k) for k in build.kernels],
    }


def _build_of_json(data: Json) -> Build:
    def read() -> tuple[Code, ...]:
        return tuple(_code_of_json(k) for k in data["kernels"])

    return Build(data["target"], data["dtype"], data["head_dim"], data["value_dim"], read)


def _code_to_json(code: Code) -> Json:
    fields = {name: getattr(code, name) for name in _CODE_FIELDS}
    parameters = [_parameter_to_json(p) for p in code.parameters]
    found = fields | {"tile": list(code.tile), "parameters": parameters}
    return found | {"before": list(code.before)} if code.before else found


def _code_of_json(data: Json) -> Code:
    fields = {name: data[name] for name in _CODE_FIELDS}
    parameters = tuple(_parameter_of_json(p) for p in data["parameters"])
    tile, before = tuple(data["tile"]), tuple(data.get("before", ()))
    return Code(**fields, tile=tile, parameters=parameters, before=before)


_CODE_FIELDS = (
    *("phase", "entry", "code", "source", "stages", "language", "threads", "shared_bytes"),
    *("plan", "grid", "null_pointers", "made_of"),
)


def _parameter_to_json(parameter: Parameter) -> Json:
    argument, box = parameter.argument, parameter.tensor_map
    data: Json = {"name": argument.name, "role": argument.role.name.lower(), "of": argument.of}
    data |= {"index": argument.index, "type": parameter.type}
    if parameter.element:
        data["element"] = parameter.element
    if parameter.type == "descriptor":
        data |= {"block": list(parameter.block), "flags": parameter.flags, "tensor_map": None}
    if box is not None:
        data["tensor_map"] = {
            "element": box.element,
            "itemsize": box.itemsize,
            "swizzle": box.swizzle,
            "block": list(box.block),
        }
    return data


def _parameter_of_json(data: Json) -> Parameter:
    block = tuple(data.get("block", ()))
    rows = block[-2] if len(block) > 1 else (block[0] if block else 0)
    role = Role[data["role"].upper()]
    argument = Argument(data["name"], role, data["of"], data["index"], rows)
    box = data.get("tensor_map")
    tensor_map = None
    if box is not None:
        element, itemsize, swizzle = box["element"], box["itemsize"], box["swizzle"]
        tensor_map = TensorMap(element, itemsize, swizzle, tuple(box["block"]))
    element = data.get("element", "")
    flags = data.get("flags", 0)
    return Parameter(argument, data["type"], element, tensor_map, len(block), block, flags)
