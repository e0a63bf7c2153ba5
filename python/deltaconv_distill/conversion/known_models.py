"""Published denoisers by their configurations: built without any download, for counting and for tests at full size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    FluxTransformer2DModel,
    ModelMixin,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)

VAE_SCALE = 8  # image pixels along each side of a latent one, for all of these models


@dataclass(frozen=True)
class KnownModel:
    """A published denoiser: its class, its config where that differs from the class's defaults, its parameters."""

    title: str
    kind: type[ModelMixin]
    config: Mapping[str, Any]
    parameters: int


KNOWN_MODELS = {
    "sd15": KnownModel(
        "Stable Diffusion 1.5",
        UNet2DConditionModel,
        {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
        parameters=859_520_964,
    ),
    "sd21": KnownModel(
        "Stable Diffusion 2.1",
        UNet2DConditionModel,
        {
            "sample_size": 96,
            "cross_attention_dim": 1024,
            "attention_head_dim": (5, 10, 20, 20),
            "use_linear_projection": True,
        },
        parameters=865_910_724,
    ),
    "sdxl": KnownModel(
        "Stable Diffusion XL",
        UNet2DConditionModel,
        {
            "sample_size": 128,
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10),
            "attention_head_dim": (5, 10, 20),
            "use_linear_projection": True,
            "cross_attention_dim": 2048,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        parameters=2_567_463_684,
    ),
    "pixart-sigma": KnownModel(
        "PixArt-Σ XL/2",
        PixArtTransformer2DModel,
        {"sample_size": 128, "caption_channels": 4096, "use_additional_conditions": False},
        parameters=610_856_096,
    ),
    "sd35-medium": KnownModel(
        "Stable Diffusion 3.5 medium",
        SD3Transformer2DModel,
        {
            "sample_size": 128,
            "num_layers": 24,
            "num_attention_heads": 24,
            "caption_projection_dim": 1536,
            "pos_embed_max_size": 384,
            "dual_attention_layers": tuple(range(13)),
            "qk_norm": "rms_norm",
        },
        parameters=2_243_171_520,
    ),
    "flux-dev": KnownModel("FLUX.1 dev", FluxTransformer2DModel, {"guidance_embeds": True}, parameters=11_901_408_320),
}


def build_denoiser(name: str, device: str = "meta", dtype: torch.dtype = torch.float32) -> ModelMixin:
    """A known denoiser with random weights, in evaluation mode; on "meta" it takes no memory.

    Raises:
        ValueError: unknown name.
    """
    if name not in KNOWN_MODELS:
        raise ValueError(f"name: expected one of {', '.join(KNOWN_MODELS)}, got {name!r}")
    model = KNOWN_MODELS[name]
    previous = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # never a second copy in another type
    try:
        with torch.device(device):
            return model.kind(**model.config).eval()
    finally:
        torch.set_default_dtype(previous)
