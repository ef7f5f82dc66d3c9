"""A vector's name and parameters -> the call of the library that it is about.

`vectors.json` was computed by independent code from the papers' definitions: `masks` has the keys
that each query may see, `biases` what is added to (or multiplied with) a score, `points` values of
functions, `row_ops` softmaxes of one row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import flexdsl as fx
from flexdsl import stdlib

Params = dict[str, Any]

# Vectors of what this library does not compute, and why.
NOT_COVERED = {
    "sigmoid_attention": "another normaliser: no softmax",
    "diff_attn_lambda_init": "a training schedule of a difference of two attentions",
    "alpha_entmax": "another normaliser, iterative",
    "sigmoid_rows": "another normaliser: no softmax",
    "lssa_row": "another normaliser, and known from third parties only",
    "differential_row": "a difference of two attentions, no softmax of one",
    "landmark_grouped_softmax": "a softmax in two levels",
    "agent_attention": "two calls of attention without any mask or score modification",
    "lightning2_chunk": "linear attention: an operator with a state",
}


def _bigbird(p: Params) -> fx.Mod:
    rand, blocks = p["rand"], p["blocks"]
    table = [[*rand.get(str(i), []), *[i] * p["r"]][: p["r"]] for i in range(blocks)]
    return stdlib.bigbird(table, 1)


def _s2(p: Params) -> fx.Mod:
    return stdlib.strided_heads(
        p.get("block_size", 1),
        p["local_blocks"],
        p["vert_stride"],
        p["num_heads"],
        kv_heads=p.get("nkv"),
        dense_heads=p.get("dense", 0),
    )


def _radial(p: Params) -> Any:
    video = p["seq"], p["video_tokens"], p["frames"]
    return stdlib.radial_block_table(*video, p["decay_factor"], p["model"], p["block"])


def _natten(p: Params) -> fx.Mod:
    return stdlib.neighborhood(
        p["shape"],
        p["kernel"],
        stride=p["stride"],
        dilation=p["dilation"],
        causal=p["causal"],
        extra=p["additional_kv"],
    )


def _doc(within: fx.Mod | None = None) -> Callable[[Params], fx.Mod]:
    return lambda p: stdlib.document(p["doc"], within=within)


MASKS: dict[str, Callable[[Params], fx.Mod]] = {
    "causal": lambda p: stdlib.causal(),
    "causal_bottom_right": lambda p: stdlib.causal_bottom_right(p["sq"], p["sk"]),
    "sliding_window_causal": lambda p: stdlib.sliding_window(p["W"]),
    "sliding_window_causal_gym": lambda p: stdlib.sliding_window(p["window_size"] + 1),
    "flash_attn_window": lambda p: stdlib.flash_window(p["sq"], p["sk"], p["left"], p["right"]),
    "attention_sink_window": lambda p: stdlib.attention_sink(p["sinks"], p["window"]),
    "attention_sink_window_post_evict": lambda p: stdlib.attention_sink(
        p["sinks"], p["window"] + 1
    ),
    "prefix_lm": lambda p: stdlib.prefix_lm(p["prefix"]),
    "document_full": _doc(),
    "document_causal": lambda p: stdlib.document_causal(p["doc"]),
    "document_window2": _doc(stdlib.sliding_window(2)),
    "document_prefix_lm": lambda p: _doc(stdlib.prefix_lm(p["prefix"]))(p),
    "shared_prefix": lambda p: stdlib.shared_prefix(p["doc_lengths"], p["prefix_document_id"]),
    "block_diffusion": lambda p: stdlib.block_diffusion(p["seq_len"], p["block"]),
    "flamingo_cross": lambda p: stdlib.flamingo(p["intervals"], p["tokens_per_image"]),
    "tree_medusa": lambda p: stdlib.tree(stdlib.medusa_parents(p["choices"]), p["prefix"]),
    "tree_parents": lambda p: stdlib.tree(p["parents"], p["prefix"]),
    "jetspec_training": lambda p: stdlib.draft_blocks(p["prefix"], p["block"]),
    "longformer_band": lambda p: stdlib.longformer(
        p["w"], dilation=p["dilation"], causal=p["autoregressive"]
    ),
    "longformer_global": lambda p: stdlib.longformer(
        p["w"], global_tokens=[i in p["global_tokens"] for i in range(9)]
    ),
    "dilated_sliding_window_gym": lambda p: stdlib.dilated_window(p["window"], p["dilation"]),
    "sparse_transformer_local": lambda p: stdlib.sliding_window(p["local_attn_ctx"]),
    "sparse_transformer_strided": lambda p: stdlib.strided(p["stride"]),
    "sparse_transformer_fixed": lambda p: stdlib.sparse_fixed(
        p["stride_blocks"], p["vertsize"], p["num_verts"]
    ),
    "sparse_transformer_fixed_token": lambda p: stdlib.sparse_fixed(p["stride"], p["c"]),
    "bigbird_block": _bigbird,
    "s2_blocks_causal": _s2,
    "s2_tokens_causal": _s2,
    "s2_blocks_bidirectional": lambda p: stdlib.strided_blocks(
        1, p["local_blocks"], p["vert_stride"]
    ),
    "power_attention": lambda p: stdlib.power_attention(
        p["block"], p["window_blocks"], p["sink_tokens"] // p["block"]
    ),
    "moa_prefill": lambda p: stdlib.elastic_window(
        [p["sink_blocks"]], [p["local_blocks"]], p["block"]
    ),
    "window_2d": lambda p: stdlib.window_2d((p["H"], p["W"]), p["window"]),
    "maxvit_grid": lambda p: stdlib.grid_2d((p["H"], p["W"]), p["grid"]),
    "swin_shifted_window": lambda p: stdlib.shifted_window(
        (p["H"], p["W"]), p["window"], p["shift"]
    ),
    "timesformer_temporal": lambda p: stdlib.timesformer_temporal(p["T"]),
    "timesformer_spatial": lambda p: stdlib.timesformer_spatial(p["T"]),
    "view_time_fused": lambda p: stdlib.view_time(p["V"], p["T"], p["HW"]),
    "natten_1d": _natten,
    "natten_2d": _natten,
    "natten_3d": _natten,
    "sliding_tile": lambda p: stdlib.sliding_tile(
        p["canvas"], p["kernel_tiles"], p["tile"], text=p["text_len"]
    ),
    "sliding_tile_gym": lambda p: stdlib.sliding_tile(
        p["canvas"], p["kernel_tiles"], p["tile"], even="left"
    ),
    "radial_paper_token": lambda p: stdlib.radial_token(
        p["frames"], p["tokens_per_frame"], first_frame=p["first_frame_sink"]
    ),
    "radial_repo_blocks": lambda p: stdlib.block_table(_radial(p), 1),
    "svg_spatial": lambda p: stdlib.svg_spatial(
        p["prompt"],
        p["tokens_per_frame"],
        p["width"],
        round_to=p["round_width"],
        first_frame=p["attn_sink"],
    ),
    "svg_temporal": lambda p: stdlib.svg_temporal(
        p["prompt"], p["frames"], p["tokens_per_frame"], p["width"]
    ),
    "svg_hunyuan": lambda p: stdlib.svg_hunyuan(
        p["frames"], p["tokens_per_frame"], p["prompt"], p["mul"], p["round"]
    ),
    "svg_wan": lambda p: stdlib.svg_wan(p["tokens_per_frame"], p["mul"], p["round"]),
    "nsa_compressed_visibility": lambda p: stdlib.nsa_compressed(p["block"]),
}


def _numbered(rows: int, heads: int = 1) -> Any:
    """A table whose entry is its row: the bias is the index that was used."""
    return np.repeat(np.arange(rows, dtype=np.float32)[:, None], heads, axis=1)


def _dual_chunk(p: Params) -> fx.Mod:
    return stdlib.dual_chunk_bias(
        _numbered(p["chunk_size"] + 1), p["chunk_size"], p["local_window"]
    )


# Each with the score to give it: 0 for what is added, 1 for what is multiplied.
BIASES: dict[str, tuple[float, Callable[[Params], fx.Mod]]] = {
    "alibi_causal": (0.0, lambda p: stdlib.alibi(p["H"])),
    "alibi_bidirectional_fa": (0.0, lambda p: stdlib.alibi_bidirectional(p["H"])),
    "alibi_attention_gym": (0.0, lambda p: stdlib.alibi(p["H"], rule="geometric")),
    "t5_bucket_index": (
        0.0,
        lambda p: stdlib.t5_bias(
            _numbered(p["num_buckets"]),
            bidirectional=p["bidirectional"],
            max_distance=p["max_distance"],
        ),
    ),
    "swin_relative_position_index": (
        0.0,
        lambda p: stdlib.swin_bias(
            _numbered((2 * p["Wh"] - 1) * (2 * p["Ww"] - 1)), (p["Wh"], p["Ww"])
        ),
    ),
    "dca_relative_position": (0.0, _dual_chunk),
    "sandwich": (0.0, lambda p: stdlib.sandwich(p["H"], p["d_bar"])),
    "retention_decay": (1.0, lambda p: stdlib.retention(8)),
    "lightning2_decay": (1.0, lambda p: stdlib.lightning_decay(p["H"])),
    "spatial_distance_sq": (0.0, lambda p: stdlib.spatial_distance(p["positions"])),
    "ipa_point_distance": (
        0.0,
        lambda p: stdlib.ipa_points([p["q_pts"]], [p["k_pts"]], [p["w_h"]]),
    ),
    "ssa_position_temperature": (1.0, lambda p: stdlib.selective_temperature([p["beta"]])),
}

_MOA = ("sink_blocks", "local_blocks")


def _moa(p: Params, point: str) -> float:
    sinks, local = stdlib.moa_spans([p["alpha"]], [p["beta"]], p["seq"] + p["max_new"])
    blocks = {"sink": sinks[0], "local": local[0], "cache": sinks[0] + local[0]}
    name = point.removesuffix("_blocks")
    return float(blocks[name] * (1 if point in _MOA else 64))


def _log_coordinate(p: Params, point: int) -> float:
    size = p["window"]
    return float(stdlib.swin_log_coordinates(size)[(point + size - 1) * (2 * size - 1), 0])


POINTS: dict[str, Callable[[Params, Any], float]] = {
    "moa_span_rule": _moa,
    "alibi_slopes": lambda p, point: float(stdlib.alibi_slopes(p["H"])[point]),
    "swinv2_log_coord": _log_coordinate,
    "softcap": lambda p, point: float(stdlib.softcap(p["cap"])(point, 0, 0, 0, 0)),
    "retention_gamma": lambda p, point: float(stdlib.retention_decays(4)[point]),
}


def mod_for_vector(name: str, params: Params) -> fx.Mod:
    """The mask that a vector of `masks` is about.

    Where the vector's unit is a block, a position is a block: rows and keys are as in the vector.
    """
    return MASKS[name](params)


def bias_for_vector(name: str, params: Params) -> Callable[[int, int, int], float]:
    """The bias, or the factor, of (head, q, kv) that a vector of `biases` is about."""
    score, make = BIASES[name]
    mod = make(params)
    # FlashAttention lines up the last query with the last key, by an offset of the positions.
    offset = params["sk"] - params["sq"] if "sk" in params else 0
    return lambda h, q, kv: float(mod(score, 0, h, q + offset, kv))


def value_for_vector(name: str, params: Params, point: Any) -> float:
    """The value at one point of a vector of `points`."""
    return POINTS[name](params, point)


def sink_softmax(params: Params) -> tuple[list[float], float, float]:
    """Weights, lse without the sink, and the factor that the sink gives the output.

    One head dimension and a query of 1 make the keys the scores; unit values give the weights.
    """
    import torch

    scores = torch.tensor(params["scores"], dtype=torch.float64)
    layer = stdlib.SinkLogits(1).double()
    layer.load_state_dict({"sinks": torch.tensor([params["sink"]])})
    query = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    values = torch.eye(len(scores), dtype=torch.float64)[None, None]
    out, lse = fx.attention(query, scores[None, None, :, None], values, scale=1.0, return_lse=True)
    with torch.no_grad():
        factor = layer(torch.ones_like(out), lse)[0, 0, 0, 0].item()
        return layer(out, lse).flatten().tolist(), lse.item(), factor
