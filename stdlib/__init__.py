"""The papers' variants: one file each, with formula, source and a picture.

    import flexdsl as fx

    mask = fx.stdlib.sliding_window(1024) & fx.stdlib.document(ids)
    out = fx.attention(q, k, v, mask=mask, score=fx.stdlib.softcap(50.0))

    masks/   which keys a query sees        scores/  biases and other changes of the score
    tables/  numbers that variants take     orders/  grids, and tokens in tile order
    layers/  torch modules, for what is learned or moves with a model

A function of masks/ or scores/ checks its arguments and returns a `fx.Mod`, written with flexdsl's
public names only, as a user would write it. Only layers/ needs torch; arrays may be numpy's or
torch's. This file holds names: each is imported from its file when it is first used.
`catalog()` lists them, and `flexdsl show stdlib` prints that.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .layers.alibi import ALiBi as ALiBi
    from .layers.document_mask import DocumentMask as DocumentMask
    from .layers.packed_documents import PackedDocuments as PackedDocuments
    from .layers.sink_logits import SinkLogits as SinkLogits
    from .layers.swin_relative_bias import SwinRelativeBias as SwinRelativeBias
    from .layers.t5_relative_bias import T5RelativeBias as T5RelativeBias
    from .listing import catalog as catalog
    from .masks.attention_sink import attention_sink as attention_sink
    from .masks.bigbird import bigbird as bigbird
    from .masks.block_diffusion import block_diffusion as block_diffusion
    from .masks.block_table import block_table as block_table
    from .masks.causal import causal as causal
    from .masks.causal_bottom_right import causal_bottom_right as causal_bottom_right
    from .masks.dilated_window import dilated_window as dilated_window
    from .masks.document import document as document
    from .masks.document_causal import document_causal as document_causal
    from .masks.draft_blocks import draft_blocks as draft_blocks
    from .masks.elastic_window import elastic_window as elastic_window
    from .masks.flamingo import flamingo as flamingo
    from .masks.flash_window import flash_window as flash_window
    from .masks.grid_2d import grid_2d as grid_2d
    from .masks.longformer import longformer as longformer
    from .masks.neighborhood import neighborhood as neighborhood
    from .masks.nsa_compressed import nsa_compressed as nsa_compressed
    from .masks.power_attention import power_attention as power_attention
    from .masks.prefix_lm import prefix_lm as prefix_lm
    from .masks.radial_blocks import radial_blocks as radial_blocks
    from .masks.radial_token import radial_token as radial_token
    from .masks.shared_prefix import shared_prefix as shared_prefix
    from .masks.shifted_window import shifted_window as shifted_window
    from .masks.sliding_tile import sliding_tile as sliding_tile
    from .masks.sliding_window import sliding_window as sliding_window
    from .masks.sparse_fixed import sparse_fixed as sparse_fixed
    from .masks.strided import strided as strided
    from .masks.strided_blocks import strided_blocks as strided_blocks
    from .masks.strided_heads import strided_heads as strided_heads
    from .masks.svg_hunyuan import svg_hunyuan as svg_hunyuan
    from .masks.svg_spatial import svg_spatial as svg_spatial
    from .masks.svg_temporal import svg_temporal as svg_temporal
    from .masks.svg_wan import svg_wan as svg_wan
    from .masks.timesformer_spatial import timesformer_spatial as timesformer_spatial
    from .masks.timesformer_temporal import timesformer_temporal as timesformer_temporal
    from .masks.tree import tree as tree
    from .masks.view_time import view_time as view_time
    from .masks.window_2d import window_2d as window_2d
    from .orders.grid import grid as grid
    from .orders.tile_order import TileOrder as TileOrder
    from .scores.alibi import alibi as alibi
    from .scores.alibi_bidirectional import alibi_bidirectional as alibi_bidirectional
    from .scores.dual_chunk_bias import dual_chunk_bias as dual_chunk_bias
    from .scores.graphormer_bias import graphormer_bias as graphormer_bias
    from .scores.ipa_points import ipa_points as ipa_points
    from .scores.learned_bias import learned_bias as learned_bias
    from .scores.lightning_decay import lightning_decay as lightning_decay
    from .scores.lowrank_bias import lowrank_bias as lowrank_bias
    from .scores.retention import retention as retention
    from .scores.sandwich import sandwich as sandwich
    from .scores.selective_temperature import selective_temperature as selective_temperature
    from .scores.softcap import softcap as softcap
    from .scores.spatial_distance import spatial_distance as spatial_distance
    from .scores.swin_bias import swin_bias as swin_bias
    from .scores.t5_bias import t5_bias as t5_bias
    from .tables.alibi_slopes import alibi_slopes as alibi_slopes
    from .tables.approximate import approximate as approximate
    from .tables.document_ends import document_ends as document_ends
    from .tables.document_ids import document_ids as document_ids
    from .tables.medusa_parents import medusa_parents as medusa_parents
    from .tables.moa_spans import moa_spans as moa_spans
    from .tables.radial_block_table import radial_block_table as radial_block_table
    from .tables.retention_decays import retention_decays as retention_decays
    from .tables.swin_log_coordinates import swin_log_coordinates as swin_log_coordinates
    from .tables.t5_buckets import t5_buckets as t5_buckets

# Public name -> the file that has it.
HOMES = {
    "attention_sink": "masks.attention_sink",
    "bigbird": "masks.bigbird",
    "block_diffusion": "masks.block_diffusion",
    "block_table": "masks.block_table",
    "causal": "masks.causal",
    "causal_bottom_right": "masks.causal_bottom_right",
    "dilated_window": "masks.dilated_window",
    "document": "masks.document",
    "document_causal": "masks.document_causal",
    "draft_blocks": "masks.draft_blocks",
    "elastic_window": "masks.elastic_window",
    "flamingo": "masks.flamingo",
    "flash_window": "masks.flash_window",
    "grid_2d": "masks.grid_2d",
    "longformer": "masks.longformer",
    "neighborhood": "masks.neighborhood",
    "nsa_compressed": "masks.nsa_compressed",
    "power_attention": "masks.power_attention",
    "prefix_lm": "masks.prefix_lm",
    "radial_blocks": "masks.radial_blocks",
    "radial_token": "masks.radial_token",
    "shared_prefix": "masks.shared_prefix",
    "shifted_window": "masks.shifted_window",
    "sliding_tile": "masks.sliding_tile",
    "sliding_window": "masks.sliding_window",
    "sparse_fixed": "masks.sparse_fixed",
    "strided": "masks.strided",
    "strided_blocks": "masks.strided_blocks",
    "strided_heads": "masks.strided_heads",
    "svg_hunyuan": "masks.svg_hunyuan",
    "svg_spatial": "masks.svg_spatial",
    "svg_temporal": "masks.svg_temporal",
    "svg_wan": "masks.svg_wan",
    "timesformer_spatial": "masks.timesformer_spatial",
    "timesformer_temporal": "masks.timesformer_temporal",
    "tree": "masks.tree",
    "view_time": "masks.view_time",
    "window_2d": "masks.window_2d",
    "alibi": "scores.alibi",
    "alibi_bidirectional": "scores.alibi_bidirectional",
    "dual_chunk_bias": "scores.dual_chunk_bias",
    "graphormer_bias": "scores.graphormer_bias",
    "ipa_points": "scores.ipa_points",
    "learned_bias": "scores.learned_bias",
    "lightning_decay": "scores.lightning_decay",
    "lowrank_bias": "scores.lowrank_bias",
    "retention": "scores.retention",
    "sandwich": "scores.sandwich",
    "selective_temperature": "scores.selective_temperature",
    "softcap": "scores.softcap",
    "spatial_distance": "scores.spatial_distance",
    "swin_bias": "scores.swin_bias",
    "t5_bias": "scores.t5_bias",
    "grid": "orders.grid",
    "TileOrder": "orders.tile_order",
    "alibi_slopes": "tables.alibi_slopes",
    "approximate": "tables.approximate",
    "document_ends": "tables.document_ends",
    "document_ids": "tables.document_ids",
    "medusa_parents": "tables.medusa_parents",
    "moa_spans": "tables.moa_spans",
    "radial_block_table": "tables.radial_block_table",
    "retention_decays": "tables.retention_decays",
    "swin_log_coordinates": "tables.swin_log_coordinates",
    "t5_buckets": "tables.t5_buckets",
    "ALiBi": "layers.alibi",
    "DocumentMask": "layers.document_mask",
    "PackedDocuments": "layers.packed_documents",
    "SinkLogits": "layers.sink_logits",
    "SwinRelativeBias": "layers.swin_relative_bias",
    "T5RelativeBias": "layers.t5_relative_bias",
    "catalog": "listing",
}

__all__ = [*HOMES]


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'flexdsl.stdlib' has no attribute {name!r}")
    value = getattr(import_module(f".{HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
