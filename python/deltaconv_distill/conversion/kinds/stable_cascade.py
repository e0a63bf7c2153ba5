"""Kind of Stable Cascade: in an SDCascadeAttnBlock, image tokens attend to themselves and to the text behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffusers import ModelMixin, StableCascadeUNet
from diffusers.models.attention_processor import Attention
from diffusers.models.unets.unet_stable_cascade import SDCascadeAttnBlock, UpDownBlock2d
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..grids import NOTED, InputGrid
from ..hooks import Control, OutputTap
from .joint_attention import Stream
from .site import Owner, Sites
from .text_keys import IMAGE_TOKENS, TextKeys, TextKeysSite, heads_of, keys_of, stream_of, tokens_of


class DeltaConvCascadeAttention(TextKeys, Attention):
    """The attention of an SDCascadeAttnBlock; its `encoder_hidden_states` are the image's tokens, then the text's."""

    stands_for = Attention

    def streams(self, call: Mapping[str, Any], tokens: int) -> tuple[Stream, Stream]:
        return _text(self, call, tokens), stream_of(self, _image(call))

    def text(self, call: Mapping[str, Any], tokens: int) -> Stream:
        return _text(self, call, tokens)

    def image_tokens(self, call: Mapping[str, Any], tokens: int) -> Tensor:
        return _image(call)

    def image_output(self, call: Mapping[str, Any], output: Any, tokens: int) -> Tensor:
        return tokens_of(output)

    def with_image_output(self, call: Mapping[str, Any], output: Any, image: Tensor) -> Tensor:
        return image.mT.reshape(output.shape).to(output.dtype)


def _image(call: Mapping[str, Any]) -> Tensor:
    return call[IMAGE_TOKENS] if IMAGE_TOKENS in call else tokens_of(call["hidden_states"])


def _text(attention: Any, call: Mapping[str, Any], tokens: int) -> Stream:
    text = call["encoder_hidden_states"][:, tokens:]
    return keys_of(heads_of(attention, attention.to_k(text)), heads_of(attention, attention.to_v(text)))


@dataclass(frozen=True, eq=False)
class CascadeSite(TextKeysSite):
    """`block.attention`; the block adds what it gives to the hidden state, and gives nothing else."""

    block: nn.Module

    stand_in = DeltaConvCascadeAttention

    @property
    def feature_module(self) -> nn.Module:
        return self.block

    def tap_features(self, control: Control) -> RemovableHandle:
        return self.block.register_forward_hook(OutputTap(control, self.name))


def find(denoiser: ModelMixin, name: str, module: nn.Module, sites: Sites) -> None:
    """Add the attentions of a StableCascadeUNet."""
    if not isinstance(module, StableCascadeUNet):
        return
    # an attention sees its grid by itself; checkpointing, which runs it again, takes along what it did there
    sites.owners.append(Owner(module, InputGrid(carrier=NOTED), ()))
    strides = _strides(module)
    levels = [("down_blocks", module.down_blocks, strides), ("up_blocks", module.up_blocks, strides[::-1])]
    for part, blocks, sides in levels:
        for level, (inside, stride) in enumerate(zip(blocks, sides, strict=True)):
            for index, block in enumerate(inside):
                if isinstance(block, SDCascadeAttnBlock):
                    _add(f"{part}.{level}.{index}.attention", block, stride, sites)


def _add(layer: str, block: Any, stride: int, sites: Sites) -> None:
    attention = block.attention
    owner = Owner(attention, InputGrid(carrier=None), (attention,))
    if not block.self_attn:
        sites.skipped[layer] = "it is a cross-attention"
    elif type(attention) in (Attention, DeltaConvCascadeAttention):
        sites.owners.append(owner)
        sites.found[layer] = CascadeSite(layer, attention, owner, stride, single=False, last=False, block=block)


def _strides(unet: Any) -> list[int]:
    """Sample pixels along each side of a token, by level: levels halve the resolution, but for those switched off."""
    strides = [unet.config.patch_size]
    for downscaler in list(unet.down_downscalers)[1:]:
        step = downscaler[1]
        halves = not isinstance(step, UpDownBlock2d) or not isinstance(step.blocks[1], nn.Identity)
        strides.append(strides[-1] * (2 if halves else 1))
    return strides
