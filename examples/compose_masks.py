"""Masks made of masks: &, | and ~, with packed documents and a variant from the library."""

import torch

import flexdsl as fx
from flexdsl import stdlib

LENGTHS = [200, 56, 256]  # three documents, packed into one row of 512 tokens
offsets = torch.tensor([0, *LENGTHS]).cumsum(0)


@fx.mask_mod
def landmark(b, h, q, kv):
    return kv % 64 == 0  # every 64th token may be seen from anywhere before it


@fx.mask_mod
def first_head(b, h, q, kv):
    return h == 0


near = stdlib.sliding_window(32)
inside = stdlib.document(offsets=offsets)
local = inside & (near | (stdlib.causal() & landmark))
# Head 0 sees its whole document up to the query, the other heads only what is near or a landmark.
mask = local | (first_head & inside & stdlib.causal())


def main():
    print(mask.text)
    plan = fx.plan(mask, 512, 512, heads=4, tile=(64, 64))
    for head in (0, 1):
        print(f"head {head}: q tile 7 needs kv tiles", plan.runs(0, head, 7))

    q, k, v = (torch.randn(1, 4, 512, 32) for _ in range(3))
    out = fx.attention(q, k, v, mask=mask)

    # No document sees another: a change in the first one leaves the others as they were.
    changed = v.clone()
    changed[:, :, : LENGTHS[0]] += 1.0
    again = fx.attention(q, k, changed, mask=mask)
    assert torch.equal(out[:, :, LENGTHS[0] :], again[:, :, LENGTHS[0] :])
    print("documents do not see each other")


if __name__ == "__main__":
    main()
