"""Kind: an attention over an image with a group norm and a residual connection of its own, as in AttnDownBlock2D."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diffusers import ModelMixin
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..grids import InputGrid
from ..hooks import Control, OutputTap
from ..routing import TEACHER, Route, StandIn, require_route
from .linear_maps import LinearMaps, linear_maps
from .site import Owner, Site, Sites
from .unets import halvings


class DeltaConvImageAttention(StandIn, Attention):
    """An `Attention` of an image, [B, C, H, W]: group norm, self-attention, residual connection."""

    stands_for = Attention

    def forward(self, hidden_states: Tensor, *args: Any, deltaconv_route: Route | None = None, **kwargs: Any) -> Tensor:
        """hidden_states: [B, C, H, W]. Returns [B, C, H, W]."""
        if not isinstance(self, StandIn):  # taken out again, while somebody's wrapper has kept this method
            return Attention.forward(self, hidden_states, *args, **kwargs)
        route = require_route(deltaconv_route)
        if route.mode == TEACHER:
            return super().forward(hidden_states, *args, **kwargs)
        delta = self.delta(self.inner_input(self, hidden_states), route)
        return self.outer_output(self, hidden_states, delta)

    @staticmethod
    def inner_input(attention: Any, hidden_states: Tensor) -> Tensor:
        return attention.group_norm(hidden_states).flatten(2).mT

    @staticmethod
    def inner_output(attention: Any, hidden_states: Tensor, output: Tensor) -> Tensor:
        return (output * attention.rescale_output_factor - hidden_states).flatten(2).mT

    @staticmethod
    def outer_output(attention: Any, hidden_states: Tensor, inner_output: Tensor) -> Tensor:
        added = hidden_states + inner_output.mT.reshape(hidden_states.shape)
        return added / attention.rescale_output_factor


@dataclass(frozen=True, eq=False)
class ImageSite(Site):
    """An attention that knows its grid from its own argument, and whose output is the hidden state after the add."""

    stand_in = DeltaConvImageAttention

    @property
    def feature_module(self) -> nn.Module:
        return self.attention

    def tap_features(self, control: Control) -> RemovableHandle:
        return self.attention.register_forward_hook(OutputTap(control, self.name))

    def linear_maps(self) -> LinearMaps:
        return linear_maps(self.attention, self.name, handled=("group_norm", "residual_connection"))


def find(denoiser: ModelMixin, name: str, module: nn.Module, sites: Sites) -> None:
    """Add a module of a UNet if it is such an attention."""
    if type(module) not in (Attention, DeltaConvImageAttention) or not _is_image_attention(module):
        return
    owner = Owner(module, InputGrid(carrier=None), (module,))
    sites.owners.append(owner)
    sites.found[name] = ImageSite(name, module, owner, 2 ** halvings(denoiser, name))


def _is_image_attention(attention: Any) -> bool:
    return (
        attention.group_norm is not None
        and attention.spatial_norm is None
        and attention.residual_connection
        and not attention.is_cross_attention
        and attention.added_kv_proj_dim is None
    )
