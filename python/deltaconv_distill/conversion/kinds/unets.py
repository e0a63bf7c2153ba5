"""How far a UNet has reduced its sample where a layer stands."""

from __future__ import annotations

from diffusers import ModelMixin
from torch import nn


def halvings(denoiser: ModelMixin, layer: str) -> int:
    """How often the resolution is halved between the denoiser's sample and one of its layers; 0 for transformers."""
    halved = 0
    for index, block in enumerate(getattr(denoiser, "down_blocks", ())):
        if layer.startswith(f"down_blocks.{index}."):
            return halved
        halved += _resamples(block, "downsamplers", "resnet_down")
    if layer.startswith("mid_block."):
        return halved
    for index, block in enumerate(getattr(denoiser, "up_blocks", ())):
        if layer.startswith(f"up_blocks.{index}."):
            return halved
        halved -= _resamples(block, "upsamplers", "resnet_up")
    return halved


def _resamples(block: nn.Module, *names: str) -> bool:
    """Whether a block halves or doubles the resolution at its end, by the module of one of these names."""
    return any(getattr(block, name, None) is not None for name in names)
