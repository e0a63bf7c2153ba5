"""Kind: `attn1` of BasicTransformerBlocks in a module that sees height and width: UNets, ControlNets, PixArt, DiT,
and the spatial ones of SVD and Latte, frame by frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diffusers import (
    DiTTransformer2DModel,
    LatteTransformer3DModel,
    ModelMixin,
    PixArtTransformer2DModel,
    Transformer2DModel,
)
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from torch import nn

from ..grids import NOTED, InputGrid
from ..routing import DeltaConvAttention
from .site import Owner, Site, Sites
from .unets import halvings

SPATIAL = (TransformerSpatioTemporalModel, LatteTransformer3DModel)  # which pass their blocks no keywords
OWNERS = (Transformer2DModel, PixArtTransformer2DModel, DiTTransformer2DModel, *SPATIAL)


@dataclass(frozen=True, eq=False)
class BlockSite(Site):
    """`block.attn1`."""

    block: BasicTransformerBlock

    @property
    def feature_module(self) -> nn.Module:
        """PixArt's blocks (ada_norm_single) normalise before the feed-forward only: there it is the cross-attention."""
        block = self.block
        if block.norm_type == "ada_norm_single" and block.attn2 is not None:
            return block.attn2
        return block.norm3 if block.norm2 is None else block.norm2


def find(denoiser: ModelMixin, name: str, module: nn.Module, sites: Sites) -> None:
    """Add the self-attentions of one module of the denoiser, if it is one of OWNERS."""
    if not isinstance(module, OWNERS):
        return
    blocks = module.transformer_blocks
    inside = tuple(
        attention
        for block in blocks
        for attention in (getattr(block, "attn1", None), getattr(block, "attn2", None))
        if attention is not None
    )
    carrier = NOTED if isinstance(module, SPATIAL) else "cross_attention_kwargs"
    owner = Owner(module, InputGrid(_patch_size(module), carrier), inside)
    sites.owners.append(owner)
    prefix = f"{name}." if name else ""
    for index, block in enumerate(blocks):
        layer = f"{prefix}transformer_blocks.{index}.attn1"
        if reason := _unfit(module, block):
            sites.skipped[layer] = reason
        else:
            stride = owner.source.patch_size * 2 ** halvings(denoiser, layer)
            sites.found[layer] = BlockSite(layer, block.attn1, owner, stride, block)


def _patch_size(owner: Any) -> int:
    if isinstance(owner, TransformerSpatioTemporalModel) or getattr(owner, "is_input_patches", True) is False:
        return 1
    return owner.config.patch_size


def _unfit(owner: nn.Module, block: nn.Module) -> str | None:
    """Why `block.attn1` cannot be replaced, or None if it can."""
    if getattr(owner, "is_input_vectorized", False):
        return "its tokens have no grid"
    if not isinstance(block, BasicTransformerBlock):
        return f"{type(block).__name__} is not a BasicTransformerBlock"
    if block.only_cross_attention or block.attn1.is_cross_attention:
        return "it is a cross-attention"
    if type(block.attn1) not in (Attention, DeltaConvAttention):
        return f"{type(block.attn1).__name__} is not diffusers' Attention"
    return None
