"""The house: directions of imports, what a cold import loads, packages, and sizes of files."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES: dict[str, str] = {
    "flexdsl": "flexdsl",
    "codegen": "flexdsl.codegen",
    "stdlib": "flexdsl.stdlib",
}
FILES = sorted(p for folder in PACKAGES for p in (ROOT / folder).rglob("*.py"))

# Room -> the rooms that it may import. `public` is `import flexdsl`, names for users only.
LOW = {"errors", "ir"}
MIDDLE = LOW | {"frontend", "analysis", "codegen"}
ALLOWED = {
    "errors": set[str](),
    "ir": {"errors"},
    "frontend": LOW,
    "analysis": LOW,
    "codegen": LOW | {"analysis"},
    "bundle": MIDDLE,
    "mod": MIDDLE,
    "variants": LOW | {"mod"},
    "plans": MIDDLE | {"mod"},
    "runtime": MIDDLE | {"bundle", "mod"},
    "aot": MIDDLE | {"bundle", "mod", "variants", "runtime", "public"},
    "lints": LOW | {"analysis"},
    "testing": MIDDLE | {"mod", "variants", "plans", "runtime", "aot", "public"},
    "pytest_plugin": {"errors", "testing"},
    "bench": MIDDLE | {"mod", "plans", "runtime", "aot", "public"},
    "cli": MIDDLE
    | {
        "bundle",
        "mod",
        "variants",
        "plans",
        "runtime",
        "aot",
        "lints",
        "testing",
        "bench",
        "stdlib",
        "public",
    },
    "docs": {"stdlib", "public"},
    "stdlib": {"errors", "public"},
    # Only for type checkers: the names are found when they are used.
    "public": MIDDLE
    | {"mod", "variants", "plans", "runtime", "aot", "testing", "stdlib", "public"},
}
TENSORS = {"torch", "triton"}
MAY_IMPORT_TENSORS = {"plans", "runtime", "aot", "testing", "bench", "cli"}
LAYERS = ROOT / "stdlib" / "layers"  # of the library, only torch's modules
HEAVY = [*sorted(TENSORS), "sympy", "lark", "rich", "click", "matplotlib", "numpy"]


def module_name(path: Path) -> str:
    folder, *rest = path.relative_to(ROOT).with_suffix("").parts
    names = [*PACKAGES[folder].split("."), *rest]
    return ".".join(names[:-1] if names[-1] == "__init__" else names)


def room_of(module: str) -> str:
    names = module.split(".")
    return names[1] if len(names) > 1 else "public"


def imports(path: Path) -> Iterator[str]:
    """Every module that the file imports, at any depth, by its absolute name."""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from flexdsl import x` may name a room.
            yield from (
                (f"flexdsl.{a.name}" for a in node.names) if module == "flexdsl" else [module]
            )


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_file_keeps_the_house_rules(path):
    room = room_of(module_name(path))
    for name in imports(path):
        if name.split(".")[0] == "flexdsl":
            target = room_of(name)
            assert target in ALLOWED[room] | {room}, f"{room} imports {name}"
        elif name.split(".")[0] in TENSORS:
            allowed = room in MAY_IMPORT_TENSORS or path.parent == LAYERS
            assert allowed, f"{room} imports {name}"
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), "no docstring says what the file is for"
    assert text.count("\n") < 400


@pytest.mark.parametrize("folder", ["codegen", "stdlib"])
def test_moved_folders_import_themselves_relatively(folder):
    for path in (ROOT / folder).rglob("*.py"):
        tree = ast.parse(path.read_text())
        absolute = [
            n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and not n.level
        ]
        assert not [m for m in absolute if m and m.startswith(PACKAGES[folder])], path


def test_the_list_of_packages_is_the_folders():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent for path in FILES}
    names = {
        ".".join([PACKAGES[p.parts[0]], *p.parts[1:]])
        for p in (f.relative_to(ROOT) for f in folders)
    }
    assert set(settings["packages"]) == names
    moved = {
        name: name.replace(PACKAGES[top], top, 1).replace(".", "/")
        for top in ("codegen", "stdlib")
        for name in names
        if name.startswith(PACKAGES[top])
    }
    assert settings["package-dir"] == {"flexdsl": "flexdsl"} | moved
    for package, files in settings["package-data"].items():
        for file in files:
            assert (Path(importlib.import_module(package).__file__).parent / file).is_file()


def run(code: str) -> str:
    """What a fresh interpreter prints for `code`."""
    env = os.environ | {"PYTHONWARNINGS": "error"}
    found = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_import_loads_nothing_heavy():
    code = "import sys, time; t = time.perf_counter(); import flexdsl as fx; dir(fx)\n"
    code += "print(time.perf_counter() - t)\n"
    code += f"print([m for m in {HEAVY} if m in sys.modules])"
    seconds, loaded = run(code).splitlines()
    print(f"import flexdsl: {float(seconds) * 1000:.1f} ms")
    assert loaded == "[]"


BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "triton"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocker())
"""


def test_front_end_analysis_and_code_generation_need_no_tensor_library():
    code = (
        BLOCKED
        + """
import numpy as np
import flexdsl as fx
from flexdsl.codegen import generate_unbound

document = np.repeat(np.arange(4), 64)

@fx.mask_mod
def packed(b, h, q, kv):
    return q >= kv and document[q] == document[kv]

assert fx.parse("q >= kv and q - kv < 100")(0, 0, 5, 3)
assert fx.plan(packed, 256, 256, tile=(64, 64)).tile(0, 0, 3, 0) == "empty"
assert fx.plan("q >= kv", 256, 256, tile=(64, 64)).kind == "closed-form"
kernel = generate_unbound(packed.program, fx.stdlib.softcap(50.0).program, 64, 64)
compile(kernel.source, "kernel.py", "exec")
for name, home in fx.stdlib.HOMES.items():
    assert home.startswith("layers") or getattr(fx.stdlib, name)
print(fx.stdlib.causal().text)
"""
    )
    assert run(code) == "mask causal() = q >= kv\n"


def test_public_names_exist_and_type_checkers_see_them():
    import flexdsl as fx

    for name in fx.__all__:
        assert getattr(fx, name) is not None
    assert set(fx.__all__) <= set(dir(fx))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        fx.nothing  # noqa: B018
    tree = ast.parse((ROOT / "flexdsl" / "__init__.py").read_text())
    block = next(n for n in tree.body if isinstance(n, ast.If))
    seen = {a.name for n in block.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert seen | {"__version__"} == set(fx.__all__)


def test_the_library_s_names_are_seen_by_type_checkers():
    from flexdsl import stdlib

    tree = ast.parse((ROOT / "stdlib" / "__init__.py").read_text())
    block = next(n for n in tree.body if isinstance(n, ast.If))
    seen = {a.name: n.module for n in block.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert seen == stdlib.HOMES


def test_the_version_is_said_once_for_each_reader():
    import flexdsl as fx

    assert (
        tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == fx.__version__
    )
