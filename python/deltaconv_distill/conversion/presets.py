"""Kernel sizes and gates of models that are known, recognised from their configuration.

The published sizes are those of ΔConvFusion (arXiv 2504.21292): about 60 % of the field that each layer's attention was
measured to use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffusers import (
    AuraFlowTransformer2DModel,
    ChromaTransformer2DModel,
    CogView4Transformer2DModel,
    ControlNetModel,
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    HunyuanDiT2DModel,
    Kandinsky3UNet,
    Lumina2Transformer2DModel,
    LuminaNextDiT2DModel,
    ModelMixin,
    PixArtTransformer2DModel,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableCascadeUNet,
    UNet2DConditionModel,
    UNetMotionModel,
    ZImageTransformer2DModel,
)

# AnimateDiff keeps the spatial attentions, with their weights, of the UNet that it was made from.
SD_UNETS = (UNet2DConditionModel, ControlNetModel, UNetMotionModel)


@dataclass(frozen=True)
class Preset:
    """K by the part of the denoiser that a layer is in, for denoisers whose config has the values of `config`.

    made_for: the classes of denoisers that have those attentions. Another class may have the same configuration.
    """

    name: str
    config: Mapping[str, Any]
    kernel_sizes: Mapping[str, int]
    made_for: tuple[type[ModelMixin], ...]

    def fits(self, denoiser: ModelMixin) -> bool:
        """Whether the configuration of `denoiser` has these values."""
        missing = object()
        return all(_comparable(denoiser.config.get(key, missing)) == value for key, value in self.config.items())

    def kernel_size(self, layer: str) -> int | None:
        """K of a layer, or None where the model has no such self-attention."""
        return next((k for part, k in self.kernel_sizes.items() if layer.startswith(f"{part}.")), None)

    def origin(self, denoiser: ModelMixin) -> str:
        """In words, where the sizes come from, and whether they were made for a denoiser of another class."""
        if isinstance(denoiser, self.made_for):
            return f"preset {self.name}"
        first, this = self.made_for[0].__name__, type(denoiser).__name__
        return f"preset {self.name}, made for a {first} and not measured for a {this}"


_SD_KERNEL_SIZES = {
    "down_blocks.0": 7,
    "down_blocks.1": 9,
    "down_blocks.2": 5,
    "mid_block": 3,
    "up_blocks.1": 5,
    "up_blocks.2": 9,
    "up_blocks.3": 11,
}

PRESETS = (
    Preset(
        "SD1.5",
        config={"block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768},
        kernel_sizes=_SD_KERNEL_SIZES,
        made_for=SD_UNETS,
    ),
    Preset(  # not in the paper: the same UNet with another text encoder, given SD1.5's sizes
        "SD2",
        config={"block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 1024},
        kernel_sizes=_SD_KERNEL_SIZES,
        made_for=(UNet2DConditionModel, ControlNetModel),
    ),
    Preset(
        "SDXL",
        config={"block_out_channels": (320, 640, 1280), "cross_attention_dim": 2048},
        kernel_sizes={"down_blocks.1": 9, "down_blocks.2": 7, "mid_block": 9, "up_blocks.0": 9, "up_blocks.1": 13},
        made_for=SD_UNETS,
    ),
    Preset(  # PixArt-α and PixArt-Σ
        "PixArt",
        config={"num_layers": 28, "num_attention_heads": 16, "attention_head_dim": 72, "patch_size": 2},
        kernel_sizes={"transformer_blocks": 13},
        made_for=(PixArtTransformer2DModel,),
    ),
    Preset(  # Stable Diffusion 3 and 3.5: PixArt's size, nobody has published one of their own
        "SD3",
        config={"joint_attention_dim": 4096, "pooled_projection_dim": 2048},
        kernel_sizes={"transformer_blocks": 13},
        made_for=(SD3Transformer2DModel,),
    ),
    Preset(  # FLUX.1: PixArt's size
        "FLUX",
        config={"joint_attention_dim": 4096, "pooled_projection_dim": 768},
        kernel_sizes={"transformer_blocks": 13, "single_transformer_blocks": 13},
        made_for=(FluxTransformer2DModel,),
    ),
    Preset(  # FLUX.2, dev and klein: PixArt's size
        "FLUX.2",
        config={"axes_dims_rope": (32, 32, 32, 32), "timestep_guidance_channels": 256},
        kernel_sizes={"transformer_blocks": 13, "single_transformer_blocks": 13},
        made_for=(Flux2Transformer2DModel,),
    ),
    Preset(  # Qwen-Image: PixArt's size
        "Qwen-Image",
        config={"joint_attention_dim": 3584, "num_layers": 60},
        kernel_sizes={"transformer_blocks": 13},
        made_for=(QwenImageTransformer2DModel,),
    ),
    Preset(  # CogView4: PixArt's size
        "CogView4",
        config={"text_embed_dim": 4096, "time_embed_dim": 512},
        kernel_sizes={"transformer_blocks": 13},
        made_for=(CogView4Transformer2DModel,),
    ),
    Preset(  # HunyuanDiT: PixArt's size
        "HunyuanDiT",
        config={"cross_attention_dim_t5": 2048, "num_layers": 40},
        kernel_sizes={"blocks": 13},
        made_for=(HunyuanDiT2DModel,),
    ),
    Preset(  # Kandinsky 2.2: PixArt's size
        "Kandinsky 2.2",
        config={"block_out_channels": (384, 768, 1152, 1536), "encoder_hid_dim_type": "image_proj"},
        kernel_sizes={"down_blocks": 13, "mid_block": 13, "up_blocks": 13},
        made_for=(UNet2DConditionModel,),
    ),
    Preset(  # Stable Cascade, its prior in both sizes and its decoder in both: PixArt's size
        "Stable Cascade",
        config={"clip_text_pooled_in_channels": 1280, "clip_seq": 4},
        kernel_sizes={"down_blocks": 13, "up_blocks": 13},
        made_for=(StableCascadeUNet,),
    ),
    Preset(  # Z-Image: PixArt's size
        "Z-Image",
        config={"dim": 3840, "cap_feat_dim": 2560},
        kernel_sizes={"noise_refiner": 13, "layers": 13},
        made_for=(ZImageTransformer2DModel,),
    ),
    Preset(  # Lumina 2: PixArt's size
        "Lumina 2",
        config={"hidden_size": 2304, "cap_feat_dim": 2304},
        kernel_sizes={"noise_refiner": 13, "layers": 13},
        made_for=(Lumina2Transformer2DModel,),
    ),
    Preset(  # Lumina-Next: PixArt's size
        "Lumina-Next",
        config={"hidden_size": 2304, "cross_attention_dim": 2048},
        kernel_sizes={"layers": 13},
        made_for=(LuminaNextDiT2DModel,),
    ),
    Preset(  # Kandinsky 3: PixArt's size
        "Kandinsky 3",
        config={"block_out_channels": (384, 768, 1536, 3072), "encoder_hid_dim": 4096},
        kernel_sizes={"down_blocks": 13, "up_blocks": 13},
        made_for=(Kandinsky3UNet,),
    ),
    Preset(  # AuraFlow: PixArt's size
        "AuraFlow",
        config={"joint_attention_dim": 2048, "caption_projection_dim": 3072},
        kernel_sizes={"joint_transformer_blocks": 13, "single_transformer_blocks": 13},
        made_for=(AuraFlowTransformer2DModel,),
    ),
    Preset(  # Chroma: PixArt's size
        "Chroma",
        config={"joint_attention_dim": 4096, "approximator_num_channels": 64},
        kernel_sizes={"transformer_blocks": 13, "single_transformer_blocks": 13},
        made_for=(ChromaTransformer2DModel,),
    ),
    Preset(  # this project's embedded teacher: 60 % of its grids of 16 x 16 and 8 x 8 tokens
        "emoji",
        config={"block_out_channels": (64, 128), "cross_attention_dim": 96, "sample_size": 16},
        kernel_sizes={"down_blocks.0": 9, "down_blocks.1": 5, "mid_block": 5, "up_blocks.0": 5, "up_blocks.1": 9},
        made_for=(UNet2DConditionModel,),
    ),
)


def find_preset(denoiser: ModelMixin) -> Preset | None:
    """The preset of a known model, or None."""
    return next((preset for preset in PRESETS if preset.fits(denoiser)), None)


def published_gate(denoiser: ModelMixin) -> str:
    """The gate that the authors' blocks have in UNets, or in transformers; their checkpoints do not say it."""
    return "scaled" if hasattr(denoiser, "down_blocks") else "sigmoid"


def _comparable(value: Any) -> Any:
    """JSON gives back tuples as lists."""
    return tuple(value) if isinstance(value, list) else value
