"""Kinds of FLUX.1: joint attention of two streams, and of one sequence that has the text first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import FluxTransformer2DModel, ModelMixin
from diffusers.models.transformers.transformer_flux import FluxAttention
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..grids import IdsGrid
from ..hooks import Control, ImageStreamTap
from .dispatched import Dispatched
from .joint_attention import JointSite
from .linear_maps import LinearMaps, weights_of
from .site import Owner, Sites
from .text_first import TextFirst

PACKED = 2  # latent pixels along each side of a token


class DeltaConvFluxAttention(TextFirst, Dispatched, FluxAttention):
    """The attention of a FluxTransformerBlock, or of a FluxSingleTransformerBlock (`pre_only`)."""

    stands_for = FluxAttention

    def project_out(self, image: Tensor) -> Tensor:
        return image if self.pre_only else TextFirst.project_out(self, image)

    def project_text(self, text: Tensor) -> Tensor:
        return text if self.pre_only else TextFirst.project_text(self, text)


@dataclass(frozen=True, eq=False)
class FluxSite(JointSite):
    """`block.attn`."""

    block: nn.Module

    stand_in = DeltaConvFluxAttention

    @property
    def feature_module(self) -> nn.Module:
        """A single block adds attention and feed-forward at once: its feature is the image part of its output."""
        return self.block if self.single else self.block.norm2  # type: ignore[return-value]

    def tap_features(self, control: Control) -> RemovableHandle:
        if self.single:
            return self.block.register_forward_hook(ImageStreamTap(control, self.name))
        return super().tap_features(control)

    def linear_maps(self) -> LinearMaps:
        attention = self.attention
        values, value_bias = weights_of(attention.to_v, attention.query_dim)
        if self.single:
            outputs, output_bias = torch.eye(attention.inner_dim), torch.zeros(attention.inner_dim)
        else:
            outputs, output_bias = weights_of(attention.to_out[0], attention.inner_dim)
        return LinearMaps(values, outputs, outputs @ value_bias + output_bias, attention.heads, value_bias)


def find(denoiser: ModelMixin, name: str, module: nn.Module, sites: Sites) -> None:
    """Add the attentions of a FluxTransformer2DModel."""
    if isinstance(module, FluxTransformer2DModel):
        add_blocks(module, IdsGrid(PACKED, "joint_attention_kwargs"), FluxSite, sites)


def add_blocks(module: Any, grid: IdsGrid, kind: type[FluxSite], sites: Sites) -> None:
    """Add the attentions of a model that has FLUX.1's lists of blocks."""
    lists = {
        "transformer_blocks": module.transformer_blocks,
        "single_transformer_blocks": module.single_transformer_blocks,
    }
    inside = tuple(block.attn for blocks in lists.values() for block in blocks)
    owner = Owner(module, grid, inside)
    sites.owners.append(owner)
    for part, blocks in lists.items():
        for index, block in enumerate(blocks):
            layer = f"{part}.{index}.attn"
            if type(block.attn) in (FluxAttention, kind.stand_in):
                single = part != "transformer_blocks"
                sites.found[layer] = kind(layer, block.attn, owner, PACKED, single=single, last=False, block=block)
