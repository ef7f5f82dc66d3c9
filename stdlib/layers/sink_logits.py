"""Learned sink logits: a head may attend to nothing, by one more term in the softmax's sum.

    p[j] = exp(s[j]) / (sum exp(s) + exp(sink[h])),  which is out * sigmoid(lse - sink[h])

Source: gpt-oss, https://github.com/openai/gpt-oss; with a sink of 0 it is "softmax1". The term has
no value vector. It is neither a mask nor a score: it follows attention, with its lse.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..arguments import integer_at_least, refuse


class SinkLogits(torch.nn.Module):
    """Call it on what attention returns.

        sinks = SinkLogits(num_heads)
        out = sinks(*fx.attention(q, k, v, mask=mask, return_lse=True))

    Attributes:
        sinks: the parameter, float32 [heads], as in gpt-oss' checkpoints.
    """

    sinks: torch.nn.Parameter

    def __init__(self, num_heads: int) -> None:
        """Start from zeros.

        Raises:
            ArgumentError: num_heads is not an integer of at least 1.
        """
        super().__init__()
        heads = integer_at_least(1, "num_heads", num_heads)
        self.sinks = torch.nn.Parameter(torch.zeros(heads))

    def forward(self, out: Tensor, lse: Tensor) -> Tensor:
        """The output with the sink in its sum; rows that see no key stay 0.

        Args:
            out: [B, heads, Lq, Dv].
            lse: [B, heads, Lq], natural logarithms of the sums without the sink.

        Raises:
            ArgumentError: another number of heads.
        """
        if lse.shape[-2] != self.sinks.shape[0]:
            raise refuse(f"lse has {lse.shape[-2]} heads, but there are {len(self.sinks)} sinks")
        share = torch.sigmoid(lse - self.sinks[:, None])
        return (out * share[..., None]).to(out.dtype)
