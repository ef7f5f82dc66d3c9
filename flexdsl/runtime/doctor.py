"""What this machine can do: versions, GPU, compiler, cache, backends; what to do about the rest.

It looks, and changes nothing but a file in the cache folder that it takes away again. `flexdsl
doctor` prints it. Speed is not measured here.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

import torch
from packaging.requirements import Requirement

from flexdsl.codegen.hopper.cover import HEAD_DIMS
from flexdsl.runtime.cache import cache_dir

COMPILERS = ("cc", "gcc", "clang")
EXTRAS = {
    "hypothesis": ("fx.verify and flexdsl verify", "testing"),
    "matplotlib": ("pictures of plans and benchmarks", "plot"),
}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what it is.
        state: "ok"; "absent", which limits what can be done here; "broken", which has to be mended.
        found: what was found.
        advice: what to do about it; "" where nothing is to be done.
    """

    name: str
    state: str
    found: str
    advice: str = ""


def examine() -> list[Check]:
    """Everything about this machine, in the order of a report."""
    return [
        Check("python", "ok", platform.python_version()),
        _package("torch"),
        _package("triton"),
        *_gpus(),
        _compiler(),
        _cache(),
        *(_extra(name) for name in EXTRAS),
        *_backends(),
        _targets(),
    ]


def _package(name: str) -> Check:
    """A package that flexdsl needs, held against the versions that its metadata asks for."""
    wanted = next((r for r in _requirements() if r.name == name), None)
    asked = "" if wanted is None else str(wanted.specifier)
    try:
        found = version(name)
    except PackageNotFoundError:
        state = "absent" if name == "triton" else "broken"
        return Check(name, state, "not installed", f"pip install '{name}{asked}'")
    if wanted is not None and not wanted.specifier.contains(found, prereleases=True):
        why = f"{found}, and flexdsl was tested with {asked}"
        return Check(name, "broken", why, f"pip install '{name}{asked}'")
    return Check(name, "ok", found)


def _requirements() -> list[Requirement]:
    try:
        return [Requirement(text) for text in requires("flexdsl") or ()]
    except PackageNotFoundError:  # run from a checkout that is not installed
        return []


def _gpus() -> Iterator[Check]:
    if not torch.cuda.is_available():
        built = torch.version.cuda or torch.version.hip
        advice = (
            "nothing, if there is no GPU: backend 'cpu' runs everything, and kernels can be"
            " compiled for GPUs that are not here"
            if built is None
            else "if there is a GPU, its driver: nvidia-smi or rocm-smi has to list it"
        )
        kind = "a build of torch for CPUs" if built is None else f"torch is built for {built}"
        yield Check("gpu", "absent", f"none that torch sees ({kind})", advice)
        return
    for n in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(n)
        memory = f"{about.total_memory / 2**30:.0f} GiB"
        of = "AMD" if torch.version.hip else f"compute capability {about.major}.{about.minor}"
        yield Check("gpu", "ok", f"{about.name}, {of}, {memory}")
    yield _driver()


def _driver() -> Check:
    if torch.version.hip:
        return Check("driver", "ok", f"ROCm {torch.version.hip}")
    number = torch._C._cuda_getDriverVersion()
    return Check("driver", "ok", f"of CUDA {number // 1000}.{number % 1000 // 10}")


def _compiler() -> Check:
    """Triton compiles a small launcher in C for each kernel."""
    chosen = os.environ.get("CC")
    found = (
        shutil.which(chosen) if chosen else next(filter(None, map(shutil.which, COMPILERS)), None)
    )
    if found is not None:
        return Check("compiler", "ok", f"C, {found}")
    if chosen:
        return Check(
            "compiler", "broken", f"CC is {chosen}, and is not there", "unset CC, or mend it"
        )
    state = "broken" if torch.cuda.is_available() else "absent"
    return Check(
        "compiler", state, "no C compiler", "install gcc or clang: Triton's launchers need one"
    )


def _cache() -> Check:
    """The folder of generated sources: can it be written to?"""
    folder = cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        fix = "FLEXDSL_CACHE_DIR=..., a folder that can be written to"
        return Check("cache", "broken", f"{folder}: {error.strerror}", fix)
    sizes = [p.stat().st_size for p in folder.glob("*.py")]
    return Check("cache", "ok", f"{folder}, {len(sizes)} kernels, {sum(sizes) / 2**20:.1f} MiB")


def _extra(name: str) -> Check:
    purpose, extra = EXTRAS[name]
    if find_spec(name) is None:
        return Check(name, "absent", f"not installed: {purpose}", f"pip install 'flexdsl[{extra}]'")
    return Check(name, "ok", version(name))


def _backends() -> Iterator[Check]:
    """What each backend takes, and why one cannot run here."""
    yield Check(
        "backend cpu", "ok", "float16, bfloat16, float32, float64; any head dimension; gradients"
    )
    gpu, triton = torch.cuda.is_available(), find_spec("triton") is not None
    takes = "float16, bfloat16, float32; any head dimension; gradients, of captured tensors too"
    if gpu and triton:
        yield Check("backend triton", "ok", takes)
    else:
        needs = "a GPU" if triton else "Triton" if gpu else "a GPU, and Triton"
        advice = "TRITON_INTERPRET=1 interprets kernels on the CPU, for tests" if triton else ""
        yield Check("backend triton", "absent", f"needs {needs}: {takes}", advice)
    dims = ", ".join(str(d) if d == dv else f"{d}/{dv}" for d, dv in sorted(HEAD_DIMS))
    takes = f"float16, bfloat16; head dimensions {dims}; gradients"
    hopper = gpu and not torch.version.hip and torch.cuda.get_device_capability() == (9, 0)
    if hopper and triton:
        yield Check("backend hopper", "ok", takes)
    else:
        yield Check(
            "backend hopper",
            "absent",
            f"needs an NVIDIA GPU of compute capability 9.0: {takes}",
            "nothing: backend='auto' takes the portable kernels on other GPUs" if gpu else "",
        )
    yield Check("backend reference", "ok", "dense float64, for comparisons: slow, all pairs")


def _targets() -> Check:
    """Which GPUs kernels can be compiled for here, present or not."""
    found = find_spec("triton")
    if found is None or found.origin is None:
        return Check("targets", "absent", "needs Triton, to compile for a GPU that is not here")
    backends = Path(found.origin).parent / "backends"
    names = {"nvidia": "NVIDIA", "amd": "AMD"}
    here = [label for folder, label in names.items() if (backends / folder).is_dir()]
    return Check("targets", "ok", f"Triton compiles for {' and '.join(here)} GPUs, without one")
