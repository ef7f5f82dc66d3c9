"""`load`: attention by the kernels of a bundle, in a process that has no compiler.

It needs torch and the GPU's driver; neither triton, nor a parser, nor sympy. A bundle is data: none
of its contents run in Python.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from torch import Tensor

from flexdsl.bundle.files import Bundle
from flexdsl.bundle.manifest import Variant
from flexdsl.errors import BundleError, CaptureError
from flexdsl.ir import DTYPE_BY_LIBRARY_NAME, Capture, Program, captures_of, params_of
from flexdsl.runtime import bundles
from flexdsl.runtime.eager import attend


def load(folder: str | Path, name: str | None = None, **values: Any) -> Loaded:
    """Attention by a variant of the bundle in `folder`.

    Args:
        folder: what `flexdsl build -o` or `fx.build(out=...)` wrote, wherever it lies now.
        name: of the variant; None where the bundle has one.
        values: numbers of parameters and captured tensors, by name. Parameters that are not given
            have the values of the build; captured tensors may also be given with each call.

    Raises:
        BundleError: the manifest or a kernel of the variant is altered or missing, a newer flexdsl
            wrote them, or there is no such variant.
        CaptureError: a value has another type or rank than the kernels take.
    """
    bundle = bundles.opened(folder)
    variants = bundle.manifest.variants
    if name is None and len(variants) > 1:
        known = ", ".join(v.name for v in variants)
        raise BundleError(
            f"the bundle {folder} has {len(variants)} variants: {known}",
            fix=f'fx.load({str(folder)!r}, "{variants[0].name}")',
        )
    variant = variants[0] if name is None else bundle.variant(name)
    bundle.check(variant)
    return Loaded(bundle, variant, {}).bind(**values)


class Loaded:
    """Attention by the kernels of one variant of a bundle. Nothing is compiled.

    Attributes:
        bundle: where it is from.
        variant: its mask and score modification, and the builds that there are.
        values: numbers and tensors that are bound, by name.
    """

    def __init__(self, bundle: Bundle, variant: Variant, values: Mapping[str, Any]) -> None:
        self.bundle, self.variant, self.values = bundle, variant, values
        self._backend = bundles.backend_of(bundle)
        self._programs: tuple[Program | None, Program | None] | None = None
        self._latest: tuple[Any, Loaded] | None = None

    def bind(self, **values: Any) -> Loaded:
        """The same with numbers of parameters and captured tensors bound.

        Raises:
            CaptureError: there is no such name, or a value has another type or rank than the
                kernels take.
        """
        for name, value in values.items():
            _check(self.variant, name, value)
        return Loaded(self.bundle, self.variant, {**self.values, **values})

    @overload
    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float | None = None,
        q_offset: int = 0,
        return_lse: Literal[False] = False,
        **values: Any,
    ) -> Tensor: ...

    @overload
    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float | None = None,
        q_offset: int = 0,
        return_lse: Literal[True],
        **values: Any,
    ) -> tuple[Tensor, Tensor]: ...

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float | None = None,
        q_offset: int = 0,
        return_lse: bool = False,
        **values: Any,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """What `fx.attention` gives with this mask and score modification, gradients included.

        Args:
            q, k, v, scale, q_offset, return_lse: as of `fx.attention`.
            values: numbers of parameters and captured tensors by name, for this call.

        Raises:
            ArgumentError: a shape, dtype, device or value that does not fit.
            BundleError: the bundle has no kernels of this GPU, dtype, head dimension or pass.
            CaptureError, IndexRangeError: a captured tensor is missing, or does not fit the call.
        """
        bound = self._bound_to(values) if values else self
        out, lse = attend(*bound._sources(), scale, q_offset, self._backend, q, k, v)
        return (out, lse) if return_lse else out

    def _bound_to(self, values: Mapping[str, Any]) -> Loaded:
        """The same with `values` bound: the same object while these are the same."""
        names, objects = tuple(values), tuple(map(id, values.values()))
        known = self._latest
        if known is None or known[0] != (names, objects):
            # The values are held there too, so that no other object has their identity.
            self._latest = known = (names, objects), self.bind(**values)
        return known[1]

    def _sources(self) -> tuple[Program | None, Program | None]:
        """Mask and score with their values: the same objects in each call.

        Raises:
            CaptureError: a captured tensor is missing.
        """
        if self._programs is None:
            self._programs = self._program(self.variant.mask), self._program(self.variant.score)
        return self._programs

    def _program(self, program: Program | None) -> Program | None:
        if program is None:
            return None
        values = {**program.values}
        for name in (*values, *(c.name for c in captures_of(program.expr))):
            if name in self.values:
                values[name] = self.values[name]
            elif name not in values:
                raise CaptureError(
                    f"{program.name} needs the tensor {name}, and has none",
                    why="a bundle has the kernels, and none of the tensors that mods captured",
                    fix=f"attention(q, k, v, {name}=...), or fx.load(FOLDER, {name}=...)",
                )
        return replace(program, values=values)


def _check(variant: Variant, name: str, value: Any) -> None:
    """Raise `CaptureError` unless `value` may be bound to `name`."""
    programs = [p for p in (variant.mask, variant.score) if p is not None]
    captures = {c.name: c for p in programs for c in captures_of(p.expr)}
    params = {str(x.attribute): x for p in programs for x in params_of(p.expr)}
    if name in captures:
        _check_tensor(captures[name], value)
    elif name not in params:
        known = ", ".join((*params, *captures)) or "none"
        raise CaptureError(
            f"variant {variant.name} captures nothing that is named {name}",
            why=f"it has {known}",
            fix="one of these names, as the mod of the build has them",
        )
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise CaptureError(f"{name} is a number, not {type(value).__name__}", fix=f"{name}=1024")
    elif params[name].type.value == "index" and not isinstance(value, int):
        raise CaptureError(f"{name} is a whole number, not {value!r}", fix=f"{name}={int(value)}")


def _check_tensor(capture: Capture, value: Any) -> None:
    if not isinstance(value, Tensor | np.ndarray):
        raise CaptureError(
            f"{capture.name} is a tensor of {capture.dtype.value}, not {type(value).__name__}",
            fix=f"{capture.name}=torch.tensor(...)",
        )
    dtype = DTYPE_BY_LIBRARY_NAME.get(str(value.dtype).removeprefix("torch."))
    if dtype is not capture.dtype or value.ndim != capture.rank:
        has = "an unknown type" if dtype is None else dtype.value
        raise CaptureError(
            f"{capture.name} is {has} of {value.ndim} dimensions, and the kernels read"
            f" {capture.dtype.value} of {capture.rank}",
            why="element types and ranks of captured tensors are fixed in machine code",
            fix=f"{capture.name} of that type and rank, or a bundle built for this one",
        )
