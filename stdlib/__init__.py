"""The papers' variants: one file each, with formula, source and a picture.

    import flexdsl as fx

    mask = fx.stdlib.sliding_window(1024) & fx.stdlib.document(ids)
    out = fx.attention(q, k, v, mask=mask, score=fx.stdlib.softcap(50.0))

Each function checks its arguments and returns a `fx.Mod`, written with flexdsl's public names only,
as a user would write it. No variant needs torch; arrays may be numpy's or torch's.
"""

from .alibi import alibi, alibi_bidirectional, alibi_slopes
from .attention_sink import attention_sink
from .causal import causal, causal_bottom_right
from .document import document, document_causal
from .prefix_lm import prefix_lm
from .sliding_window import sliding_window
from .softcap import softcap

__all__ = [
    "alibi",
    "alibi_bidirectional",
    "alibi_slopes",
    "attention_sink",
    "causal",
    "causal_bottom_right",
    "document",
    "document_causal",
    "prefix_lm",
    "sliding_window",
    "softcap",
]
