"""Kind of Lumina-Next: `attn1` of its blocks, in which several heads of queries may share one of keys and values.

Self-attention and cross-attention have their output projection in common: it comes after their sum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import LuminaNextDiT2DModel, ModelMixin
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor, nn

from ..grids import InputGrid
from ..routing import DeltaConvAttention
from .linear_maps import LinearMaps, values_of
from .site import Owner, Site, Sites


class DeltaConvLuminaAttention(DeltaConvAttention):
    """`attn1` of a LuminaNextDiTBlock: [B, L, C] to [B, L, heads, head width]. The model's mask is of ones alone."""

    takes_masks = True

    @classmethod
    def compared(cls, attention: Any, tokens: Tensor, arguments: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        query, key = attention.to_q(tokens), attention.to_k(tokens)
        if attention.norm_q is not None:  # over all heads at once
            query, key = attention.norm_q(query), attention.norm_k(key)
        width = attention.inner_dim // attention.heads
        query, key, value = (part.unflatten(-1, (-1, width)) for part in (query, key, attention.to_v(tokens)))
        rotary = arguments.get("query_rotary_emb")
        if rotary is not None:
            query, key = (apply_rotary_emb(part, rotary, use_real=False) for part in (query, key))
        base = arguments.get("base_sequence_length")
        if base is not None:  # proportional attention: sharper, the larger the image is
            query = query * math.sqrt(math.log(tokens.shape[1], base))
        key, value = (part.repeat_interleave(query.shape[2] // part.shape[2], dim=2) for part in (key, value))
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        return query, key, value

    def project_out(self, gathered: Tensor) -> Tensor:
        return gathered

    @staticmethod
    def inner_output(attention: Any, hidden_states: Tensor, output: Tensor) -> Tensor:
        return output.flatten(2)

    @staticmethod
    def outer_output(attention: Any, hidden_states: Tensor, inner_output: Tensor) -> Tensor:
        return inner_output.unflatten(-1, (attention.heads, -1))


@dataclass(frozen=True, eq=False)
class LuminaSite(Site):
    """`block.attn1`."""

    block: Any

    stand_in = DeltaConvLuminaAttention

    @property
    def feature_module(self) -> nn.Module:
        return self.block.ffn_norm1

    @property
    def has_outputs(self) -> bool:
        return False

    def linear_maps(self) -> LinearMaps:
        values, value_bias = values_of(self.attention)
        return LinearMaps(values, torch.eye(self.inner_dim), value_bias, self.heads, value_bias)


def find(denoiser: ModelMixin, name: str, module: nn.Module, sites: Sites) -> None:
    """Add the self-attentions of a LuminaNextDiT2DModel."""
    if not isinstance(module, LuminaNextDiT2DModel):
        return
    blocks: Any = module.layers
    patch = module.config.patch_size
    inside = tuple(attention for block in blocks for attention in (block.attn1, block.attn2))
    owner = Owner(module, InputGrid(patch, "cross_attention_kwargs"), inside)
    sites.owners.append(owner)
    for index, block in enumerate(blocks):
        layer = f"layers.{index}.attn1"
        if type(block.attn1) in (Attention, DeltaConvLuminaAttention):
            sites.found[layer] = LuminaSite(layer, block.attn1, owner, patch, block)
