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
from ..routing import StandIn
from .joint_attention import JointSite, JointStandIn, Stream
from .linear_maps import LinearMaps, linear_maps
from .site import Owner, Sites


class DeltaConvCogView4Attention(JointStandIn, Attention):
    """`attn1` of a CogView4TransformerBlock."""

    stands_for = Attention

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the image's and the text's output, [B, N, C] and [B, n, C]."""
        if not isinstance(self, StandIn):  # taken out again, while somebody's wrapper has kept this method
            return Attention.forward(self, *args, **kwargs)
        call = self.arguments(args, kwargs)
        route = self.student_route(call)
        if route is None:
            call.pop("deltaconv_route")
            return super().forward(**call)
        tokens = call["hidden_states"]
        text, image = self.streams(call, tokens.shape[1])
        output = self.project_out(self.of_image(text, image)) + self.delta(tokens, route)
        return output, self.project_out(self.of_text(text, image))

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

    def image_tokens(self, call: Mapping[str, Any], tokens: int) -> Tensor:
        return call["hidden_states"]

    def project_out(self, image: Tensor) -> Tensor:
        own: Any = self
        return own.to_out[1](own.to_out[0](image))

    @staticmethod
    def image_output(output: Any, tokens: int) -> Tensor:
        return output[0]


@dataclass(frozen=True, eq=False)
class CogView4Site(JointSite):
    """`block.attn1`."""

    block: Any

    stand_in = DeltaConvCogView4Attention

    @property
    def feature_module(self) -> nn.Module:
        return self.block.norm2

    def linear_maps(self) -> LinearMaps:
        return linear_maps(self.attention, self.name)


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
