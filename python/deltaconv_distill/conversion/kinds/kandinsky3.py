"""Kind of Kandinsky 3: self-attention inside a Kandinsky3AttentionBlock, which sees the image as [B, C, H, W]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diffusers import Kandinsky3UNet, ModelMixin
from diffusers.models.attention_processor import Attention
from torch import nn
from torch.utils.hooks import RemovableHandle

from ..grids import NOTED, InputGrid
from ..hooks import Control, ImageTap
from ..routing import DeltaConvAttention
from .site import Owner, Site, Sites


@dataclass(frozen=True, eq=False)
class Kandinsky3Site(Site):
    """`block.attention` of a block that is given no text."""

    block: Any

    @property
    def feature_module(self) -> nn.Module:
        return self.block.out_norm

    def tap_features(self, control: Control) -> RemovableHandle:
        return self.feature_module.register_forward_pre_hook(ImageTap(control, self.name))


def find(denoiser: ModelMixin, name: str, module: nn.Module, sites: Sites) -> None:
    """Add the self-attentions of a Kandinsky3UNet: the first in each list of a level, where the level has one."""
    if not isinstance(module, Kandinsky3UNet):
        return
    levels = len(module.down_blocks)
    for part, blocks in (("down_blocks", module.down_blocks), ("up_blocks", module.up_blocks)):
        for index, level in enumerate(blocks):
            owner_name = f"{part}.{index}.attentions.0"
            if level.self_attention:
                # going down it comes before the level's halving, going up after its doubling
                halvings = index if part == "down_blocks" else levels - 1 - index
                _add(owner_name, module.get_submodule(owner_name), 2**halvings, sites)


def _add(name: str, block: Any, stride: int, sites: Sites) -> None:
    # a block calls its attention with nothing but tokens
    owner = Owner(block, InputGrid(carrier=NOTED), (block.attention,))
    sites.owners.append(owner)
    if type(block.attention) in (Attention, DeltaConvAttention):
        layer = f"{name}.attention"
        sites.found[layer] = Kandinsky3Site(layer, block.attention, owner, stride, block)
