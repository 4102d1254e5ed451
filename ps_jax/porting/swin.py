"""Porting tables of the Swin Transformers, under torchvision's names and under SOLIDER's.

Both keep buffers of indices that follow from the window's side; they are left out.
"""

import numpy as np

from ps_jax.porting.rules import (
    Rule,
    Transform,
    convolution_rules,
    flatten,
    layer_norm_rules,
    linear_kernel,
    linear_rules,
)


def _unfold_kernel(tensor: np.ndarray) -> np.ndarray:
    outputs, merged = tensor.shape
    return tensor.reshape(outputs, merged // 4, 2, 2).transpose(3, 2, 1, 0).reshape(merged, outputs)


def _fold_kernel(value: np.ndarray) -> np.ndarray:
    merged, outputs = value.shape
    return value.reshape(2, 2, merged // 4, outputs).transpose(3, 2, 1, 0).reshape(outputs, merged)


# SOLIDER's (out, 4 in) -> (4 in, out): of 2x2 merged cells it has the channel first, we the column.
unfolded_kernel = Transform(_unfold_kernel, _fold_kernel)

# SOLIDER's (4 in) -> (4 in), as `unfolded_kernel`.
unfolded_vector = Transform(
    lambda tensor: tensor.reshape(-1, 2, 2).transpose(2, 1, 0).reshape(-1),
    lambda value: value.reshape(2, 2, -1).transpose(2, 1, 0).reshape(-1),
)


def _block_rules(torch: str, ours: str, attention: str, expand: str, project: str) -> list[Rule]:
    """Rules of one block; `attention`, `expand` and `project` are what the checkpoint calls these parts."""
    inner = f"{ours}attention/"
    return [
        *layer_norm_rules(f"{torch}norm1", f"{ours}norm1"),
        *layer_norm_rules(f"{torch}norm2", f"{ours}norm2"),
        *linear_rules(f"{torch}{expand}", f"{ours}expand"),
        *linear_rules(f"{torch}{project}", f"{ours}project"),
        *linear_rules(f"{torch}{attention}.proj", f"{inner}project"),
        Rule(f"{torch}{attention}.qkv.weight", f"params/{inner}qkv/kernel", linear_kernel),
        Rule(f"{torch}{attention}.qkv.bias", f"params/{inner}qkv_bias"),
        # Version 1.
        Rule(f"{torch}{attention}.relative_position_bias_table", f"params/{inner}relative_position_bias"),
        # Version 2.
        Rule(f"{torch}{attention}.logit_scale", f"params/{inner}logit_scale", flatten),
        *linear_rules(f"{torch}{attention}.cpb_mlp.0", f"{inner}position_expand"),
        *linear_rules(f"{torch}{attention}.cpb_mlp.2", f"{inner}position_project"),
        # Both.
        Rule(f"{torch}{attention}.relative_position_index", None),
        Rule(f"{torch}{attention}.relative_coords_table", None),
    ]


def swin_stage_rules(torch_downsample: str | None, torch_blocks: str, ours: str) -> list[Rule]:
    """Rules of one stage of torchvision's Swin Transformers, of both versions.

    Args:
      torch_downsample: prefix of the patch merging, "features.6." or "head.align_emb_head.emb_head.head.0.";
        None for the first stage, which has none.
      torch_blocks: prefix before the number of the block, "features.7.".
      ours: prefix of the stage's variables without collection, "stage4/".
    """
    rules = _block_rules(f"{torch_blocks}{{block}}.", f"{ours}block{{block}}/", "attn", "mlp.0", "mlp.3")
    if torch_downsample is not None:
        rules += layer_norm_rules(f"{torch_downsample}norm", f"{ours}downsample_norm")
        rules += linear_rules(f"{torch_downsample}reduction", f"{ours}downsample_reduction")
    return rules


def swin_rules(torch: str = "features.", ours: str = "") -> list[Rule]:
    """Rules of torchvision's Swin trunks of any size, of both versions.

    Args:
      torch: prefix of the numbered parts in the checkpoint, "features." or "backbone.body.".
      ours: prefix of the trunk's variables without collection, ending in "/" unless empty.
    """
    rules = [
        *convolution_rules(f"{torch}0.0", f"{ours}stem_conv"),
        *layer_norm_rules(f"{torch}0.2", f"{ours}stem_norm"),
    ]
    for index in range(4):
        downsample = f"{torch}{2 * index}." if index else None
        rules += swin_stage_rules(downsample, f"{torch}{2 * index + 1}.", f"{ours}stage{index + 1}/")
    return rules


def solider_swin_stage_rules(torch: str, ours: str, stage: int = 4) -> list[Rule]:
    """Rules of one stage of SOLIDER's Swin Transformer, whose parts stand in several places of the checkpoint.

    Args:
      torch: prefix of the whole network, "" or "head.align_emb_head.emb_head.swin.".
      ours: prefix of the stage's variables without collection, "stage4/".
      stage: 1 .. 4; the fourth is the last one, from c4 to c5, which holds the LayerNorm of its map too.
    """
    blocks = f"{torch}stages.{stage - 1}.blocks.{{block}}."
    rules = _block_rules(blocks, f"{ours}block{{block}}/", "attn.w_msa", "ffn.layers.0.0", "ffn.layers.1")
    if stage > 1:  # what follows a stage there opens the next one here
        downsample, ours_downsample = f"{torch}stages.{stage - 2}.downsample.", f"params/{ours}downsample_"
        rules += [
            Rule(f"{downsample}norm.weight", f"{ours_downsample}norm/scale", unfolded_vector),
            Rule(f"{downsample}norm.bias", f"{ours_downsample}norm/bias", unfolded_vector),
            Rule(f"{downsample}reduction.weight", f"{ours_downsample}reduction/kernel", unfolded_kernel),
            *linear_rules(f"{torch}semantic_embed_w.{stage - 2}", f"{ours}semantic_scale"),
            *linear_rules(f"{torch}semantic_embed_b.{stage - 2}", f"{ours}semantic_shift"),
        ]
    if stage == 4:
        rules += layer_norm_rules(f"{torch}norm3", f"{ours}norm")
    return rules


def solider_swin_rules(torch: str = "", ours: str = "") -> list[Rule]:
    """Rules of SOLIDER's Swin trunk of any size.

    Its classifier and what it does to the last map for that are left out.

    Args:
      torch: prefix of the network in the checkpoint, "", "backbone." or "backbone.swin.".
      ours: prefix of the trunk's variables without collection, ending in "/" unless empty.
    """
    rules = [
        *convolution_rules(f"{torch}patch_embed.projection", f"{ours}stem_conv"),
        *layer_norm_rules(f"{torch}patch_embed.norm", f"{ours}stem_norm"),
    ]
    for stage in (1, 2, 3, 4):
        rules += solider_swin_stage_rules(torch, f"{ours}stage{stage}/", stage)
        if stage < 4:
            rules += layer_norm_rules(f"{torch}norm{stage - 1}", f"{ours}stage{stage}_norm")
    unused = ("semantic_embed_w.3.*", "semantic_embed_b.3.*", "norm.*", "head.*")
    return rules + [Rule(f"{torch}{name}", None) for name in unused]
