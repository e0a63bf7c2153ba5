"""Kind of Qwen-Image: joint attention of two streams, text first, in which some text tokens may be masked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffusers import ModelMixin, QwenImageTransformer2DModel
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_qwenimage import apply_rotary_emb_qwen
from torch import Tensor, nn

from ..grids import ShapesGrid
from .dispatched import Dispatched
from .joint_attention import JointSite, Stream
from .site import Owner, Sites

PACKED = 2  # latent pixels along each side of a token


class DeltaConvQwenAttention(Dispatched, Attention):
    """The attention of a QwenImageTransformerBlock."""

    stands_for = Attention

    def streams(self, call: Mapping[str, Any], tokens: int) -> tuple[Stream, Stream]:
        own: Any = self
        turns = call.get("image_rotary_emb") or (None, None)

        def stream(states: Any, projections: tuple[Any, ...], norms: tuple[Any, ...], turn: Tensor | None) -> Stream:
            query, key, value = (linear(states).unflatten(-1, (own.heads, -1)) for linear in projections)
            query, key = norms[0](query), norms[1](key)
            if turn is not None:
                query = apply_rotary_emb_qwen(query, turn, use_real=False)
                key = apply_rotary_emb_qwen(key, turn, use_real=False)
            return Stream(query, key, value)

        added = (own.add_q_proj, own.add_k_proj, own.add_v_proj)
        return (
            stream(call["encoder_hidden_states"], added, (own.norm_added_q, own.norm_added_k), turns[1]),
            stream(call["hidden_states"], (own.to_q, own.to_k, own.to_v), (own.norm_q, own.norm_k), turns[0]),
        )

    @staticmethod
    def text_mask(call: Mapping[str, Any], tokens: int) -> Tensor | None:
        mask = call.get("encoder_hidden_states_mask")
        return None if mask is None else mask.bool()


@dataclass(frozen=True, eq=False)
class QwenSite(JointSite):
    """`block.attn`."""

    block: Any

    stand_in = DeltaConvQwenAttention

    @property
    def feature_module(self) -> nn.Module:
        return self.block.img_norm2


def find(denoiser: ModelMixin, name: str, module: nn.Module, sites: Sites) -> None:
    """Add the attentions of a QwenImageTransformer2DModel."""
    if not isinstance(module, QwenImageTransformer2DModel):
        return
    blocks: Any = module.transformer_blocks
    owner = Owner(module, ShapesGrid(1, "attention_kwargs"), tuple(block.attn for block in blocks))
    sites.owners.append(owner)
    for index, block in enumerate(blocks):
        layer = f"transformer_blocks.{index}.attn"
        if type(block.attn) in (Attention, DeltaConvQwenAttention):
            sites.found[layer] = QwenSite(layer, block.attn, owner, PACKED, single=False, last=False, block=block)
