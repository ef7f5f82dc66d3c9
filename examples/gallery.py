"""Every mask of the library on one sheet: queries down, keys across, black where a query sees.

Some depend on the head: head 1 of 4 is drawn.
"""

import argparse

import matplotlib
import numpy as np

import flexdsl as fx
from flexdsl import stdlib

matplotlib.use("agg")
from matplotlib import pyplot

N = 64
random = np.random.default_rng(0)
tiles = stdlib.TileOrder((8, 8), (4, 4))

# Name -> mask, and the numbers of queries and keys where they are not N.
MASKS = {
    "causal": stdlib.causal(),
    "causal_bottom_right": (stdlib.causal_bottom_right(40, N), 40, N),
    "sliding_window": stdlib.sliding_window(12),
    "flash_window": (stdlib.flash_window(40, N, 10, 4), 40, N),
    "attention_sink": stdlib.attention_sink(4, 12),
    "prefix_lm": stdlib.prefix_lm(20),
    "document": stdlib.document(offsets=[0, 12, 20, 45, N]),
    "document_causal": stdlib.document_causal(offsets=[0, 12, 20, 45, N]),
    "shared_prefix": stdlib.shared_prefix([16, 16, 16, 16], [0, 0, 0, 0]),
    "block_diffusion": stdlib.block_diffusion(N // 2, 8),
    "flamingo": (stdlib.flamingo([[0, 24], [24, 40], [30, 64]], 8), N, 24),
    "tree": (stdlib.tree([-1, *(n // 2 for n in range(31))], 32), 32, N),
    "draft_blocks": (stdlib.draft_blocks(24, 8), 40, N),
    "longformer": stdlib.longformer(6, global_tokens=np.arange(N) % 30 == 5),
    "dilated_window": stdlib.dilated_window(20, 4),
    "strided": stdlib.strided(8),
    "sparse_fixed": stdlib.sparse_fixed(8, 2),
    "bigbird": stdlib.bigbird(random.integers(0, 16, (16, 2)), 4),
    "strided_heads": stdlib.strided_heads(4, 2, 4, heads=4),
    "strided_blocks": stdlib.strided_blocks(4, 2, 4),
    "power_attention": stdlib.power_attention(2, 3, 1),
    "elastic_window": stdlib.elastic_window([1, 1, 2, 2], [2, 4, 6, 8], 4),
    "neighborhood": stdlib.neighborhood((8, 8), 5),
    "neighborhood, tiles": stdlib.neighborhood((8, 8), 5).in_order(tiles),
    "sliding_tile": stdlib.sliding_tile((1, 8, 8), (1, 3, 1), (1, 2, 4)),
    "radial_token": stdlib.radial_token(8, 8),
    "radial_blocks": (stdlib.radial_blocks(2048, 2048, 8, 0.2, "wan"), 2048, 2048),
    "window_2d": stdlib.window_2d((8, 8), 4),
    "shifted_window": stdlib.shifted_window((8, 8), 4),
    "grid_2d": stdlib.grid_2d((8, 8), 4),
    "timesformer_temporal": stdlib.timesformer_temporal(9),
    "timesformer_spatial": stdlib.timesformer_spatial(9),
    "view_time": stdlib.view_time(4, 4, 4),
    "svg_spatial": stdlib.svg_spatial(8, 8, 1.5, round_to=4),
    "svg_temporal": stdlib.svg_temporal(8, 7, 8, 2),
    "svg_hunyuan": stdlib.svg_hunyuan(6, 8, 8, 1.5, 4),
    "svg_wan": stdlib.svg_wan(8, 1.5, 4),
    "nsa_compressed": (stdlib.nsa_compressed(4), N, N // 4),
    "block_table": stdlib.block_table(random.random((8, 8)) < 0.4, 8),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="gallery.png", help="picture to write")
    out = parser.parse_args().out
    columns = 8
    figure, axes = pyplot.subplots(-(-len(MASKS) // columns), columns, figsize=(16, 11))
    for axis in axes.flat:
        axis.axis("off")
    for axis, (name, value) in zip(axes.flat, MASKS.items(), strict=False):
        mask, q_len, kv_len = value if isinstance(value, tuple) else (value, N, N)
        plan = fx.plan(mask, q_len, kv_len, heads=4, tile=(8, 8))
        axis.imshow(plan.to_dense(tokens=True)[0, 1], cmap="binary", interpolation="nearest")
        axis.set_title(name, fontsize=9)
        print(f"{name:<22}{plan.pairs / (4 * q_len * kv_len):7.1%} of the pairs")
    figure.tight_layout()
    figure.savefig(out, dpi=100)
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
