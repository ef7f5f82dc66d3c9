"""The driver of NVIDIA GPUs, by its C interface (`libcuda.so.1`) and ctypes.

It stands on the primary context, which torch uses too. What is launched, with which parameters, is
for the caller.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ctypes import (
    Array,
    byref,
    c_char,
    c_char_p,
    c_int,
    c_size_t,
    c_uint,
    c_uint32,
    c_uint64,
    c_void_p,
)
from functools import cache
from typing import Any

from flexdsl.bundle.driver import Clear, Start
from flexdsl.bundle.manifest import TensorMap
from flexdsl.bundle.words import MAP_BYTES
from flexdsl.errors import BackendError

# Names and numbers of cuda.h.
_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8  # CU_FUNC_ATTRIBUTE_...
_L2_PROMOTION_128B = 2  # CU_TENSOR_MAP_L2_PROMOTION_...
_STATIC_SHARED_LIMIT = 48 * 1024  # more has to be asked for


class _Launch(ctypes.Structure):
    """`CUlaunchConfig` of cuda.h, without attributes."""

    _fields_ = (
        *((name, c_uint) for name in ("grid_x", "grid_y", "grid_z")),
        *((name, c_uint) for name in ("block_x", "block_y", "block_z", "shared_bytes")),
        ("stream", c_void_p),
        ("attributes", c_void_p),
        ("attribute_count", c_uint),
    )


class Cuda:
    """The driver; made once, by `cuda`."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise BackendError(
                "the driver of NVIDIA GPUs, libcuda.so.1, cannot be opened",
                why=str(error),
                fix="a machine with an NVIDIA GPU and its driver",
            ) from None
        self._call("cuInit", c_uint(0))
        version = c_int()
        self._call("cuDriverGetVersion", byref(version))
        self._version = version.value
        self._contexts: dict[int, c_void_p] = {}

    def load(self, code: bytes, entry: str, shared_bytes: int, device: int) -> int:
        """See `Driver`."""
        module, function = c_void_p(), c_void_p()
        with self._inside(device):
            self._call("cuModuleLoadData", byref(module), c_char_p(code))
            self._call("cuModuleGetFunction", byref(function), module, c_char_p(entry.encode()))
            if shared_bytes > _STATIC_SHARED_LIMIT:
                attribute = c_int(_MAX_DYNAMIC_SHARED_SIZE_BYTES)
                self._call("cuFuncSetAttribute", function, attribute, c_int(shared_bytes))
        assert function.value is not None
        return function.value

    def encoder(
        self, box: TensorMap, shape: Sequence[int], strides: Sequence[int]
    ) -> Callable[[int], bytes]:
        """See `Driver`."""
        rank = len(shape)
        lengths = list(reversed(shape))
        steps = [s * box.itemsize for s in reversed(strides[:-1])]
        before = c_int(box.element), c_uint32(rank)
        after = (
            (c_uint64 * rank)(*lengths),
            (c_uint64 * max(rank - 1, 1))(*steps),
            (c_uint32 * rank)(*reversed(box.block)),
            (c_uint32 * rank)(*[1] * rank),
            c_int(0),  # CU_TENSOR_MAP_INTERLEAVE_NONE
            c_int(box.swizzle),
            c_int(_L2_PROMOTION_128B),
            c_int(0),  # CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE
        )
        last = sum((n - 1) * s for n, s in zip(lengths, [box.itemsize, *steps], strict=True))
        is_small = last + 1 < 128 * 1024

        def encode(address: int) -> bytes:
            _space, place = aligned_space(MAP_BYTES)
            self._call(
                "cuTensorMapEncodeTiled", c_void_p(place), *before, c_void_p(address), *after
            )
            encoded = ctypes.string_at(place, MAP_BYTES)
            return self._corrected(encoded) if is_small else encoded

        return encode

    def _corrected(self, encoded: bytes) -> bytes:
        """Drivers up to 13.1 set a bit of tensors below 128 KiB that makes copies fail.

        CUTLASS clears it too, in `make_tma_copy_desc`.
        """
        if self._version > 13010:
            return encoded
        word = int.from_bytes(encoded[8:16], "little") & ~(1 << 21)
        return encoded[:8] + word.to_bytes(8, "little") + encoded[16:]

    def prepare(self, works: Sequence[Start | Clear], device: int) -> Callable[[int], None]:
        """See `Driver`."""
        latest, current = c_uint64(), c_int()
        calls: list[tuple[Callable[..., int], tuple[Any, ...]]] = []
        launches: list[_Launch] = []
        for work in works:
            if isinstance(work, Clear):
                arguments = work.address, c_uint(0), c_size_t(work.size // 4), latest
                calls.append((self._library.cuMemsetD32Async, arguments))
                continue
            launches.append(_Launch(work.programs, 1, 1, work.threads, 1, 1, work.shared_bytes))
            how = byref(launches[-1]), c_void_p(work.function), work.parameters, None
            calls.append((self._library.cuLaunchKernelEx, how))
        get_device, place = self._library.cuCtxGetDevice, byref(current)

        def start(stream: int) -> None:
            # torch has no context but the primary one, and autograd has threads of its own.
            if get_device(place) != 0 or current.value != device:
                with self._inside(device):
                    start(stream)
                return
            if latest.value != stream:
                latest.value = stream
                for launch in launches:
                    launch.stream = stream
            for call, arguments in calls:
                code = call(*arguments)
                if code != 0:
                    raise self._error(call.__name__, code)

        return start

    @contextmanager
    def _inside(self, device: int) -> Iterator[None]:
        """The primary context of a device is this thread's; then the one that was before."""
        if device not in self._contexts:
            context, handle = c_void_p(), c_int()
            self._call("cuDeviceGet", byref(handle), c_int(device))
            self._call("cuDevicePrimaryCtxRetain", byref(context), handle)
            self._contexts[device] = context
        self._call("cuCtxPushCurrent_v2", self._contexts[device])
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent_v2", byref(c_void_p()))

    def _call(self, name: str, *arguments: object) -> None:
        code = getattr(self._library, name)(*arguments)
        if code != 0:
            raise self._error(name, code)

    def _error(self, name: str, code: int) -> BackendError:
        text = c_char_p()
        self._library.cuGetErrorString(c_int(code), byref(text))
        words = text.value.decode() if text.value else f"error {code}"
        return BackendError(
            f"{name}: {words}",
            why="the GPU's driver refused it",
            fix="a bundle built for this GPU, and a driver as new as flexdsl doctor says",
        )


def aligned_space(size: int) -> tuple[Array[c_char], int]:
    """Memory, and the first address in it that is a multiple of 64 with `size` bytes after it."""
    space = ctypes.create_string_buffer(size + 64)
    return space, -(-ctypes.addressof(space) // 64) * 64


@cache
def cuda() -> Cuda:
    """The driver of this machine.

    Raises:
        BackendError: there is none.
    """
    return Cuda()
