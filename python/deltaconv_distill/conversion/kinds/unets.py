"""How far a UNet has reduced its sample where a layer stands."""

from __future__ import annotations

from diffusers import ModelMixin


def halvings(denoiser: ModelMixin, layer: str) -> int:
    """How often the resolution is halved between the denoiser's sample and one of its layers; 0 for transformers."""
    halved = 0
    for index, block in enumerate(getattr(denoiser, "down_blocks", ())):
        if layer.startswith(f"down_blocks.{index}."):
            return halved
        halved += block.downsamplers is not None
    if layer.startswith("mid_block."):
        return halved
    for index, block in enumerate(getattr(denoiser, "up_blocks", ())):
        if layer.startswith(f"up_blocks.{index}."):
            return halved
        halved -= block.upsamplers is not None
    return halved
