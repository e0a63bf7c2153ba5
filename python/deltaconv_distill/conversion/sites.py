"""Where a denoiser attends to itself: the layers that can be replaced, and which module knows their grid."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from diffusers import (
    ControlNetModel,
    DiffusionPipeline,
    ModelMixin,
    PixArtTransformer2DModel,
    Transformer2DModel,
    UNet2DConditionModel,
)
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.utils.torch_utils import is_compiled_module
from torch import nn

from .routing import DeltaConvAttention

DENOISERS = (UNet2DConditionModel, ControlNetModel, PixArtTransformer2DModel)


@dataclass(frozen=True)
class Site:
    """One self-attention, `block.attn1`; for a sample of H x W it has ceil(H/stride) x ceil(W/stride) tokens."""

    name: str
    block: BasicTransformerBlock
    stride: int

    @property
    def attention(self) -> Attention:
        return self.block.attn1

    @property
    def feature_module(self) -> nn.Module:
        """The module whose first argument is the hidden state right after the self-attention's residual add.

        PixArt's blocks (ada_norm_single) normalise before the feed-forward only, so there it is the cross-attention.
        """
        block = self.block
        if block.norm_type == "ada_norm_single" and block.attn2 is not None:
            return block.attn2
        return block.norm3 if block.norm2 is None else block.norm2


@dataclass
class Sites:
    """The self-attentions of a denoiser by name, the modules that know their grids, and what was skipped and why."""

    found: dict[str, Site] = field(default_factory=dict)
    owners: list[Transformer2DModel | PixArtTransformer2DModel] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def denoiser_of(pipe_or_denoiser: DiffusionPipeline | ModelMixin) -> ModelMixin:
    """The model that predicts the noise: a pipeline's unet or transformer, or the model itself; not its compiled form.

    Raises:
        TypeError: it is none of the supported models. A pipeline's ControlNet has to be given by itself.
    """
    model: Any = denoiser_as_called(pipe_or_denoiser)
    if is_compiled_module(model):
        model = model._orig_mod
    if not isinstance(model, DENOISERS):
        supported = ", ".join(kind.__name__ for kind in DENOISERS)
        raise TypeError(
            f"pipe_or_denoiser: expected one of {supported}, or a pipeline with one as its unet or transformer, "
            f"got {type(pipe_or_denoiser).__name__} with {type(model).__name__}"
        )
    return model


def denoiser_as_called(pipe_or_denoiser: DiffusionPipeline | ModelMixin) -> Any:
    """What a pipeline has as its unet or transformer, in its compiled form where it has that one."""
    if not isinstance(pipe_or_denoiser, DiffusionPipeline):
        return pipe_or_denoiser
    unet = getattr(pipe_or_denoiser, "unet", None)  # a compiled one has no truth value
    return getattr(pipe_or_denoiser, "transformer", None) if unet is None else unet


def find_sites(denoiser: ModelMixin) -> Sites:
    """All self-attentions (`attn1` of BasicTransformerBlock) of an image denoiser that live on a grid."""
    sites = Sites()
    # UNets register their mid block last; here the layers come in the order in which they run
    for owner_name, owner in sorted(denoiser.named_modules(), key=lambda item: item[0].startswith("up_blocks.")):
        if not isinstance(owner, (Transformer2DModel, PixArtTransformer2DModel)):
            continue
        sites.owners.append(owner)
        prefix = f"{owner_name}." if owner_name else ""
        for index, block in enumerate(owner.transformer_blocks):
            name = f"{prefix}transformer_blocks.{index}.attn1"
            if reason := _unfit(owner, block):
                sites.skipped[name] = reason
            else:
                sites.found[name] = Site(name, block, patch_size(owner) * 2 ** _halvings(denoiser, name))
    sites.skipped |= _outside_transformers(denoiser, sites)
    return sites


def _outside_transformers(denoiser: ModelMixin, sites: Sites) -> dict[str, str]:
    """Self-attentions that stand elsewhere, such as those of an AttnDownBlock2D, and why they cannot be replaced."""
    inside = tuple(name.removesuffix("attn1") for name in (*sites.found, *sites.skipped))
    reasons = {}
    for name, module in denoiser.named_modules():
        if not isinstance(module, Attention) or name.startswith(inside):
            continue
        if module.added_kv_proj_dim is not None:
            reasons[name] = "it attends to the text and the image together"
        elif not module.is_cross_attention:
            reasons[name] = "it is not part of a BasicTransformerBlock"
    return reasons


def sites_to_convert(denoiser: ModelMixin) -> Sites:
    """As `find_sites`.

    Raises:
        ValueError: there is none.
    """
    sites = find_sites(denoiser)
    if not sites.found:
        raise ValueError(f"pipe_or_denoiser: no self-attention to replace; skipped {sites.skipped}")
    return sites


def patch_size(owner: Transformer2DModel | PixArtTransformer2DModel) -> int:
    """Pixels of the owner's input along each side of one of its tokens."""
    patched = isinstance(owner, PixArtTransformer2DModel) or owner.is_input_patches
    return owner.config.patch_size if patched else 1


def _unfit(owner: nn.Module, block: nn.Module) -> str | None:
    """Why `block.attn1` cannot be replaced, or None if it can."""
    if getattr(owner, "is_input_vectorized", False):
        return "its tokens have no grid"
    if not isinstance(block, BasicTransformerBlock):
        return f"{type(block).__name__} is not a BasicTransformerBlock"
    if block.only_cross_attention or block.attn1.is_cross_attention:
        return "it is a cross-attention"
    if type(block.attn1) not in (Attention, DeltaConvAttention):
        return f"{type(block.attn1).__name__} is not diffusers' Attention"
    return None


def _halvings(denoiser: ModelMixin, layer: str) -> int:
    """How often the resolution is halved between a UNet's sample and one of its layers."""
    if isinstance(denoiser, PixArtTransformer2DModel):
        return 0
    halvings = 0
    for index, block in enumerate(denoiser.down_blocks):
        if layer.startswith(f"down_blocks.{index}."):
            return halvings
        halvings += block.downsamplers is not None
    if layer.startswith("mid_block."):
        return halvings
    for index, block in enumerate(getattr(denoiser, "up_blocks", ())):
        if layer.startswith(f"up_blocks.{index}."):
            return halvings
        halvings -= block.upsamplers is not None
    return halvings
