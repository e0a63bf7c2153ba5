"""A tiny Stable Diffusion in one file, under the names that the original code gives its parts."""

from __future__ import annotations

import re

import torch
from diffusers import StableDiffusionPipeline

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
OUTSIDE = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
VAE = [
    (r"down_blocks\.(\d)\.resnets", r"down.\1.block"),
    (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
    (r"up_blocks\.0\.", "up.1."),
    (r"up_blocks\.1\.", "up.0."),
    (r"(up\.\d)\.resnets", r"\1.block"),
    (r"(up\.\d)\.upsamplers\.0", r"\1.upsample"),
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
    (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
    (r"mid_block\.attentions\.0\.to_", "mid.attn_1."),
    ("conv_norm_out", "norm_out"),
    ("conv_shortcut", "nin_shortcut"),
]
LEVELS, LAYERS = 2, 1  # of `tiny_sd_unet`


def as_one_file(pipe: StableDiffusionPipeline) -> dict[str, torch.Tensor]:
    """The state dict of a `tiny_sd` as a file of the original code has it."""
    state = {f"model.diffusion_model.{_unet(key)}": value for key, value in pipe.unet.state_dict().items()}
    state |= {f"first_stage_model.{_vae(key)}": value for key, value in pipe.vae.state_dict().items()}
    prefix = "cond_stage_model.transformer.text_model."
    state |= {prefix + key: value for key, value in pipe.text_encoder.state_dict().items()}
    return {key: value.contiguous() for key, value in state.items()}


def _unet(key: str) -> str:
    for name, original in OUTSIDE.items():
        if key.startswith(f"{name}."):
            return original + key.removeprefix(name)
    if match := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", key):
        kind, index, rest = match.groups()
        return f"middle_block.{1 if kind == 'attentions' else 2 * int(index)}.{_layer(kind, rest)}"
    side, level, kind, index, rest = re.match(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.*)", key).groups()
    first = int(level) * (LAYERS + 1)
    if kind == "downsamplers":
        return f"input_blocks.{first + LAYERS + 1}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        return f"output_blocks.{first + LAYERS}.2.{rest}"
    place = first + int(index) + (1 if side == "down" else 0)
    return f"{'input' if side == 'down' else 'output'}_blocks.{place}.{int(kind == 'attentions')}.{_layer(kind, rest)}"


def _layer(kind: str, rest: str) -> str:
    if kind == "attentions":
        return rest
    name, _, parameter = rest.partition(".")
    return f"{RESNET[name]}.{parameter}"


def _vae(key: str) -> str:
    for pattern, original in VAE:
        key = re.sub(pattern, original, key)
    return key
