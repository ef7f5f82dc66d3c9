"""A GPU that is not there: a driver that runs the kernels of a bundle under Triton's interpreter.

It gets what the real driver gets (machine code, and where each parameter lies), reads parameters
with ctypes, and runs the generated source of the same kernel on the CPU. Kernels
for Hopper, which the interpreter does not know, are recorded only.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from flexdsl.bundle.driver import Clear, Start
from flexdsl.bundle.files import Bundle
from flexdsl.bundle.manifest import Code, Parameter, TensorMap
from flexdsl.codegen import FACTOR_TENSORS
from flexdsl.runtime import bind, machine

_C = {
    "i8": ctypes.c_int8,
    "i16": ctypes.c_int16,
    "i32": ctypes.c_int32,
    "i64": ctypes.c_int64,
    "fp32": ctypes.c_float,
    "pointer": ctypes.c_uint64,
}
_TORCH = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "i8": torch.int8,
    "i1": torch.bool,
    "i16": torch.int16,
    "i32": torch.int32,
    "i64": torch.int64,
    "u8": torch.uint8,
}


@dataclass
class Launch:
    """One launch as the driver saw it; `values` has the words of each parameter."""

    code: Code
    programs: int
    threads: int
    shared_bytes: int
    stream: int
    values: list[list[Any]]


@dataclass
class Emulated:
    """A machine with one GPU, and its driver.

    Attributes:
        name: its target.
        bundles: where kernels are looked up by their machine code.
        runs: kernels without tensor maps are run, not only recorded.
        current_stream: torch's.
    """

    name: str
    bundles: list[Bundle]
    runs: bool = True
    current_stream: int = 7
    launches: list[Launch] = field(default_factory=list)
    loaded: list[tuple[Bundle, Code]] = field(default_factory=list)
    maps: list[tuple[TensorMap, int, list[int], list[int]]] = field(default_factory=list)

    @property
    def driver(self) -> Emulated:
        return self

    def target(self, device: torch.device) -> str:
        return self.name

    def multiprocessors(self, device: torch.device) -> int:
        return 2

    def stream(self, device: int) -> int:
        return self.current_stream

    def load(self, code: bytes, entry: str, shared_bytes: int, device: int) -> int:
        for bundle in self.bundles:
            for kernel in kernels_of(bundle):
                if bundle.machine_code(kernel) == code and kernel.entry == entry:
                    assert kernel.shared_bytes == shared_bytes
                    self.loaded.append((bundle, kernel))
                    return len(self.loaded)
        raise AssertionError("machine code of no bundle")

    def encoder(
        self, box: TensorMap, shape: Sequence[int], strides: Sequence[int]
    ) -> Callable[[int], bytes]:
        def encode(address: int) -> bytes:
            self.maps.append((box, address, list(shape), list(strides)))
            return len(self.maps).to_bytes(128, "little")

        return encode

    def prepare(self, works: Sequence[Start | Clear], device: int) -> Callable[[int], None]:
        def start(stream: int) -> None:
            for work in works:
                if isinstance(work, Clear):
                    ctypes.memset(work.address.value, 0, work.size)
                else:
                    self._start(work, stream)

        return start

    def _start(self, work: Start, stream: int) -> None:
        bundle, code = self.loaded[work.function - 1]
        values, place = [], iter(work.parameters)
        for parameter in code.parameters:
            values.append([_word(name, next(place)) for name in words_of(parameter)])
        assert [_word("pointer", at) for at in place] == [0] * code.null_pointers
        shape = work.programs, work.threads, work.shared_bytes
        self.launches.append(Launch(code, *shape, stream, values))
        if self.runs and all(p.tensor_map is None for p in code.parameters):
            self._run(bundle, code, work.programs, values)

    def _run(self, bundle: Bundle, code: Code, programs: int, values: list[list[Any]]) -> None:
        from triton.tools.tensor_descriptor import TensorDescriptor

        dtype = next(
            b.dtype for v in bundle.manifest.variants for b in v.builds if code in b.kernels
        )
        arguments: list[Any] = []
        for parameter, words in zip(code.parameters, values, strict=True):
            if parameter.type == "descriptor":
                rank = parameter.rank
                shape, strides = words[1 : 1 + rank], words[1 + rank : 1 + 2 * rank]
                flags = words[1 + 2 * rank : 1 + 2 * rank + parameter.flags]
                assert flags == [0] * parameter.flags
                assert words[1 + 2 * rank + parameter.flags :] == [*shape, *strides]
                size = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
                element = "bf16" if parameter.argument.of in FACTOR_TENSORS else dtype
                base = tensor_at(words[0], element, size).as_strided(shape, strides)
                arguments.append(TensorDescriptor(base, shape, strides, list(parameter.block)))
            elif parameter.type == "pointer":
                arguments.append(tensor_at(words[0], parameter.element, 1))
            else:
                arguments.append(words[0])
        source = bundle.folder / code.source
        function = getattr(module_of(source), code.entry)
        function[(programs,)](*arguments, BLOCK_M=code.tile[0], BLOCK_N=code.tile[1])


def kernels_of(bundle: Bundle) -> list[Code]:
    """All kernels of a bundle."""
    builds = (b for v in bundle.manifest.variants for b in v.builds)
    return [k for b in builds for k in b.kernels]


def words_of(parameter: Parameter) -> list[str]:
    """What triton's own launchers pass for an argument: see `expand_signature` there."""
    if parameter.type != "descriptor":
        return [parameter.type]
    rank = parameter.rank
    again = ["i32"] * rank + ["i64"] * rank
    if parameter.tensor_map is not None:
        return ["map", *again]
    return ["pointer", *["i64"] * (2 * rank), *["i8"] * parameter.flags, *again]


def _word(name: str, at: int | None) -> Any:
    """What lies at an address."""
    assert at is not None
    if name == "map":
        assert at % 64 == 0
        return ctypes.string_at(at, 128)
    kind = _C[name]
    assert at % ctypes.sizeof(kind) == 0
    return kind.from_address(at).value


def tensor_at(address: int, dtype: str, size: int) -> torch.Tensor:
    """`size` elements at an address."""
    kind = _TORCH[dtype]
    itemsize = torch.empty(0, dtype=kind).element_size()
    memory = (ctypes.c_char * (size * itemsize)).from_address(address)
    return torch.frombuffer(memory, dtype=kind)


def module_of(path: Path) -> Any:
    """The module of a generated source."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stand_in(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, name: str = "cuda:80", runs: bool = True
) -> Emulated:
    """The machine of a test: one emulated GPU, for which no kernel is loaded and no call known."""
    emulated = Emulated(name, [bundle], runs)
    monkeypatch.setattr(machine, "MACHINE", emulated)
    monkeypatch.setattr("flexdsl.runtime.bundled._FUNCTIONS", {})
    bind.forget()
    return emulated
