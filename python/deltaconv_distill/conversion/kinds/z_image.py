"""Kinds of Z-Image: joint attention of one sequence, the image first, in which padding counts as text.

Image and text are each filled up with learned tokens to multiples of 32. So there is something beside the image's
tokens in the refining blocks, too, which have no text, unless the image has a multiple of 32 of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers import ModelMixin, ZImageTransformer2DModel
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_z_image import SEQ_MULTI_OF
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..flops import TextStream
from ..grids import NOTED, ListGrid
from ..hooks import Control, ImageFirstTap
from ..routing import Route
from .dispatched import Dispatched
from .joint_attention import JointSite, Stream
from .site import Owner, Sites

REFINING, JOINT = "noise_refiner", "layers"
OF_TEXT = ("context_refiner", "siglip_refiner")


class DeltaConvZImageAttention(Dispatched, Attention):
    """The attention of a ZImageTransformerBlock.

    Its `attention_mask`, [B, L], leaves out what fills up the shorter examples of a batch.
    """

    stands_for = Attention
    takes_masks = True

    def student(self, call: Mapping[str, Any], route: Route) -> Tensor:
        """Image, padding and text in one sequence, [B, L, C]."""
        tokens = route.height * route.width
        mask = self.text_mask(call, tokens)
        text, image = self.streams(call, tokens)
        of_image = self.of_image(text, image, mask)
        gathered = torch.cat([of_image, self.of_text(text, image, mask)], dim=1)
        delta = self.delta(self.image_tokens(call, tokens), route)
        output = self.project_out(gathered)
        return torch.cat([output[:, :tokens] + delta.to(output.dtype), output[:, tokens:]], dim=1)

    def streams(self, call: Mapping[str, Any], tokens: int) -> tuple[Stream, Stream]:
        own: Any = self
        hidden_states = call["hidden_states"]
        query, key, value = (
            projection(hidden_states).unflatten(-1, (own.heads, -1)) for projection in (own.to_q, own.to_k, own.to_v)
        )
        query = query if own.norm_q is None else own.norm_q(query)
        key = key if own.norm_k is None else own.norm_k(key)
        rotary = call.get("freqs_cis")
        if rotary is not None:
            query, key = (apply_rotary_emb(part, rotary, use_real=False) for part in (query, key))
        return (
            Stream(query[:, tokens:], key[:, tokens:], value[:, tokens:]),
            Stream(query[:, :tokens], key[:, :tokens], value[:, :tokens]),
        )

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Zero where there is nothing to attend to."""
        return Dispatched.attend(self, query, key, value, mask) if key.shape[1] else torch.zeros_like(query)

    def project_out(self, image: Tensor) -> Tensor:
        own: Any = self
        output = own.to_out[0](image)
        return own.to_out[1](output) if len(own.to_out) > 1 else output

    def image_tokens(self, call: Mapping[str, Any], tokens: int) -> Tensor:
        return call["hidden_states"][:, :tokens]

    @staticmethod
    def text_mask(call: Mapping[str, Any], tokens: int) -> Tensor | None:
        mask = call.get("attention_mask")
        return None if mask is None else mask[:, tokens:].bool()

    @staticmethod
    def with_image(call: Mapping[str, Any], image: Tensor) -> dict[str, Any]:
        return {**call, "hidden_states": torch.cat([image, call["hidden_states"][:, image.shape[1] :]], dim=1)}

    def image_output(self, call: Mapping[str, Any], output: Any, tokens: int) -> Tensor:
        return output[:, :tokens]

    def with_image_output(self, call: Mapping[str, Any], output: Any, image: Tensor) -> Tensor:
        return torch.cat([image.to(output.dtype), output[:, image.shape[1] :]], dim=1)


@dataclass(frozen=True, eq=False)
class ZImageSite(JointSite):
    """`block.attention` of image and text."""

    block: Any

    stand_in = DeltaConvZImageAttention

    @property
    def feature_module(self) -> nn.Module:
        return self.block.ffn_norm1

    def tap_features(self, control: Control) -> RemovableHandle:
        return self.feature_module.register_forward_pre_hook(ImageFirstTap(control, self.name))

    def text_stream(self, tokens: int) -> TextStream:
        return TextStream(tokens, single=False, last=False, padded_to=SEQ_MULTI_OF)


@dataclass(frozen=True, eq=False)
class ZImageRefiningSite(ZImageSite):
    """The same of the image and its padding: what that is given is expected to be nothing."""

    prior: ClassVar[float] = 0.0

    def text_stream(self, tokens: int) -> TextStream:
        return super().text_stream(0)


def find(denoiser: ModelMixin, name: str, module: nn.Module, sites: Sites) -> None:
    """Add the attentions of a ZImageTransformer2DModel."""
    if not isinstance(module, ZImageTransformer2DModel):
        return
    lists: dict[str, Any] = {REFINING: module.noise_refiner, JOINT: module.layers}
    inside = tuple(block.attention for blocks in lists.values() for block in blocks)
    patch = module.config.all_patch_size[0]
    owner = Owner(module, ListGrid(patch, NOTED), inside)  # blocks get no keywords
    sites.owners.append(owner)
    for part in OF_TEXT:
        for index, _ in enumerate(getattr(module, part) or ()):
            sites.skipped[f"{part}.{index}.attention"] = "its tokens are not those of the image"
    for part, blocks in lists.items():
        kind = ZImageRefiningSite if part == REFINING else ZImageSite
        for index, block in enumerate(blocks):
            layer = f"{part}.{index}.attention"
            if type(block.attention) in (Attention, DeltaConvZImageAttention):
                options: dict[str, Any] = {"single": False, "last": False, "block": block}
                sites.found[layer] = kind(layer, block.attention, owner, patch, **options)
