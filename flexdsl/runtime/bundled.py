"""Kernels of bundles in the place of compiled ones: which kernel a call takes, and its launch.

    FLEXDSL_BUNDLES    folders, separated as in PATH: backend "auto" looks for kernels there first
    FLEXDSL_NO_JIT=1   what no bundle has is an error, and is not compiled

It imports no compiler. Bundles are opened by `flexdsl/bundle/`; what the arguments of a kernel are
is known to `call.py`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flexdsl.analysis import BlockPlan
from flexdsl.bundle.cuda import cuda
from flexdsl.bundle.driver import Driver
from flexdsl.bundle.files import Bundle, open_bundle
from flexdsl.bundle.manifest import Build, Code, Parameter, Variant
from flexdsl.bundle.words import Layout, Word, layout_of, words_of_blocks
from flexdsl.codegen import OF_KEYS, Language, Phase
from flexdsl.errors import BackendError, BundleError, BundleWarning
from flexdsl.ir import Program
from flexdsl.runtime import bind, device_plan
from flexdsl.runtime.blocks import Blocks
from flexdsl.runtime.call import DTYPES, Call, device_table, programs_of, value_of
from flexdsl.runtime.tuning import Config, diagonal_config

PREFIX = "bundle:"  # of the names of backends; the digest of a bundle follows
_INT32 = 2**31

_OPEN: dict[str, Bundle] = {}
_FUNCTIONS: dict[tuple[str, str, int], int] = {}
_MISSED: set[str] = set()


class Machine:
    """The GPUs of this process, as torch knows them, and their driver."""

    @property
    def driver(self) -> Driver:
        """What loads and runs machine code."""
        return cuda()

    def target(self, device: torch.device) -> str:
        """The name of the target that runs on `device`.

        Raises:
            BackendError: bundles cannot run there.
        """
        if torch.version.hip is not None:
            raise BackendError(
                "bundles cannot be loaded on AMD GPUs",
                why="their machine code is built, and its launch by the HIP driver is not",
                fix="backend='triton'; or your own launcher, by what manifest.json says",
            )
        if device.type != "cuda":
            raise BackendError(
                f"a bundle cannot run on tensors on {device}",
                why="it holds machine code for a GPU",
                fix="tensors on that GPU; or fx.attention without a bundle, which runs here",
            )
        return _target(device)

    def stream(self, device: torch.device) -> int:
        """The handle of torch's current stream."""
        return int(torch.cuda.current_stream(device).cuda_stream)


MACHINE = Machine()


@cache
def _target(device: torch.device) -> str:
    major, minor = torch.cuda.get_device_capability(device)
    return f"cuda:{10 * major + minor}"


def backend_of(bundle: Any) -> str:
    """The name of the backend that has the kernels of `bundle` alone.

    Args:
        bundle: its folder, or what `load` gave.

    Raises:
        BundleError: it cannot be opened.
    """
    return PREFIX + opened(getattr(bundle, "bundle", bundle)).digest


def opened(bundle: Bundle | str | Path) -> Bundle:
    """The bundle, opened and known by its digest from now on."""
    found = bundle if isinstance(bundle, Bundle) else _open(str(Path(bundle).absolute()))
    return _OPEN.setdefault(found.digest, found)


@cache
def _open(folder: str) -> Bundle:
    return open_bundle(folder)


def bundles_of_environment() -> list[Bundle]:
    """Those that FLEXDSL_BUNDLES names, opened."""
    folders = os.environ.get("FLEXDSL_BUNDLES", "").split(os.pathsep)
    return [opened(folder) for folder in folders if folder]


def of_backend(backend: str, bound: bind.Bound, q: Tensor, v: Tensor) -> Bundled:
    """The kernels of a call by the backend `bundle:DIGEST`.

    Raises:
        BundleError: the bundle is not open here, or does not have them.
    """
    digest = backend.removeprefix(PREFIX)
    if digest not in _OPEN:
        bundles_of_environment()
    if digest not in _OPEN:
        raise BundleError(
            f"the bundle with the digest {digest[:16]}... is not open in this process",
            fix="fx.load(FOLDER), or FLEXDSL_BUNDLES=FOLDER before Python starts",
        )
    found = _find([_OPEN[digest]], bound, q, v)
    if found is None:
        raise _missing(bound, q, v, [_OPEN[digest]])
    return found


def of_environment(bound: bind.Bound, q: Tensor, v: Tensor) -> Bundled | None:
    """The kernels of a call in the bundles of FLEXDSL_BUNDLES, or None: then they are compiled.

    Raises:
        BundleError: none has them, and FLEXDSL_NO_JIT=1 is set.
    """
    bundles = bundles_of_environment()
    found = _find(bundles, bound, q, v) if bundles else None
    if found is not None:
        return found
    if os.environ.get("FLEXDSL_NO_JIT") == "1":
        raise _missing(bound, q, v, bundles)
    if bundles:
        text = str(_missing(bound, q, v, bundles).what)
        if text not in _MISSED:
            _MISSED.add(text)
            warnings.warn(f"{text}: it is compiled", BundleWarning, stacklevel=2)
    return None


def refuse_compiling(backend: str) -> None:
    """Raise `BundleError` where FLEXDSL_NO_JIT=1 is set: `backend` compiles its kernels."""
    if os.environ.get("FLEXDSL_NO_JIT") == "1":
        raise BundleError(
            f"backend {backend!r} compiles its kernels, and FLEXDSL_NO_JIT=1 forbids that",
            fix="backend='auto' with FLEXDSL_BUNDLES=FOLDER, or bundle=FOLDER",
        )


def _find(bundles: list[Bundle], bound: bind.Bound, q: Tensor, v: Tensor) -> Bundled | None:
    target, dtype = MACHINE.target(q.device), DTYPES.get(q.dtype)
    wanted = target, dtype, q.shape[3], v.shape[3]
    for bundle in bundles:
        for variant in bundle.manifest.variants:
            if not _is_of(variant, bound):
                continue
            for build in variant.builds:
                if (build.target, build.dtype, build.head_dim, build.value_dim) == wanted:
                    return Bundled(bundle, variant, build)
    return None


def _is_of(variant: Variant, bound: bind.Bound) -> bool:
    pairs = (variant.mask, bound.mask), (variant.score, bound.score)
    return all(_expression(mine) is _expression(theirs) for mine, theirs in pairs)


def _expression(program: Program | None) -> Any:
    return None if program is None else program.expr


def _missing(bound: bind.Bound, q: Tensor, v: Tensor, bundles: list[Bundle]) -> BundleError:
    texts = " and ".join(p.text for p in (bound.mask, bound.score) if p is not None)
    dtype = DTYPES.get(q.dtype, str(q.dtype).removeprefix("torch."))
    dims = f"{q.shape[3]}/{v.shape[3]}"
    has = [
        f"{variant.name} for {build.title}"
        for bundle in bundles
        for variant in bundle.manifest.variants
        for build in variant.builds
    ]
    return BundleError(
        f"no bundle has the kernel of {texts or 'full attention'} for {MACHINE.target(q.device)},"
        f" {dtype}, head dimensions {dims}",
        why=f"there is {'; '.join(has)}" if has else "FLEXDSL_BUNDLES names no bundle",
        fix=f"flexdsl build ... --target {MACHINE.target(q.device)} --dtype {dtype}"
        f" --head-dim {q.shape[3]}",
    )


@dataclass(frozen=True)
class Bundled:
    """The kernels of one build of a variant, as `Kernels` of calls.

    Attributes:
        bundle: where the machine code is.
        variant, build: which kernels.
    """

    bundle: Bundle
    variant: Variant
    build: Build

    @property
    def hopper(self) -> bool:
        """Is the forward kernel one in Gluon?"""
        forward = self.build.of(Phase.FORWARD.value)
        return forward is not None and forward.language == Language.GLUON.value

    def learned(self, wanted: tuple[str, ...]) -> tuple[str, ...]:
        """The captures whose gradients the backward kernels add up.

        Raises:
            BundleError: they are not those of `wanted`.
        """
        missing = [name for name in wanted if name not in self.variant.learned]
        if missing:
            raise BundleError(
                f"variant {self.variant.name} was built without the gradient of {missing[0]}",
                fix=f"{missing[0]}.detach(); or build with a tensor that requires a gradient",
            )
        return self.variant.learned

    def backward_phases(self, call: Call) -> tuple[Phase, ...]:
        """The kernels of the backward pass, in the order in which they run.

        Raises:
            BundleError: it was not built, or adds up in any order where a fixed one is asked for.
        """
        names = {k.phase for k in self.build.kernels}
        phases = [p for p in Phase if p.value in names and p.value.startswith("backward")]
        if not phases:
            raise BundleError(
                f"variant {self.variant.name} was built without its backward pass",
                fix="flexdsl build ... --phase forward --phase backward",
            )
        if Phase.BACKWARD in phases and torch.are_deterministic_algorithms_enabled():
            raise BundleError(
                f"the backward pass of variant {self.variant.name} adds dQ up by atomics",
                why="torch.use_deterministic_algorithms(True) is set",
                fix="fx.attention without a bundle, which takes portable kernels then",
            )
        return tuple(phases)

    def run(self, phase: Phase, call: Call) -> None:
        """Run the kernel of `phase`.

        Raises:
            BundleError: it was not built, or is not right for this call.
        """
        code = self._code(phase, None)
        config = _config(code)
        if code.plan == "closed-form":
            self._check_limits(call)
        plan = self._plan(phase, call, config) if code.plan == "table" else None
        table = None if plan is None else device_table(plan, call, self.launch_planning)
        arguments = tuple(p.argument for p in code.parameters)
        values = [value_of(a, call, plan, table, config) for a in arguments]
        programs = programs_of(phase, arguments, call, config)
        self._launch(code, programs, values, call.device)

    def launch_planning(
        self,
        phase: Phase,
        mask: Program | None,
        programs: int,
        given: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        tile: tuple[int, int],
        device: torch.device,
    ) -> None:
        """Run a kernel that makes plans: `device_plan.Launch`."""
        if programs:
            code = self._code(phase, tile)
            values = [device_plan.value_of(p.argument, given, tensors) for p in code.parameters]
            self._launch(code, programs, values, device)

    def _code(self, phase: Phase, tile: tuple[int, int] | None) -> Code:
        code = self.build.of(phase.value, tile)
        if code is None:
            of = "" if tile is None else f" for tiles of {tile[0]} x {tile[1]}"
            raise BundleError(
                f"variant {self.variant.name} for {self.build.title} has no kernel"
                f" {phase.value}{of}",
                fix="build the bundle again with this flexdsl",
            )
        if phase is Phase.BACKWARD_DIAGONAL:
            self._check_diagonal(code)
        return code

    def _check_diagonal(self, code: Code) -> None:
        """The sums of diagonals are laid out by the tile that this flexdsl expects."""
        widest = max(self.build.head_dim, self.build.value_dim)
        itemsize = 4 if self.build.dtype == "fp32" else 2
        if code.tile != diagonal_config(widest, itemsize).tile:
            raise BundleError(
                f"kernel {code.phase} of {self.variant.name} has other tiles than this flexdsl's",
                fix="build the bundle again with this flexdsl",
            )

    def _plan(self, phase: Phase, call: Call, config: Config) -> BlockPlan:
        plan = call.plan(phase, config)
        assert plan.outer == ("kv" if phase in OF_KEYS else "q")
        return plan.tabulated if plan.closed_form is not None else plan

    def _check_limits(self, call: Call) -> None:
        """Raise `BundleError` where the proof of a closed form does not cover the call."""
        variant, lengths = self.variant, call.bound.lengths
        for name, (low, high) in variant.ranges.items():
            if not low <= call.bound.mask_values[name] <= high:
                raise _not_proven(variant, name, call.bound.mask_values[name], low, high)
        positions = max(lengths.q_offset + lengths.q_len, lengths.kv_len)
        for name, value, most in (
            ("the number of positions", positions, variant.positions),
            ("the number of batches", lengths.batch, variant.batch),
            ("the number of heads", lengths.heads, variant.heads),
        ):
            if most and value > most:
                raise _not_proven(variant, name, value, 0, most)

    def _launch(self, code: Code, programs: int, values: list[Any], device: torch.device) -> None:
        words: list[Word] = []
        for parameter, value in zip(code.parameters, values, strict=True):
            words += _words(parameter, value)
        words += [0] * code.null_pointers
        layout = _layout(self.bundle.digest, code)
        MACHINE.driver.launch(
            self._function(code, device),
            programs,
            code.threads,
            code.shared_bytes,
            MACHINE.stream(device),
            device.index or 0,
            layout.pack(words),
            layout.offsets,
        )

    def _function(self, code: Code, device: torch.device) -> int:
        index = device.index or 0
        key = self.bundle.digest, f"{code.code}:{code.entry}", index
        if key not in _FUNCTIONS:
            machine_code = self.bundle.machine_code(code)
            driver = MACHINE.driver
            _FUNCTIONS[key] = driver.load(machine_code, code.entry, code.shared_bytes, index)
        return _FUNCTIONS[key]


_LAYOUTS: dict[tuple[str, str], Layout] = {}


def _layout(digest: str, code: Code) -> Layout:
    key = digest, code.code
    if key not in _LAYOUTS:
        _LAYOUTS[key] = layout_of(code)
    return _LAYOUTS[key]


def _config(code: Code) -> Config:
    return Config(*code.tile, code.threads // 32, code.stages, Language(code.language))


def _words(parameter: Parameter, value: Any) -> list[Word]:
    """What the machine gets for the value of an argument."""
    if isinstance(value, Blocks):
        base: int | bytes = value.tensor.data_ptr()
        if parameter.tensor_map is not None:
            box = parameter.tensor_map
            base = MACHINE.driver.encode(box, value.tensor.data_ptr(), value.shape, value.strides)
        return words_of_blocks(parameter, base, value.shape, value.strides)
    if isinstance(value, Tensor):
        return [value.data_ptr()]
    if parameter.type == "i32" and not -_INT32 <= value < _INT32:
        raise BundleError(
            f"{parameter.argument.name} is {value}, and the kernel takes 32 bits",
            why="kernels of bundles count elements of captured tensors and positions in 32 bits",
            fix="fx.attention without a bundle, which compiles a kernel of 64 bits",
        )
    return [value]


def _not_proven(variant: Variant, name: str, value: int, low: int, high: int) -> BundleError:
    return BundleError(
        f"{name} is {value}, and the kernels of variant {variant.name} are proven for {low} to"
        f" {high}",
        why="they compute which tiles they need by formulas, which were proven for those values",
        fix="build a variant with such a value, or fx.attention without a bundle",
    )
