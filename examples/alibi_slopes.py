"""A score modification that captures a tensor: ALiBi with slopes, one for each head."""

import torch

import flexdsl as fx
from flexdsl import stdlib

HEADS = 6
slopes = torch.from_numpy(stdlib.alibi_slopes(HEADS))


@fx.score_mod
def alibi(score, b, h, q, kv):
    return score + slopes[h] * (kv - q)


def main():
    print(alibi.text)
    q, k, v = (torch.randn(2, HEADS, 256, 32) for _ in range(3))
    out = fx.attention(q, k, v, mask="q >= kv", score=alibi)

    # The library's variant is the same program.
    again = fx.attention(q, k, v, mask=stdlib.causal(), score=stdlib.alibi(HEADS))
    print("difference to flexdsl.stdlib:", (out - again).abs().max().item())

    # The definition, with a dense matrix.
    position = torch.arange(256)
    bias = slopes[:, None, None] * (position[None, :] - position[:, None])
    scores = q @ k.transpose(-1, -2) * 32**-0.5 + bias
    scores = scores.masked_fill(position[:, None] < position[None, :], float("-inf"))
    expected = scores.softmax(-1) @ v
    print("difference to a dense matrix:", (out - expected).abs().max().item())
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


if __name__ == "__main__":
    main()
