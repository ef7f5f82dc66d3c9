"""Decoding with a cache of keys and values: one query at a time, at the position that it has.

The cache is one tensor with room for the whole text, of which a step takes the part that is filled.
"""

import torch

import flexdsl as fx
from flexdsl import stdlib

HEADS, KEY_HEADS, DIM = 8, 2, 64
PROMPT, TOKENS = 300, 332
mask = stdlib.attention_sink(4, keys_including_self=128)
score = stdlib.alibi(HEADS)


def main():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    shapes = HEADS, KEY_HEADS, KEY_HEADS
    q, keys, values = (torch.randn(1, n, TOKENS, DIM, device=device, dtype=dtype) for n in shapes)
    mods = {"mask": mask, "score": score}

    found = [fx.attention(q[:, :, :PROMPT], keys[:, :, :PROMPT], values[:, :, :PROMPT], **mods)]
    for token in range(PROMPT, TOKENS):
        filled = keys[:, :, : token + 1], values[:, :, : token + 1]
        found.append(fx.attention(q[:, :, token : token + 1], *filled, q_offset=token, **mods))

    # Token by token it is what all of the text gives at once.
    expected = fx.attention(q, keys, values, **mods)
    difference = (torch.cat(found, 2) - expected).abs().max().item()
    print(f"{TOKENS - PROMPT} tokens on {device}, difference to all at once: {difference}")
    assert difference < (0.05 if dtype is torch.bfloat16 else 1e-5)


if __name__ == "__main__":
    main()
