"""C and Python by the driver's interface, without a GPU: the same launches, word for word.

`fake_cuda.c` stands in the place of libcuda.so.1 for both. The process in Python can import neither
triton, nor sympy, nor lark.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import triton

import flexdsl as fx
from flexdsl.bundle.files import Bundle, open_bundle
from flexdsl.bundle.words import layout_of
from tests.aot.conftest import IN_C
from tests.aot.emulation import kernels_of

HERE = Path(__file__).parent
EXAMPLE = HERE.parent.parent / "examples" / "c"
INCLUDE = Path(triton.__file__).parent / "backends" / "nvidia" / "include"
STRICT = ("-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O1", f"-I{INCLUDE}")
SIZES = {"i8": 1, "i16": 2, "i32": 4, "i64": 8, "fp32": 4, "pointer": 8, "map": 128}

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a C compiler")

IN_PYTHON = """
import os
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("triton", "sympy", "lark"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocker())
import torch
import flexdsl as fx
from flexdsl.bundle.cuda import cuda
from flexdsl.runtime import machine

class Machine:
    driver = cuda()
    def target(self, device):
        return "cuda:" + os.environ["FAKE_CUDA_CAPABILITY"]
    def multiprocessors(self, device):
        return 2
    def stream(self, device):
        return 0

machine.MACHINE = Machine()
shape = 2, 3, 300, int(sys.argv[2])
q, k, v = (torch.zeros(shape, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
out = fx.load(sys.argv[1], window=77)(q, k, v)
torch.autograd.grad(out.sum(), (q, k, v))  # of a number: for others torch itself imports sympy
"""


def gcc(*words: str | Path) -> None:
    done = subprocess.run(["gcc", *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the fake driver."""
    folder = tmp_path_factory.mktemp("driver")
    flags = "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1"
    gcc(*STRICT, *flags, HERE / "fake_cuda.c", "-o", folder / "libcuda.so.1")
    return folder


@pytest.fixture(scope="module")
def program(hopper: Bundle, fake: Path) -> Path:
    """The example, compiled with the launcher of the bundle."""
    return example(hopper, fake, fake / "sliding_window")


def example(bundle: Bundle, fake: Path, made: Path, dim: int = 128) -> Path:
    """The example for a bundle of that head dimension."""
    text = (EXAMPLE / "main.c").read_text()
    assert "DIM = 128," in text
    main = made.with_suffix(".c")
    main.write_text(text.replace("DIM = 128,", f"DIM = {dim},"))
    sources = main, bundle.folder / "sliding_window.c"
    gcc(*STRICT, f"-I{bundle.folder}", *sources, "-o", made, fake / "libcuda.so.1", "-lm")
    return made


def run(
    command: list[str], fake: Path, log: Path, bundle: Bundle, gpu: str = "90"
) -> subprocess.CompletedProcess[str]:
    sizes = log.with_suffix(".sizes")
    lines = (
        f"{k.entry} {' '.join(str(SIZES[t]) for t in layout_of(k).types)}\n"
        for k in kernels_of(bundle)
    )
    sizes.write_text("".join(lines))
    told = {"FAKE_CUDA_LOG": str(log), "FAKE_CUDA_SIZES": str(sizes), "LD_LIBRARY_PATH": str(fake)}
    told["FAKE_CUDA_CAPABILITY"] = gpu
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | told
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def launches(log: Path, bundle: Bundle) -> list[list[str]]:
    """The lines of a log, each address as the number of its first use in that launch."""
    types = {k.entry: layout_of(k).types for k in kernels_of(bundle)}
    lines = []
    for line in log.read_text().splitlines():
        entry, *sizes = line.split()[:4]
        known: dict[str, str] = {"0" * 16: "null"}
        words = [entry, *sizes]
        for kind, word in zip(types[entry], line.split()[4:], strict=True):
            if kind in ("pointer", "map"):
                address = known.setdefault(word[:16], f"address {len(known)}")
                word = address + word[16:]
            words.append(word)
        lines.append(words)
    return lines


def test_c_and_python_launch_the_same(
    hopper: Bundle, fake: Path, program: Path, tmp_path: Path
) -> None:
    entries = ["forward", "backward_rows", "backward", "backward_sums"]
    compare(hopper, "90", entries, fake, program, tmp_path)


@pytest.mark.parametrize(("dim", "floats"), [(96, 64 * 64), (256, 64 * 128)])
def test_c_and_python_launch_the_same_in_other_tiles(
    dim: int, floats: int, fake: Path, tmp_path: Path
) -> None:
    """Blocks of 128 columns of tensors of 96, sums of dQ have room for 128; and the widest ones.

    Args:
        floats: half of the sums of a tile.
    """
    fx.build(IN_C, out=tmp_path / "dist", target="cuda:90", head_dims=[dim], jobs=2)
    bundle = open_bundle(tmp_path / "dist")
    program = example(bundle, fake, tmp_path / "sliding_window", dim)
    entries = ["forward", "backward_rows", "backward", "backward_sums"]
    compare(bundle, "90", entries, fake, program, tmp_path, dim)
    (code,) = (k for k in kernels_of(bundle) if k.entry == "backward")
    lines = (tmp_path / "c.log").read_text().splitlines()
    (words,) = (line.split()[4:] for line in lines if line.startswith("backward "))
    left, right, counter, *_ = (
        int.from_bytes(bytes.fromhex(word), "little")
        for kind, word in zip(layout_of(code).types, words, strict=True)
        if kind == "pointer"
    )
    tiles = 2 * 3 * -(-300 // 64)
    assert min(right - left, counter - right) >= tiles * floats * 4


def test_c_and_python_launch_the_same_without_a_copy_engine(fake: Path, tmp_path: Path) -> None:
    fx.build(IN_C, out=tmp_path / "dist", target="cuda:80", jobs=2)
    bundle = open_bundle(tmp_path / "dist")
    program = example(bundle, fake, tmp_path / "sliding_window")
    entries = ["forward", "backward_rows", "backward_query", "backward_key"]
    compare(bundle, "80", entries, fake, program, tmp_path)


def compare(
    bundle: Bundle,
    gpu: str,
    entries: list[str],
    fake: Path,
    program: Path,
    folder: Path,
    dim: int = 128,
) -> None:
    """Hold the launches of C and of Python on a GPU of that capability against each other."""
    logs = folder / "c.log", folder / "python.log"
    in_c = [str(program), str(bundle.folder), "2", "3", "300", "77"]
    in_python = [sys.executable, "-c", IN_PYTHON, str(bundle.folder), str(dim)]
    for command, log in zip((in_c, in_python), logs, strict=True):
        done = run(command, fake, log, bundle, gpu)
        assert done.returncode == 0, done.stderr
    of_c, of_python = (launches(log, bundle) for log in logs)
    assert [words[0] for words in of_c] == entries
    assert of_c == of_python
    assert all(len(words) > 10 for words in of_c)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("1", "1", "64", "0"), "outside of what the kernels are proven for"),
        (("1", "0", "64", "5"), "shapes do not fit together"),
        (("1", "1", "64", "2000000000"), "outside of what the kernels are proven for"),
    ],
)
def test_errors_of_c(
    words: tuple[str, ...], message: str, hopper: Bundle, fake: Path, program: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    done = run([str(program), str(hopper.folder), *words], fake, log, hopper)
    assert done.returncode == 2 and message in done.stderr
    assert not log.exists()


@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_damaged_files_in_c(
    damage: str, hopper: Bundle, fake: Path, program: Path, tmp_path: Path
) -> None:
    shutil.copytree(hopper.folder, tmp_path / "copy")
    path = sorted((tmp_path / "copy").rglob("*.cubin"))[0]
    data = path.read_bytes()
    path.write_bytes(data[:-1] if damage == "truncated" else data[:-1] + b"?")
    if damage == "missing":
        path.unlink()
    log = tmp_path / "log"
    command = [str(program), str(tmp_path / "copy"), "1", "1", "64", "5"]
    done = run(command, fake, log, hopper)
    message = "cannot be read" if damage == "missing" else "is not what was built"
    assert done.returncode == 2 and message in done.stderr and not log.exists()


def test_every_launcher_compiles_without_a_warning(portable: Bundle, tmp_path: Path) -> None:
    for variant in portable.manifest.variants:
        source = portable.folder / f"{variant.name}.c"
        gcc(*STRICT, "-c", source, "-o", tmp_path / "x.o")
        assert f"int {variant.name}_forward(" in source.with_suffix(".h").read_text()


@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs CMake")
def test_the_example_is_built_by_cmake(hopper: Bundle, fake: Path, tmp_path: Path) -> None:
    options = {"BUNDLE": hopper.folder, "CUDA_INCLUDE": INCLUDE}
    options["CUDA_DRIVER"] = fake / "libcuda.so.1"
    words = [f"-D{name}={value}" for name, value in options.items()]
    for command in (
        ["cmake", "-S", EXAMPLE, "-B", tmp_path, *words],
        ["cmake", "--build", tmp_path],
    ):
        done = subprocess.run([*map(str, command)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    log = tmp_path / "log"
    command = [str(tmp_path / "sliding_window"), str(hopper.folder), "1", "2", "200", "9"]
    done = run(command, fake, log, hopper)
    assert done.returncode == 0 and len(launches(log, hopper)) == 4
