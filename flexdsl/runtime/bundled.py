"""Kernels of a bundle in the place of compiled ones: how they are launched, by the driver alone.

What the arguments of a kernel are is known to `call.py`; which kernels a call takes, to
`bundles.py`. It imports no compiler.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flexdsl.analysis import BlockPlan
from flexdsl.bundle.files import Bundle
from flexdsl.bundle.manifest import Build, Code, Variant
from flexdsl.bundle.words import layout_of
from flexdsl.codegen import OF_KEYS, Language, Phase
from flexdsl.errors import BundleError
from flexdsl.ir import Program
from flexdsl.runtime import device_plan, machine, mask_bits
from flexdsl.runtime.call import OF_ROWS, Call, programs_of, value_of
from flexdsl.runtime.call_table import table_of
from flexdsl.runtime.differences import with_tables
from flexdsl.runtime.passes import first_phases
from flexdsl.runtime.replay import Function, Launch, Replay, launch_of
from flexdsl.runtime.splits import Splits, find_splits, packed_heads, rows_of
from flexdsl.runtime.tuning import Config, diagonal_config

_INT32 = 2**31

_FUNCTIONS: dict[tuple[str, Code, int], Function] = {}


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

    @property
    def compiles(self) -> bool:
        """Kernels were made before any call."""
        return False

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

    def prepares(self, phases: tuple[Phase, ...], backward: bool) -> bool:
        """Was a pass built whose kernels run after those of `phases`?"""
        before = _names(phases)
        if not backward:
            return self.build.of(Phase.FORWARD.value, before=before) is not None
        return any(k.before == before for k in self.build.kernels if k.phase.startswith("backward"))

    def splits(self, call: Call) -> Splits | None:
        """How a forward pass is split along the keys; None where the ordinary kernel runs."""
        packed = packed_heads(call)
        tile = self._tile_of_rows(call, packed) if packed else None
        before = _names(first_phases(with_tables(call.bound)))
        code = tile and self.build.of(Phase.FORWARD_SPLIT.value, tile, before=before)
        if code is None:
            return None
        return find_splits(call, call.plan(Phase.FORWARD_SPLIT, _config(code)), packed)

    def run(self, phase: Phase, call: Call) -> Launch:
        """Run the kernel of `phase`; what does so for another call of its kind.

        Raises:
            BundleError: it was not built, or is not right for this call.
        """
        code, plan = self._kernel(phase, call)
        config = _config(code)
        if code.plan == "closed-form":
            self._check_limits(call)
        arguments = tuple(p.argument for p in code.parameters)
        table = table_of(arguments, plan, call, self.launch_planning)
        values = [value_of(a, call, plan, table, config) for a in arguments]
        programs = programs_of(phase, arguments, call, config)
        function = self._function(code, call.device)
        launch = launch_of(function, programs, _checked(code, values), call.places)
        addresses = call.addresses
        Replay([launch], len(addresses)).run(addresses)
        return launch

    def _kernel(self, phase: Phase, call: Call) -> tuple[Code, BlockPlan | None]:
        """The kernel of `phase` for a call, and its plan where that is a table."""
        before = () if phase in OF_ROWS else _names(first_phases(call.bound))
        few = phase is Phase.FORWARD_SPLIT
        tile = self._tile_of_rows(call, call.sizes["packed"]) if few else None
        code = self._code(phase, tile, before)
        if code.plan != "table":
            return code, None
        of_blocks = self.build.of(phase.value, reads="blocks", before=before)
        if of_blocks is not None:
            plan = self._plan(phase, call, _config(of_blocks))
            if call.takes_blocks(phase, plan, _config(of_blocks)):
                return of_blocks, plan
        of_bits = self.build.of(phase.value, reads="bits", before=before)
        if of_bits is not None:
            plan = self._plan(phase, call, _config(of_bits))
            if mask_bits.reason_against(call.bound, plan) is None:
                return of_bits, plan
        return code, self._plan(phase, call, _config(code))

    def _tile_of_rows(self, call: Call, packed: int) -> tuple[int, int] | None:
        """The tile of the kernel of few queries for such a call; None where none was built."""
        rows = rows_of(call.bound.lengths.q_len, packed)
        of_few = (k for k in self.build.kernels if k.phase == Phase.FORWARD_SPLIT.value)
        return next((k.tile for k in of_few if k.tile[0] == rows), None)

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
            code = self._code(phase, tile if mask is not None else None)
            values = [device_plan.value_of(p.argument, given, tensors) for p in code.parameters]
            function = self._function(code, device)
            launch = launch_of(function, programs, _checked(code, values), {})
            Replay([launch], 0).run([])

    def _code(
        self, phase: Phase, tile: tuple[int, int] | None, before: tuple[str, ...] = ()
    ) -> Code:
        code = self.build.of(phase.value, tile, before=before)
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
        if code.tile != diagonal_config(widest, itemsize, hopper=self.hopper).tile:
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

    def _function(self, code: Code, device: torch.device) -> Function:
        index = device.index or 0
        key = self.bundle.digest, code, index
        if key not in _FUNCTIONS:
            handle = machine.MACHINE.driver.load(
                self.bundle.machine_code(code), code.entry, code.shared_bytes, index
            )
            _FUNCTIONS[key] = Function(
                handle, code.threads, code.shared_bytes, index, code.parameters, layout_of(code)
            )
        return _FUNCTIONS[key]


def _names(phases: tuple[Phase, ...]) -> tuple[str, ...]:
    return tuple(phase.value for phase in phases)


def _config(code: Code) -> Config:
    return Config(*code.tile, code.threads // 32, code.stages, Language(code.language))


def _checked(code: Code, values: list[Any]) -> list[Any]:
    """`values`, each integer in the bits that the kernel has for it."""
    for parameter, value in zip(code.parameters, values, strict=True):
        if parameter.type == "i32" and not -_INT32 <= value < _INT32:
            raise BundleError(
                f"{parameter.argument.name} is {value}, and the kernel takes 32 bits",
                why="kernels of bundles count elements of captured tensors and positions in 32"
                " bits",
                fix="fx.attention without a bundle, which compiles a kernel of 64 bits",
            )
    return values


def _not_proven(variant: Variant, name: str, value: int, low: int, high: int) -> BundleError:
    return BundleError(
        f"{name} is {value}, and the kernels of variant {variant.name} are proven for {low} to"
        f" {high}",
        why="they compute which tiles they need by formulas, which were proven for those values",
        fix="build a variant with such a value, or fx.attention without a bundle",
    )
