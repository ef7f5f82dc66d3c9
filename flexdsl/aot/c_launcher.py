"""NAME.h and NAME.c: a variant for C programs, on the CUDA driver's interface alone.

The text that all variants share is in `launcher.h.in` and `launcher.c.in`; here are the lines that
differ: the kernels, what each one gets for its parameters, and the checks of numbers. A variant
without a build for NVIDIA has none. In C, plans of tables come from the caller, and the backward
pass is there where formulas know its tiles and no captured tensor is learned. Its kernels compute
mask and score for each pair: none reads bits, factors or tables of q - kv, or skips blocks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib.resources import files

from flexdsl.bundle.manifest import Build, Code, Parameter, Variant
from flexdsl.bundle.words import layout_of
from flexdsl.codegen import Phase, Role
from flexdsl.codegen.hopper.backward_tiles import tiles_of
from flexdsl.errors import InternalError
from flexdsl.ir import Program, captures_of, params_of

_DTYPES = {"fp16": "FP16", "bf16": "BF16", "fp32": "FP32"}
_KEYWORDS = frozenset(
    """auto break case char const continue default do double else enum extern float for goto if
    inline int long register restrict return short signed sizeof static struct switch typedef union
    unsigned void volatile while""".split()  # noqa: SIM905
)
_ROWS = {"lse": "c->lse", "d_lse": "s->d_lse", "delta": "s->delta", "lse_log2": "s->lse_log2"}
# Phases by the field of `struct build` that has their kernel.
_PHASES = {
    "forward": Phase.FORWARD,
    "rows": Phase.BACKWARD_ROWS,
    "query": Phase.BACKWARD_QUERY,
    "key": Phase.BACKWARD_KEY,
    "joint": Phase.BACKWARD,
    "sums": Phase.BACKWARD_SUMS,
}
_TABLE = """\
    struct { /* the plan's runs of key tiles for each query tile; int32 on the device */
        CUdeviceptr offsets, full_ends, starts, stops;
        CUdeviceptr order; /* query tiles of each batch and head, each one once, in the order in
                              which they start: best first those that have the most key tiles */
        int64_t stride_b, stride_h; /* rows from one batch or head to the next; 0 where alike */
    } table;
"""


def launcher(variant: Variant, contents: Mapping[str, bytes]) -> dict[str, bytes]:
    """The two files of a variant, by name; none where no build is for NVIDIA.

    Args:
        contents: of the machine code, by path.
    """
    builds = [b for b in variant.builds if b.target.startswith("cuda:")]
    if not builds:
        return {}
    words = _words(variant, builds, contents)
    return {
        f"{variant.name}.{suffix}": _filled(f"launcher.{suffix}.in", words).encode()
        for suffix in ("h", "c")
    }


def _filled(template: str, words: Mapping[str, str]) -> str:
    text = files("flexdsl.aot").joinpath(template).read_text("utf-8")
    return re.sub(r"@([A-Z_]+)@", lambda found: words[found[1]], text)


def _words(variant: Variant, builds: list[Build], contents: Mapping[str, bytes]) -> dict[str, str]:
    kernels = [(b, k) for b in builds for k in _kernels_in_c(variant, b)]
    layouts = [layout_of(k) for _, k in kernels]
    codes = [k for _, k in kernels]
    most = "INT64_MAX"
    return {
        "NAME": variant.name,
        "TEXTS": "\n".join(f" * {p.text.replace('*/', '* /')}" for p in _programs(variant)),
        "BUILDS": "; ".join(b.title for b in builds),
        "FIELDS": "".join(_fields(variant, codes)),
        "DEFAULTS": "".join(_defaults(variant)),
        "CHECKS": "".join(_checks(variant)),
        "BYTES": str(max(layout.offsets[-1] + 8 for layout in layouts)),
        "COUNT": str(max(len(layout.types) for layout in layouts)),
        "KERNELS": str(max(len(_kernels_in_c(variant, b)) for b in builds)),
        "TABLE_OF_KERNELS": "".join(_row_of_kernel(k, contents[k.code]) for k in codes),
        "TABLE_OF_BUILDS": "".join(_rows_of_builds(variant, builds)),
        "HAS_MAPS": str(int(any(p.tensor_map for k in codes for p in k.parameters))),
        "HAS_BLOCKS": str(int(any(_is_plain(p) for k in codes for p in k.parameters))),
        "LAUNCHES": "\n".join(_launch(variant, n, b, k) for n, (b, k) in enumerate(kernels)),
        "CASES": "".join(f"    case {n}: return launch_{n}(s);\n" for n in range(len(codes))),
        "POSITIONS": str(variant.positions or "INT32_MAX"),
        "BATCH": str(variant.batch or most),
        "HEADS": str(variant.heads or most),
        "NO_SCORE": str(int(variant.score is None)),
        "NO_BACKWARD": str(int(all(k.phase == Phase.FORWARD.value for k in codes))),
    }


def _programs(variant: Variant) -> list[Program]:
    return [p for p in (variant.mask, variant.score) if p is not None]


def _kernels_in_c(variant: Variant, build: Build) -> list[Code]:
    """The kernels of a build that its launcher in C has."""
    phases = {p.value for p in _PHASES.values()}
    plain = (k for k in build.kernels if not k.reads and not k.before)
    kernels = [k for k in plain if k.phase in phases]
    backward = [k for k in kernels if k.phase != Phase.FORWARD.value]
    if variant.learned or any(k.plan == "table" for k in backward):
        return [k for k in kernels if k not in backward]
    return kernels


def _is_plain(parameter: Parameter) -> bool:
    return parameter.type == "descriptor" and parameter.tensor_map is None


def _fields(variant: Variant, kernels: list[Code]) -> Iterator[str]:
    """The part of a call that only this variant has."""
    params = {
        str(p.attribute): p for program in _programs(variant) for p in params_of(program.expr)
    }
    if params:
        yield "    struct { /* parameters of the mods */\n"
        for name, param in params.items():
            kind = "int32_t" if param.type.value == "index" else "float"
            yield f"        {kind} {_field(name)};\n"
        yield "    } parameters;\n"
    captures = {c.name: c for program in _programs(variant) for c in captures_of(program.expr)}
    if captures:
        yield "    struct { /* captured tensors of the mods */\n"
        for name, capture in captures.items():
            type = f"{capture.dtype.value}{'[]' * capture.rank}"
            yield f"        {variant.name}_capture {_field(name)}; /* {type} */\n"
        yield "    } captures;\n"
    if any(p.argument.role is Role.TABLE for k in kernels for p in k.parameters):
        yield _TABLE


def _field(name: str) -> str:
    """A name that C takes."""
    name = re.sub(r"\W", "_", name, flags=re.ASCII)
    return f"{name}_" if name in _KEYWORDS else name


def _defaults(variant: Variant) -> Iterator[str]:
    for program in _programs(variant):
        for name, value in program.values.items():
            number = repr(float(value)) if isinstance(value, float) else str(value)
            yield f"    call->parameters.{_field(name)} = {number};\n"


def _checks(variant: Variant) -> Iterator[str]:
    """Checks of the ranges that formulas are proven for."""
    for name, (low, high) in variant.ranges.items():
        value = f"c->parameters.{_field(name)}"
        yield f"    if ({value} < {low} || {value} > {high}) return {variant.name}_BAD_VALUE;\n"


def _row_of_kernel(code: Code, data: bytes) -> str:
    fnv = 14695981039346656037
    for byte in data:
        fnv = (fnv ^ byte) * 1099511628211 & (2**64 - 1)
    return (
        f'    {{"{code.code}", "{code.entry}", {len(data)}u, UINT64_C({fnv}),'
        f" {code.threads}, {code.shared_bytes}}},\n"
    )


def _rows_of_builds(variant: Variant, builds: list[Build]) -> Iterator[str]:
    first = 0
    for build in builds:
        kernels = _kernels_in_c(variant, build)
        phases = [k.phase for k in kernels]
        places = [
            first + phases.index(p.value) if p.value in phases else -1 for p in _PHASES.values()
        ]
        dtype = f"{variant.name}_{_DTYPES[build.dtype]}"
        counts = any(
            p.argument.role is Role.COUNTER
            for k in kernels
            for p in k.parameters
            if k.phase == Phase.FORWARD.value
        )
        numbers = [build.head_dim, build.value_dim, first, len(kernels), *places, int(counts)]
        tiles = tiles_of(build.head_dim)
        floats = (half // tiles.rows for half in (tiles.left, tiles.right))
        numbers += floats if Phase.BACKWARD.value in phases else (0, 0)
        yield f"    {{{build.target[5:]}, {dtype}, {', '.join(map(str, numbers))}}},\n"
        first += len(kernels)


def _launch(variant: Variant, number: int, build: Build, code: Code) -> str:
    """The function that launches one kernel."""
    lines = [
        f"/* {build.title}: {code.phase} */",
        f"static int launch_{number}(struct state *s) {{",
        f"    const {variant.name}_call *c = s->call;",
        "    struct words w;",
        f"    int code = {variant.name}_OK;",
        "    w.used = w.count = 0;",
    ]
    for parameter in code.parameters:
        lines += [f"    {line}" for line in _put(variant, parameter, code)]
    lines += ["    put_pointer(&w, 0);"] * code.null_pointers
    lines.append("    (void)c;")
    lines.append(
        f"    return code != {variant.name}_OK ? code : start(&w, s, {number}, {_grid(code)});"
    )
    return "\n".join([*lines, "}\n"])


def _grid(code: Code) -> str:
    """The formula of the manifest, in C."""
    sizes = {"q_tiles", "kv_tiles", "batch", "heads", "kv_heads"}
    most = re.fullmatch(r"min\((.*), multiprocessors\)", code.grid)
    names = (most[1] if most else code.grid).split(" * ")
    if not sizes.issuperset(names):
        raise InternalError(f"the grid of {code.phase} is {code.grid}")
    number = " * ".join(_size(name, code) for name in names)
    limit = "s->loaded->multiprocessors"
    return f"{number} < {limit} ? {number} : {limit}" if most else number


def _size(name: str, code: Code) -> str:
    match name:
        case "q_tiles":
            return f"tiles_of(s->q_len, {code.tile[0]})"
        case "kv_tiles":
            return f"tiles_of(s->kv_len, {code.tile[1]})"
        case "group":
            return "s->heads / s->kv_heads"
        case "q_offset":
            return "c->q_offset"
        case "all_heads" | "part_heads":
            return "s->batch * s->heads"
        case "all_kv_heads":
            return "s->batch * s->kv_heads"
        case "result_heads":
            return "s->heads"
        case "members":
            return "1"
        case "first_head" | "member":
            return "0"
        case "left_tiles":
            return _size("q_tiles", code)
    return f"s->{name}"


def _put(variant: Variant, parameter: Parameter, code: Code) -> list[str]:
    """The lines that put one argument among the words."""
    argument = parameter.argument
    name = argument.of
    match argument.role:
        case Role.DESCRIPTOR | Role.ROWS_DESCRIPTOR:
            return _put_descriptor(parameter)
        case Role.ROWS:
            value = _ROWS[name]
        case Role.SCALE:
            return ["put_f32(&w, s->no_score ? c->scale * 1.4426950408889634 : c->scale);"]
        case Role.SIZE:
            value = _size(name, code)
        case Role.PARAMETER:
            value = f"c->parameters.{_field(name)}"
        case Role.CAPTURE:
            value = f"c->captures.{_field(name)}.data"
        case Role.LENGTH:
            value = f"c->captures.{_field(name)}.shape[{argument.index}]"
        case Role.STRIDE:
            value = f"c->captures.{_field(name)}.strides[{argument.index}]"
        case Role.SUMS:
            value = f"s->{name}_sums"
        case Role.COUNTER:
            value = f"s->{name}"
        case Role.TABLE:
            value = f"c->table.{name}"
        case Role.TABLE_STRIDE:
            value = f"c->table.stride_{name}"
        case _:
            raise InternalError(f"the launcher of {variant.name} has no {argument.role.name}")
    put = {"pointer": "put_pointer", "fp32": "put_f32", "i64": "put_i64"}
    return [f"{put.get(parameter.type, 'put_i32')}(&w, {value});"]


def _put_descriptor(parameter: Parameter) -> list[str]:
    argument, box = parameter.argument, parameter.tensor_map
    if box is None:
        return [f"code = put_blocks(&w, s, &c->{argument.of}, {parameter.flags});"]
    block = f"(const uint32_t[]){{{', '.join(map(str, box.block))}}}"
    lines = []
    if argument.role is Role.ROWS_DESCRIPTOR:
        count = "(const int64_t[]){s->batch * s->heads * s->row_stride}, (const int64_t[]){1}"
        rows = f"{_ROWS[argument.of]}, 1, {count}, {box.element}, {box.itemsize}"
        lines.append(f"code = put_map(&w, s, {rows}, {box.swizzle}, {block});")
    else:
        tensor = f"&c->{argument.of}, {box.element}, {box.swizzle}, {block}"
        lines.append(f"code = put_tensor_map(&w, s, {tensor});")
    return [*lines, "if (code != 0) return code;"]
