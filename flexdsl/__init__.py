"""flexdsl: an attention compiler.

A mask or a score modification, written as an ordinary Python function of `(b, h, q, kv)`, becomes a
typed expression; flexdsl proves which tiles of the attention matrix it needs, generates one fused
kernel for it, and runs that on a GPU or, where there is none, on the CPU.

    import flexdsl as fx

    @fx.mask_mod
    def sliding(b, h, q, kv):
        return q >= kv and q - kv < 1024

    @fx.score_mod
    def softcap(score, b, h, q, kv):
        return 50.0 * fx.tanh(score / 50.0)

    out = fx.attention(q, k, v, mask=sliding, score=softcap)
    print(fx.plan(sliding, q_len=65536, kv_len=65536))

Rooms, each importing only those before it, which a test holds:

    errors, ir, frontend | analysis, codegen, bundle, mod, plans, runtime, aot, lints, testing
    | bench, cli, docs

This file holds names only: each is imported from its room when it is first used, so that
`import flexdsl` is quick and loads no tensor library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flexdsl import errors as errors
    from flexdsl import stdlib as stdlib
    from flexdsl.aot import build as build
    from flexdsl.errors import FlexdslError as FlexdslError
    from flexdsl.frontend.functions import abs as abs
    from flexdsl.frontend.functions import cos as cos
    from flexdsl.frontend.functions import exp as exp
    from flexdsl.frontend.functions import exp2 as exp2
    from flexdsl.frontend.functions import floor as floor
    from flexdsl.frontend.functions import log as log
    from flexdsl.frontend.functions import log2 as log2
    from flexdsl.frontend.functions import maximum as maximum
    from flexdsl.frontend.functions import minimum as minimum
    from flexdsl.frontend.functions import rsqrt as rsqrt
    from flexdsl.frontend.functions import sigmoid as sigmoid
    from flexdsl.frontend.functions import sin as sin
    from flexdsl.frontend.functions import sqrt as sqrt
    from flexdsl.frontend.functions import tanh as tanh
    from flexdsl.frontend.functions import where as where
    from flexdsl.mod import Mod as Mod
    from flexdsl.mod import and_masks as and_masks
    from flexdsl.mod import mask_mod as mask_mod
    from flexdsl.mod import not_mask as not_mask
    from flexdsl.mod import or_masks as or_masks
    from flexdsl.mod import parse as parse
    from flexdsl.mod import score_mod as score_mod
    from flexdsl.plans import BlockPlan as BlockPlan
    from flexdsl.plans import plan as plan
    from flexdsl.runtime.attention import attention as attention
    from flexdsl.runtime.explain import explain as explain
    from flexdsl.runtime.loaded import load as load
    from flexdsl.testing import verify as verify
    from flexdsl.variants import Variant as Variant
    from flexdsl.variants import variant as variant

__version__ = "0.1.0"

# Public name -> the module that has it; "" for a module that is itself the name.
_HOMES = {
    "BlockPlan": "flexdsl.plans",
    "FlexdslError": "flexdsl.errors",
    "Mod": "flexdsl.mod",
    "Variant": "flexdsl.variants",
    "abs": "flexdsl.frontend.functions",
    "and_masks": "flexdsl.mod",
    "attention": "flexdsl.runtime.attention",
    "build": "flexdsl.aot",
    "cos": "flexdsl.frontend.functions",
    "errors": "",
    "exp": "flexdsl.frontend.functions",
    "exp2": "flexdsl.frontend.functions",
    "explain": "flexdsl.runtime.explain",
    "floor": "flexdsl.frontend.functions",
    "load": "flexdsl.runtime.loaded",
    "log": "flexdsl.frontend.functions",
    "log2": "flexdsl.frontend.functions",
    "mask_mod": "flexdsl.mod",
    "maximum": "flexdsl.frontend.functions",
    "minimum": "flexdsl.frontend.functions",
    "not_mask": "flexdsl.mod",
    "or_masks": "flexdsl.mod",
    "parse": "flexdsl.mod",
    "plan": "flexdsl.plans",
    "rsqrt": "flexdsl.frontend.functions",
    "score_mod": "flexdsl.mod",
    "sigmoid": "flexdsl.frontend.functions",
    "sin": "flexdsl.frontend.functions",
    "sqrt": "flexdsl.frontend.functions",
    "stdlib": "",
    "tanh": "flexdsl.frontend.functions",
    "variant": "flexdsl.variants",
    "verify": "flexdsl.testing",
    "where": "flexdsl.frontend.functions",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'flexdsl' has no attribute {name!r}")
    home = _HOMES[name]
    value = getattr(import_module(home), name) if home else import_module(f"flexdsl.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
