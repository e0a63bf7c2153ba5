"""Kind: attention in a UNet with group norm and residual connection, in which projected text adds keys and values.

SimpleCrossAttnDownBlock2D and its like have it: Kandinsky 2.1 and 2.2, DeepFloyd IF.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffusers import ModelMixin, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..flops import TextStream
from ..grids import InputGrid
from ..hooks import Control, OutputTap
from .joint_attention import Stream
from .linear_maps import LinearMaps, linear_maps
from .site import Owner, Sites
from .text_keys import IMAGE_TOKENS, TextKeys, TextKeysSite, heads_of, keys_of, stream_of, tokens_of
from .unets import halvings


class DeltaConvAddedKVAttention(TextKeys, Attention):
    """An `Attention` with AttnAddedKVProcessor. Its mask, [B, 1, n], is added to the scores of the text's keys."""

    stands_for = Attention
    takes_masks = True

    def streams(self, call: Mapping[str, Any], tokens: int) -> tuple[Stream, Stream]:
        return _text(self, call), stream_of(self, _image(self, call))

    def text(self, call: Mapping[str, Any], tokens: int) -> Stream:
        return _text(self, call)

    def image_tokens(self, call: Mapping[str, Any], tokens: int) -> Tensor:
        return _image(self, call)

    @staticmethod
    def text_mask(call: Mapping[str, Any], tokens: int) -> Tensor | None:
        mask = call.get("attention_mask")
        return None if mask is None else mask[:, 0]

    def image_output(self, call: Mapping[str, Any], output: Any, tokens: int) -> Tensor:
        return tokens_of(output - call["hidden_states"])

    def with_image_output(self, call: Mapping[str, Any], output: Any, image: Tensor) -> Tensor:
        hidden_states = call["hidden_states"]
        return hidden_states + image.mT.reshape(hidden_states.shape).to(hidden_states.dtype)

    def is_idle(self, parameter: str) -> bool:
        return parameter.partition(".")[0] in ("to_k", "to_v")


def _image(attention: Any, call: Mapping[str, Any]) -> Tensor:
    if IMAGE_TOKENS in call:
        return call[IMAGE_TOKENS]
    return attention.group_norm(call["hidden_states"].flatten(2)).mT


def _text(attention: Any, call: Mapping[str, Any]) -> Stream:
    text = call["encoder_hidden_states"]
    if attention.norm_cross:
        text = attention.norm_encoder_hidden_states(text)
    return keys_of(heads_of(attention, attention.add_k_proj(text)), heads_of(attention, attention.add_v_proj(text)))


@dataclass(frozen=True, eq=False)
class AddedKVSite(TextKeysSite):
    """The module itself, which gives the hidden state after the residual add."""

    stand_in = DeltaConvAddedKVAttention

    @property
    def feature_module(self) -> nn.Module:
        return self.attention

    def tap_features(self, control: Control) -> RemovableHandle:
        return self.attention.register_forward_hook(OutputTap(control, self.name))

    def text_stream(self, tokens: int) -> TextStream:
        width = self.attention.add_k_proj.in_features
        return TextStream(tokens, single=False, last=False, queries=False, width=width)

    def linear_maps(self) -> LinearMaps:
        return linear_maps(self.attention, self.name, handled=("group_norm", "residual_connection"))


def find(denoiser: ModelMixin, name: str, module: nn.Module, sites: Sites) -> None:
    """Add a module of a UNet2DConditionModel if it is such an attention."""
    if not isinstance(denoiser, UNet2DConditionModel) or type(module) not in (Attention, DeltaConvAddedKVAttention):
        return
    attention: Any = module
    if attention.added_kv_proj_dim is None or attention.only_cross_attention or attention.group_norm is None:
        return
    owner = Owner(module, InputGrid(carrier=None), (module,))
    sites.owners.append(owner)
    stride = 2 ** halvings(denoiser, name)
    sites.found[name] = AddedKVSite(name, module, owner, stride, single=False, last=False)
