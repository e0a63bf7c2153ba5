"""Kind of HunyuanDiT: `attn1` of its blocks, self-attention whose queries and keys are turned by their positions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffusers import HunyuanDiT2DModel, ModelMixin
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor, nn

from ..grids import NOTED, InputGrid
from ..routing import DeltaConvAttention
from .site import Owner, Site, Sites


class DeltaConvHunyuanAttention(DeltaConvAttention):
    """`attn1` of a HunyuanDiTBlock. A block needs no positions."""

    @staticmethod
    def turned(query: Tensor, key: Tensor, arguments: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        rotary = arguments.get("image_rotary_emb")
        if rotary is None:
            return query, key
        return apply_rotary_emb(query, rotary), apply_rotary_emb(key, rotary)


@dataclass(frozen=True, eq=False)
class HunyuanSite(Site):
    """`block.attn1`."""

    block: Any

    stand_in = DeltaConvHunyuanAttention

    @property
    def feature_module(self) -> nn.Module:
        return self.block.norm2


def find(denoiser: ModelMixin, name: str, module: nn.Module, sites: Sites) -> None:
    """Add the self-attentions of a HunyuanDiT2DModel."""
    if not isinstance(module, HunyuanDiT2DModel):
        return
    blocks: Any = module.blocks
    patch = module.config.patch_size
    owner = Owner(module, InputGrid(patch, NOTED), tuple(block.attn1 for block in blocks))
    sites.owners.append(owner)
    for index, block in enumerate(blocks):
        layer = f"blocks.{index}.attn1"
        if type(block.attn1) in (Attention, DeltaConvHunyuanAttention):
            sites.found[layer] = HunyuanSite(layer, block.attn1, owner, patch, block)
