"""A mask and a score modification as Python functions, their plan, and attention with gradients."""

import torch

import flexdsl as fx


@fx.mask_mod
def sliding(b, h, q, kv):
    return q >= kv and q - kv < 128


@fx.score_mod
def softcap(score, b, h, q, kv):
    return 50.0 * fx.tanh(score / 50.0)


def main():
    # Batch 1, 4 query heads that share 2 key heads, 512 tokens, head dimension 64.
    q = torch.randn(1, 4, 512, 64, requires_grad=True)
    k = torch.randn(1, 2, 512, 64, requires_grad=True)
    v = torch.randn(1, 2, 512, 64, requires_grad=True)

    out = fx.attention(q, k, v, mask=sliding, score=softcap)
    out.square().sum().backward()
    print("output", tuple(out.shape), "gradient of k", tuple(k.grad.shape))

    plan = fx.plan(sliding, q_len=512, kv_len=512, tile=(64, 64))
    print(f"{plan.density:.0%} of the tiles are computed, {plan.pairs} pairs are allowed")

    # The mask is still a function, and has a text form that reads back.
    print(sliding(0, 0, 200, 100), sliding(0, 0, 100, 200))
    print(sliding.text)
    assert fx.parse(sliding.text).expr is sliding.expr


if __name__ == "__main__":
    main()
