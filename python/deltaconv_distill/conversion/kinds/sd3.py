"""Kinds of Stable Diffusion 3 and 3.5: joint attention, and beside it in 3.5-medium a plain one of the image alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffusers import ModelMixin, SD3Transformer2DModel
from diffusers.models.attention import JointTransformerBlock
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from ..grids import InputGrid
from ..routing import DeltaConvAttention, Route
from .joint_attention import JointSite, JointStandIn, Stream
from .site import Owner, Site, Sites


class DeltaConvSD3Attention(JointStandIn, Attention):
    """The joint attention of a JointTransformerBlock. Image first, then text, as its processor has them."""

    stands_for = Attention

    def student(self, call: Mapping[str, Any], route: Route) -> Any:
        """Image and text; None for a text that is not used."""
        if not self.context_pre_only:
            return super().student(call, route)
        return self.project_out(self.of_image_alone(call)) + self.delta(call["hidden_states"], route), None

    def streams(self, call: Mapping[str, Any], tokens: int) -> tuple[Stream, Stream]:
        image, text = call["hidden_states"], call["encoder_hidden_states"]
        own: Any = self
        return (
            Stream(
                _heads(own, own.add_q_proj(text), own.norm_added_q),
                _heads(own, own.add_k_proj(text), own.norm_added_k),
                _heads(own, own.add_v_proj(text)),
            ),
            Stream(
                _heads(own, own.to_q(image), own.norm_q),
                _heads(own, own.to_k(image), own.norm_k),
                _heads(own, own.to_v(image)),
            ),
        )

    def of_image_alone(self, call: Mapping[str, Any]) -> Tensor:
        """As `of_image`, where what text tokens gather is not used, without the projections for it."""
        image, text = call["hidden_states"], call["encoder_hidden_states"]
        own: Any = self
        query = _heads(own, own.to_q(image), own.norm_q)
        key = _heads(own, own.add_k_proj(text), own.norm_added_k)
        value = _heads(own, own.add_v_proj(text))
        return self.weighted(self.attend(query, key, value))

    def is_idle(self, parameter: str) -> bool:
        unused = ("add_q_proj", "norm_added_q", "to_k", "norm_k", "to_v")
        return bool(self.context_pre_only) and parameter.partition(".")[0] in unused


def _heads(attention: Any, projected: Tensor, norm: nn.Module | None = None) -> Tensor:
    split = projected.unflatten(-1, (attention.heads, -1))
    return split if norm is None else norm(split)


@dataclass(frozen=True, eq=False)
class SD3JointSite(JointSite):
    """`block.attn`; the hidden state after its residual add, and after that of `attn2` where there is one."""

    block: JointTransformerBlock

    stand_in = DeltaConvSD3Attention

    @property
    def feature_module(self) -> nn.Module:
        return self.block.norm2


@dataclass(frozen=True, eq=False)
class SD3ImageSite(Site):
    """`block.attn2`, self-attention of the image tokens."""

    block: JointTransformerBlock

    @property
    def feature_module(self) -> nn.Module:
        return self.block.norm2


def find(denoiser: ModelMixin, name: str, module: nn.Module, sites: Sites) -> None:
    """Add the attentions of an SD3Transformer2DModel."""
    if not isinstance(module, SD3Transformer2DModel):
        return
    blocks = [block for block in module.transformer_blocks if isinstance(block, JointTransformerBlock)]
    inside = [attention for block in blocks for attention in (block.attn, block.attn2) if attention is not None]
    patch = module.config.patch_size
    owner = Owner(module, InputGrid(patch, "joint_attention_kwargs"), tuple(inside))
    sites.owners.append(owner)
    for index, block in enumerate(blocks):
        layer = f"transformer_blocks.{index}.attn"
        if type(block.attn) in (Attention, DeltaConvSD3Attention):
            last = bool(block.context_pre_only)
            sites.found[layer] = SD3JointSite(layer, block.attn, owner, patch, single=False, last=last, block=block)
        if type(block.attn2) in (Attention, DeltaConvAttention):
            sites.found[f"{layer}2"] = SD3ImageSite(f"{layer}2", block.attn2, owner, patch, block)
