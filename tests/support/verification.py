"""What the tests of verification share: mods, and what `verify` says of them."""

from __future__ import annotations

import textwrap

import numpy as np
import pytest
import torch

import flexdsl as fx
from flexdsl.errors import VerificationError

IDS = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 2, 2, 5, 5, 5, 5, 6])
BIAS = torch.linspace(-1, 1, 33)


@fx.mask_mod
def packed(b, h, q, kv):
    return IDS[q] == IDS[kv] and q >= kv


@fx.score_mod
def kinked(score, b, h, q, kv):
    return score if score > 0.5 else fx.maximum(2.0 * score, -1.0)


STDLIB = {
    "causal": fx.stdlib.causal(),
    "bottom right": fx.stdlib.causal_bottom_right(5, 9),
    "window": fx.stdlib.sliding_window(7),
    "sinks": fx.stdlib.attention_sink(3, 8),
    "prefix": fx.stdlib.prefix_lm(6),
    "document": fx.stdlib.document(IDS),
    "alibi": fx.stdlib.alibi(4),
    "softcap": fx.stdlib.softcap(2.0),
}


def found(mod, **how) -> str:
    """What `verify` says with its default number of examples."""
    with pytest.raises(VerificationError) as caught:
        fx.verify(mod, **how)
    assert "smallest case found: Case(" in str(caught.value)
    return str(caught.value)


def program_in(message: str) -> str:
    _, _, program = message.partition("reproduces it:\n\n")
    return textwrap.dedent(program)


def treat_partial_as_full(monkeypatch):
    from flexdsl.runtime import cpu, cpu_backward

    for module in (cpu, cpu_backward):
        monkeypatch.setattr(module, "exclude", lambda space, slab, scores: None)
