"""Memory of what was derived from programs: found again while their values stay the same.

The same means: one expression, equal parameters, and captured tensors of which nothing has changed.
A torch tensor is known by its identity and the version that autograd counts; a numpy array, which
counts none, by its bytes. Tensors on a GPU that count none, and all while a CUDA graph is captured,
are remembered by nobody. A change through `tensor.data` or a numpy view of a torch tensor is
counted by nobody, and not seen.
"""

from __future__ import annotations

import hashlib
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from threading import Lock
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from flexdsl.ir import Program, captures_of, params_of

T = TypeVar("T")


class Memory:
    """What was derived from the values of programs, remembered while they stay the same."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[Hashable, tuple[list[weakref.ref[Tensor]], Any]] = OrderedDict()
        self._lock = Lock()

    def get(self, programs: tuple[Program | None, ...], key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gives for these programs and `key`, made now or before."""
        tensors = [t for p in programs for t in _captured_tensors(p)]
        if changes_unseen(tensors):
            return make()
        full_key = tuple(_fingerprint(p) for p in programs), key
        with self._lock:
            found = self._entries.get(full_key)
            # The address of a tensor that is gone may belong to another one by now.
            if found is not None and _are(found[0], tensors):
                self._entries.move_to_end(full_key)
                return cast(T, found[1])
        made = make()
        with self._lock:
            self._entries[full_key] = ([weakref.ref(t) for t in tensors], made)
            self._entries.move_to_end(full_key)
            while len(self._entries) > self._capacity:
                self._entries.popitem(last=False)
        return made

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()


# Small arrays such as document ids and slopes: enough for those of a model's layers.
_UPLOADED: OrderedDict[Hashable, Tensor] = OrderedDict()
_UPLOADS = 64
_UPLOADING = Lock()


def as_tensor(array: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    """A copy of `array` on `device`: the same tensor as before while its elements are the same."""
    key = _contents(array), device
    with _UPLOADING:
        tensor = _UPLOADED.get(key)
        if tensor is None:
            with torch.inference_mode(False):
                tensor = torch.tensor(array, device=device)
            if type(tensor) is not Tensor:  # a fake one, while a graph is traced
                return tensor
            _UPLOADED[key] = tensor
        _UPLOADED.move_to_end(key)
        while len(_UPLOADED) > _UPLOADS:
            _UPLOADED.popitem(last=False)
    return tensor


def versions_of(deciding: Sequence[Tensor], others: Sequence[Tensor]) -> list[Any] | None:
    """What changes with elements of `deciding`, or with where any of them all lies.

    None where nothing that is cheap does.
    """
    found: list[Any] = []
    on_gpu = False
    for x in deciding:
        if x.is_inference():
            return None
        on_gpu = on_gpu or x.is_cuda
        found += x.data_ptr(), x._version, x.requires_grad, x.shape, x.is_contiguous() or x.stride()
    if on_gpu and torch.cuda.is_current_stream_capturing():  # see `_is_fleeting`; asked once
        return None
    for x in others:
        found += x.data_ptr(), x.shape, x.is_contiguous() or x.stride()
    return found


def changes_unseen(tensors: Sequence[Tensor]) -> bool:
    """May the elements of one of them change without a sign of it that is cheap to look at?"""
    return any(map(_is_fleeting, tensors))


def _is_fleeting(tensor: Tensor) -> bool:
    """May the contents change unseen: can only waiting for a GPU tell, or does a graph record it?

    What a CUDA graph records is to be derived anew in every replay, so it is recorded too.
    """
    if not tensor.is_cuda:
        return False
    return tensor.is_inference() or torch.cuda.is_current_stream_capturing()


def _are(references: list[weakref.ref[Tensor]], tensors: list[Tensor]) -> bool:
    return all(r() is t for r, t in zip(references, tensors, strict=True))


def _captured_tensors(program: Program | None) -> list[Tensor]:
    if program is None:
        return []
    values = (program.values.get(c.name) for c in captures_of(program.expr))
    return [v for v in values if isinstance(v, Tensor)]


def _fingerprint(program: Program | None) -> Hashable:
    """Equal for programs of one expression with equal parameters and unchanged captures."""
    if program is None:
        return None
    params = tuple(program.values.get(str(p.attribute)) for p in params_of(program.expr))
    captures = (program.values.get(c.name) for c in captures_of(program.expr))
    return program.expr, params, tuple(_contents(c) for c in captures)


def _contents(capture: Any) -> Hashable:
    """What changes whenever the elements of a captured tensor do."""
    if isinstance(capture, Tensor) and not capture.is_inference():
        layout = tuple(capture.shape), capture.stride(), capture.device
        return id(capture), capture.data_ptr(), capture._version, layout
    # numpy arrays and inference tensors count no versions: their bytes are read.
    array = np.ascontiguousarray(_bytes(capture) if isinstance(capture, Tensor) else capture)
    return capture.shape, str(capture.dtype), hashlib.blake2b(array.tobytes()).digest()


def _bytes(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
