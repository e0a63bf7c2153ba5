"""Kinds of FLUX.1: joint attention of two streams, and of one sequence that has the text first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import FluxTransformer2DModel, ModelMixin
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import FluxAttention
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..grids import IdsGrid
from ..hooks import Control, ImageStreamTap
from ..routing import Route
from .joint_attention import JointSite, JointStandIn, Stream
from .linear_maps import LinearMaps, weights_of
from .site import Owner, Sites

PACKED = 2  # latent pixels along each side of a token


class DeltaConvFluxAttention(JointStandIn, FluxAttention):
    """The attention of a FluxTransformerBlock, or of a FluxSingleTransformerBlock (`pre_only`)."""

    stands_for = FluxAttention

    def student(self, call: Mapping[str, Any], route: Route) -> Any:
        """Image and text, or both in one sequence."""
        tokens = route.height * route.width
        text, image = self.streams(call, tokens)
        of_text = self.of_text(text, image)
        output = self.project_out(self.of_image(text, image)) + self.delta(self.image_tokens(call, tokens), route)
        if self.pre_only:
            return torch.cat([of_text, output.to(of_text.dtype)], dim=1)
        return output, self.project_text(of_text)

    def streams(self, call: Mapping[str, Any], tokens: int) -> tuple[Stream, Stream]:
        own: Any = self
        hidden_states, text = call["hidden_states"], call.get("encoder_hidden_states")
        query, key, value = _heads(own.heads, hidden_states, own.to_q, own.to_k, own.to_v)
        query, key = own.norm_q(query), own.norm_k(key)
        if not own.pre_only:
            text_query, text_key, text_value = _heads(own.heads, text, own.add_q_proj, own.add_k_proj, own.add_v_proj)
            query = torch.cat([own.norm_added_q(text_query), query], dim=1)
            key = torch.cat([own.norm_added_k(text_key), key], dim=1)
            value = torch.cat([text_value, value], dim=1)
        rotary = call.get("image_rotary_emb")
        if rotary is not None:
            query = apply_rotary_emb(query, rotary, sequence_dim=1)
            key = apply_rotary_emb(key, rotary, sequence_dim=1)
        first = query.shape[1] - tokens
        return (
            Stream(query[:, :first], key[:, :first], value[:, :first]),
            Stream(query[:, first:], key[:, first:], value[:, first:]),
        )

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        backend = getattr(self.processor, "_attention_backend", None)
        return dispatch_attention_fn(query, key, value, attn_mask=mask, backend=backend).to(query.dtype)

    def image_tokens(self, call: Mapping[str, Any], tokens: int) -> Tensor:
        hidden_states = call["hidden_states"]
        return hidden_states[:, hidden_states.shape[1] - tokens :]

    @staticmethod
    def with_image(call: Mapping[str, Any], image: Tensor) -> dict[str, Any]:
        hidden_states = call["hidden_states"]
        text = hidden_states[:, : hidden_states.shape[1] - image.shape[1]]
        return {**call, "hidden_states": torch.cat([text, image], dim=1)}

    def project_out(self, image: Tensor) -> Tensor:
        return image if self.pre_only else JointStandIn.project_out(self, image)

    @staticmethod
    def image_output(output: Any, tokens: int) -> Tensor:
        return output[0] if isinstance(output, tuple) else output[:, output.shape[1] - tokens :]


def _heads(heads: int, hidden_states: Any, *projections: Any) -> list[Tensor]:
    return [projection(hidden_states).unflatten(-1, (heads, -1)) for projection in projections]


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
    if not isinstance(module, FluxTransformer2DModel):
        return
    lists = {
        "transformer_blocks": module.transformer_blocks,
        "single_transformer_blocks": module.single_transformer_blocks,
    }
    inside = tuple(block.attn for blocks in lists.values() for block in blocks)
    owner = Owner(module, IdsGrid(PACKED, "joint_attention_kwargs"), inside)
    sites.owners.append(owner)
    for part, blocks in lists.items():
        for index, block in enumerate(blocks):
            layer = f"{part}.{index}.attn"
            if type(block.attn) in (FluxAttention, DeltaConvFluxAttention):
                single = part != "transformer_blocks"
                sites.found[layer] = FluxSite(layer, block.attn, owner, PACKED, single=single, last=False, block=block)
