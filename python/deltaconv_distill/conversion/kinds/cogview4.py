"""Kind of CogView4: joint attention in which the same layers project text and image, text first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import CogView4Transformer2DModel, ModelMixin
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor, nn

from ..grids import InputGrid
from .joint_attention import JointSite, JointStandIn, Stream
from .site import Owner, Sites


class DeltaConvCogView4Attention(JointStandIn, Attention):
    """`attn1` of a CogView4TransformerBlock."""

    stands_for = Attention

    def streams(self, call: Mapping[str, Any], tokens: int) -> tuple[Stream, Stream]:
        own: Any = self
        both = torch.cat([call["encoder_hidden_states"], call["hidden_states"]], dim=1)
        query, key, value = (
            projection(both).unflatten(-1, (own.heads, -1)) for projection in (own.to_q, own.to_k, own.to_v)
        )
        query, key = own.norm_q(query).to(both.dtype), own.norm_k(key).to(both.dtype)
        first = both.shape[1] - tokens
        text, image = (
            [part[:, :first] for part in (query, key, value)],
            [part[:, first:] for part in (query, key, value)],
        )
        rotary = call.get("image_rotary_emb")
        if rotary is not None:
            image[:2] = [apply_rotary_emb(part, rotary, use_real_unbind_dim=-2, sequence_dim=1) for part in image[:2]]
        return Stream(*text), Stream(*image)

    def project_text(self, text: Tensor) -> Tensor:
        return self.project_out(text)


@dataclass(frozen=True, eq=False)
class CogView4Site(JointSite):
    """`block.attn1`."""

    block: Any

    stand_in = DeltaConvCogView4Attention

    @property
    def feature_module(self) -> nn.Module:
        return self.block.norm2


def find(denoiser: ModelMixin, name: str, module: nn.Module, sites: Sites) -> None:
    """Add the attentions of a CogView4Transformer2DModel."""
    if not isinstance(module, CogView4Transformer2DModel):
        return
    blocks: Any = module.transformer_blocks
    patch = module.config.patch_size
    owner = Owner(module, InputGrid(patch, "attention_kwargs"), tuple(block.attn1 for block in blocks))
    sites.owners.append(owner)
    for index, block in enumerate(blocks):
        layer = f"transformer_blocks.{index}.attn1"
        if type(block.attn1) in (Attention, DeltaConvCogView4Attention):
            sites.found[layer] = CogView4Site(layer, block.attn1, owner, patch, single=False, last=False, block=block)
