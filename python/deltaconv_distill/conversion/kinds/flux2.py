"""Kinds of FLUX.2: FLUX.1's joint attention of two streams, and one whose layers are the feed-forward's as well."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import Flux2Transformer2DModel, ModelMixin
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux2 import Flux2Attention, Flux2ParallelSelfAttention
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..grids import NOTED, IdsGrid
from ..hooks import Control, SequenceOutputTap
from ..routing import Route
from .dispatched import Dispatched
from .flux import PACKED
from .joint_attention import JointSite, Stream
from .linear_maps import LinearMaps, weights_of
from .site import Owner, Sites
from .text_first import TextFirst

IMG_IDS = 3  # place among Flux2Transformer2DModel's positional arguments


class WithoutReferences(Dispatched):
    """Refuses the keys and values of reference images."""

    def student_route(self, call: Mapping[str, Any]) -> Route | None:
        """
        Raises:
            ValueError: as JointStandIn; the call has reference images.
        """
        route = super().student_route(call)
        if route is not None and call.get("kv_cache_mode") is not None:
            raise ValueError(
                "kv_cache_mode: a ΔConvBlock has no keys of reference images, expected None, got "
                f"{call['kv_cache_mode']!r}"
            )
        return route


class DeltaConvFlux2Attention(TextFirst, WithoutReferences, Flux2Attention):
    """The attention of a Flux2TransformerBlock."""

    stands_for = Flux2Attention


class DeltaConvFlux2ParallelAttention(WithoutReferences, Flux2ParallelSelfAttention):
    """The attention of a Flux2SingleTransformerBlock, text first: its input and its output layer are the feed-forward's
    too, and so its output is the sum of both."""

    stands_for = Flux2ParallelSelfAttention

    def student(self, call: Mapping[str, Any], route: Route) -> Tensor:
        """Text and image in one sequence, [B, n + N, C]."""
        own: Any = self
        tokens = route.height * route.width
        attending, feeding = _split(self, call["hidden_states"])
        text, image = _streams(self, attending, call, tokens)
        gathered = torch.cat([self.of_text(text, image), self.of_image(text, image)], dim=1)
        output = own.to_out(torch.cat([gathered, own.mlp_act_fn(feeding)], dim=-1))
        delta = self.delta(self.image_tokens(call, tokens), route)
        first = output.shape[1] - tokens
        return torch.cat([output[:, :first], output[:, first:] + delta.to(output.dtype)], dim=1)

    def streams(self, call: Mapping[str, Any], tokens: int) -> tuple[Stream, Stream]:
        return _streams(self, _split(self, call["hidden_states"])[0], call, tokens)

    def project_out(self, image: Tensor) -> Tensor:
        own: Any = self
        return own.to_out(torch.cat([image, image.new_zeros(*image.shape[:-1], own.mlp_hidden_dim)], dim=-1))

    def image_output(self, call: Mapping[str, Any], output: Any, tokens: int) -> Tensor:
        return output[:, output.shape[1] - tokens :] - _fed_forward(self, call, tokens)

    def with_image_output(self, call: Mapping[str, Any], output: Any, image: Tensor) -> Tensor:
        tokens = image.shape[1]
        image = image + _fed_forward(self, call, tokens)
        return torch.cat([output[:, : output.shape[1] - tokens], image.to(output.dtype)], dim=1)


def _split(attention: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
    """What the input layer gives to the attention, [B, L, 3 * inner], and to the feed-forward."""
    projected = attention.to_qkv_mlp_proj(hidden_states)
    attending = 3 * attention.inner_dim
    return projected[..., :attending], projected[..., attending:]


def _streams(attention: Any, attending: Tensor, call: Mapping[str, Any], tokens: int) -> tuple[Stream, Stream]:
    query, key, value = (part.unflatten(-1, (attention.heads, -1)) for part in attending.chunk(3, dim=-1))
    query, key = attention.norm_q(query), attention.norm_k(key)
    rotary = call.get("image_rotary_emb")
    if rotary is not None:
        query, key = (apply_rotary_emb(part, rotary, sequence_dim=1) for part in (query, key))
    first = query.shape[1] - tokens
    return (
        Stream(query[:, :first], key[:, :first], value[:, :first]),
        Stream(query[:, first:], key[:, first:], value[:, first:]),
    )


def _fed_forward(attention: Any, call: Mapping[str, Any], tokens: int) -> Tensor:
    """The feed-forward's part in what image tokens get; a bias counts as the attention's."""
    hidden_states = call["hidden_states"]
    fed = attention.mlp_act_fn(_split(attention, hidden_states[:, hidden_states.shape[1] - tokens :])[1])
    nothing = fed.new_zeros(*fed.shape[:-1], attention.inner_dim)
    output = attention.to_out(torch.cat([nothing, fed], dim=-1))
    return output if attention.to_out.bias is None else output - attention.to_out.bias


@dataclass(frozen=True, eq=False)
class Flux2Site(JointSite):
    """`block.attn` of a double block."""

    block: nn.Module

    stand_in = DeltaConvFlux2Attention

    @property
    def feature_module(self) -> nn.Module:
        return self.block.norm2  # type: ignore[return-value]


@dataclass(frozen=True, eq=False)
class Flux2ParallelSite(JointSite):
    """`block.attn` of a single block, which adds attention and feed-forward at once: its output is the feature."""

    block: nn.Module

    stand_in = DeltaConvFlux2ParallelAttention

    @property
    def input_layer(self) -> nn.Module:
        return self.attention.to_qkv_mlp_proj

    @property
    def feature_module(self) -> nn.Module:
        return self.block

    def tap_features(self, control: Control) -> RemovableHandle:
        return self.block.register_forward_hook(SequenceOutputTap(control, self.name))

    def linear_maps(self) -> LinearMaps:
        attention, inner = self.attention, self.inner_dim
        projections, biases = weights_of(attention.to_qkv_mlp_proj, attention.query_dim)
        outputs, output_bias = weights_of(attention.to_out, inner + attention.mlp_hidden_dim)
        values, value_bias = projections[2 * inner : 3 * inner], biases[2 * inner : 3 * inner]
        outputs = outputs[:, :inner]
        return LinearMaps(values, outputs, outputs @ value_bias + output_bias, self.heads, value_bias)


def find(denoiser: ModelMixin, name: str, module: nn.Module, sites: Sites) -> None:
    """Add the attentions of a Flux2Transformer2DModel."""
    if not isinstance(module, Flux2Transformer2DModel):
        return
    lists: list[tuple[str, Any, type, type[JointSite]]] = [
        ("transformer_blocks", module.transformer_blocks, Flux2Attention, Flux2Site),
        ("single_transformer_blocks", module.single_transformer_blocks, Flux2ParallelSelfAttention, Flux2ParallelSite),
    ]
    inside = tuple(block.attn for _, blocks, _, _ in lists for block in blocks)
    owner = Owner(module, IdsGrid(PACKED, NOTED, IMG_IDS), inside)
    sites.owners.append(owner)
    for part, blocks, attention, site in lists:
        for index, block in enumerate(blocks):
            layer = f"{part}.{index}.attn"
            if type(block.attn) in (attention, site.stand_in):
                single = site is Flux2ParallelSite
                options: dict[str, Any] = {"single": single, "last": False, "block": block}
                sites.found[layer] = site(layer, block.attn, owner, PACKED, **options)
