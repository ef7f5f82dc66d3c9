"""The driver of NVIDIA GPUs as Python calls it: whose context a launch finds, and leaves."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from flexdsl.bundle import cuda
from flexdsl.bundle.driver import Clear, Start
from flexdsl.errors import BackendError


class Library:
    """Two GPUs, and a thread whose current context is that of GPU 0, or none."""

    def __init__(self, current: int | None) -> None:
        self.stack = [current]
        self.retained: list[int] = []
        self.launched: list[tuple[int | None, Any]] = []
        self.cleared: list[tuple[int | None, Any]] = []
        self.refuse = ""

    def cuCtxGetDevice(self, place: Any) -> int:
        if self.stack[-1] is None:
            return 201  # CUDA_ERROR_INVALID_CONTEXT
        place._obj.value = self.stack[-1]
        return 0

    def cuDeviceGet(self, place: Any, device: Any) -> int:
        place._obj.value = device.value
        return 0

    def cuDevicePrimaryCtxRetain(self, place: Any, device: Any) -> int:
        self.retained.append(device.value)
        place._obj.value = device.value
        return 0

    def cuCtxPushCurrent_v2(self, context: Any) -> int:
        self.stack.append(context.value or 0)
        return 0

    def cuCtxPopCurrent_v2(self, place: Any) -> int:
        self.stack.pop()
        return 0

    def cuGetErrorString(self, code: Any, place: Any) -> int:
        place._obj.value = b"refused"
        return 0

    def cuLaunchKernelEx(self, how: Any, function: Any, places: Any, extra: Any) -> int:
        self.launched.append((self.stack[-1], how._obj.stream))
        return 1 if self.refuse == "cuLaunchKernelEx" else 0

    def cuMemsetD32Async(self, address: Any, value: Any, count: Any, stream: Any) -> int:
        assert (address.value, value.value, count.value) == (4096, 0, 16)
        self.cleared.append((self.stack[-1], stream.value or None))
        return 1 if self.refuse == "cuMemsetD32Async" else 0


def start_of(library: Library, device: int) -> Any:
    driver = cuda.Cuda.__new__(cuda.Cuda)
    driver.__dict__ |= {"_library": library, "_version": 13020, "_contexts": {}}
    kernel = Start(4711, 6, 128, 1024, (ctypes.c_void_p * 1)())
    return driver.prepare([Clear(ctypes.c_uint64(4096), 64), kernel], device)


@pytest.mark.parametrize(("current", "device"), [(0, 0), (0, 1), (None, 0), (None, 1)])
def test_a_launch_is_in_the_context_of_its_gpu_and_leaves_the_thread_its_own(current, device):
    library = Library(current)
    start = start_of(library, device)
    for stream in (7, 8, 7, 0, 7):
        start(stream)
    wanted = [(device, 7), (device, 8), (device, 7), (device, None), (device, 7)]
    assert library.launched == library.cleared == wanted
    assert library.stack == [current]
    assert library.retained == ([] if current == device else [device])


@pytest.mark.parametrize("device", [0, 1])
@pytest.mark.parametrize("name", ["cuLaunchKernelEx", "cuMemsetD32Async"])
def test_a_work_that_is_refused(device, name):
    library = Library(0)
    library.refuse = name
    with pytest.raises(BackendError, match=f"{name}: refused"):
        start_of(library, device)(7)
    assert library.stack == [0]
    assert len(library.launched) == (name == "cuLaunchKernelEx")  # no work after one of these


def test_a_launch_lies_in_memory_as_c_has_it():
    fields = {name: getattr(cuda._Launch, name).offset for name, _ in cuda._Launch._fields_}
    assert (fields["grid_x"], fields["shared_bytes"], fields["stream"]) == (0, 24, 32)
    assert (fields["attributes"], fields["attribute_count"]) == (40, 48)
    assert ctypes.sizeof(cuda._Launch) == 56
