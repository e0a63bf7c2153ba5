"""Kinds of Lumina 2: self-attention of the image alone in refining blocks, then joint attention with the text first.

Several heads of queries may share one of keys and values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import Lumina2Transformer2DModel, ModelMixin
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..grids import NOTED, InputGrid
from ..hooks import Control, SequenceTap
from ..routing import DeltaConvAttention, Route
from .joint_attention import JointSite, JointStandIn, Stream
from .linear_maps import LinearMaps, linear_maps
from .site import Owner, Site, Sites

REFINING, JOINT, OF_TEXT = "noise_refiner", "layers", "context_refiner"


class DeltaConvLumina2Attention(DeltaConvAttention):
    """The attention of a block in `noise_refiner`."""

    @classmethod
    def compared(cls, attention: Any, tokens: Tensor, arguments: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = (part.transpose(1, 2) for part in _projected(attention, tokens, arguments))
        return query, key, value


class DeltaConvLumina2JointAttention(JointStandIn, Attention):
    """The attention of a block in `layers`. Texts of different lengths in a batch, which the model masks, are refused:
    there image tokens begin at different places."""

    stands_for = Attention

    def student(self, call: Mapping[str, Any], route: Route) -> Tensor:
        """Text and image in one sequence, [B, n + N, C]."""
        tokens = route.height * route.width
        text, image = self.streams(call, tokens)
        of_image = self.project_out(self.of_image(text, image)) + self.delta(self.image_tokens(call, tokens), route)
        return torch.cat([self.project_out(self.of_text(text, image)), of_image], dim=1)

    def streams(self, call: Mapping[str, Any], tokens: int) -> tuple[Stream, Stream]:
        query, key, value = _projected(self, call["hidden_states"], call)
        first = query.shape[1] - tokens
        return (
            Stream(query[:, :first], key[:, :first], value[:, :first]),
            Stream(query[:, first:], key[:, first:], value[:, first:]),
        )


def _projected(attention: Any, tokens: Tensor, arguments: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, [B, L, heads, head width]."""
    width = attention.inner_dim // attention.heads
    query, key, value = (
        projection(tokens).unflatten(-1, (-1, width)) for projection in (attention.to_q, attention.to_k, attention.to_v)
    )
    query, key = attention.norm_q(query), attention.norm_k(key)
    rotary = arguments.get("image_rotary_emb")
    if rotary is not None:
        query, key = (apply_rotary_emb(part, rotary, use_real=False) for part in (query, key))
    base = arguments.get("base_sequence_length")
    if base is not None:  # proportional attention: sharper, the longer the sequence is
        query = query * math.sqrt(math.log(tokens.shape[1], base))
    key, value = (part.repeat_interleave(query.shape[2] // part.shape[2], dim=2) for part in (key, value))
    return query.to(tokens.dtype), key.to(tokens.dtype), value


@dataclass(frozen=True, eq=False)
class Lumina2Site(Site):
    """`block.attn` of the image alone."""

    block: Any

    stand_in = DeltaConvLumina2Attention

    @property
    def feature_module(self) -> nn.Module:
        return self.block.ffn_norm1

    def linear_maps(self) -> LinearMaps:
        return linear_maps(self.attention, self.name, handled=("kv_heads",))


@dataclass(frozen=True, eq=False)
class Lumina2JointSite(JointSite):
    """`block.attn` of text and image."""

    block: Any

    stand_in = DeltaConvLumina2JointAttention

    @property
    def feature_module(self) -> nn.Module:
        return self.block.ffn_norm1

    def linear_maps(self) -> LinearMaps:
        return linear_maps(self.attention, self.name, handled=("kv_heads",))

    def tap_features(self, control: Control) -> RemovableHandle:
        return self.feature_module.register_forward_pre_hook(SequenceTap(control, self.name))


def find(denoiser: ModelMixin, name: str, module: nn.Module, sites: Sites) -> None:
    """Add the attentions of a Lumina2Transformer2DModel."""
    if not isinstance(module, Lumina2Transformer2DModel):
        return
    patch = module.config.patch_size
    lists: dict[str, Any] = {part: module.get_submodule(part) for part in (REFINING, JOINT, OF_TEXT)}
    inside = tuple(block.attn for part in (REFINING, JOINT) for block in lists[part])
    owner = Owner(module, InputGrid(patch, NOTED), inside)  # blocks get no keywords
    sites.owners.append(owner)
    for part, blocks in lists.items():
        for index, block in enumerate(blocks):
            layer = f"{part}.{index}.attn"
            if part == OF_TEXT:
                sites.skipped[layer] = "its tokens are the text's, which have no grid"
            elif part == REFINING and type(block.attn) in (Attention, DeltaConvLumina2Attention):
                sites.found[layer] = Lumina2Site(layer, block.attn, owner, patch, block)
            elif part == JOINT and type(block.attn) in (Attention, DeltaConvLumina2JointAttention):
                options: dict[str, Any] = {"single": False, "last": False, "block": block}
                sites.found[layer] = Lumina2JointSite(layer, block.attn, owner, patch, **options)
