"""The three nodes: load a fusion's folder, attach it to a model, take it off again."""

from __future__ import annotations

from typing import Any

import torch
from deltaconv_distill import DeltaConvFusion
from torch import Tensor, nn

from deltaconv_kernels import DeltaConvBlock

from .layout import comfyui_name

CATEGORY = "DeltaConv"
DENOISER = "UNet2DConditionModel"


class GridBlock(nn.Module):
    """A ΔConvBlock called as ComfyUI calls a self-attention, with tokens [B, H*W, C]."""

    def __init__(self, layer: str, block: DeltaConvBlock) -> None:
        super().__init__()
        self.layer, self.block = layer, block

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        value: Tensor | None = None,
        mask: Tensor | None = None,
        transformer_options: dict[str, Any] | None = None,
    ) -> Tensor:
        if (
            (context is not None and context is not x)
            or (value is not None and value is not context)
            or mask is not None
        ):
            raise ValueError(
                f"{self.layer}: another node changes what this self-attention reads (context, value or mask), but "
                "a ΔConvBlock took its place; detach the blocks, or take that node away"
            )
        shape = (transformer_options or {}).get("activations_shape")
        if shape is None:
            raise ValueError(
                f"{self.layer}: this version of ComfyUI does not say how many rows and columns the tokens are "
                "(transformer_options of a self-attention); a newer one does"
            )
        height, width = shape[-2:]
        if x.shape[1] != height * width:
            raise ValueError(f"{self.layer}: expected {height} x {width} tokens, got {x.shape[1]}")
        parameter = self.block.in_proj.weight
        if parameter.dtype != x.dtype or parameter.device != x.device:  # ComfyUI chooses both when it loads the model
            self.block.to(device=x.device, dtype=x.dtype)
        return self.block(x.unflatten(1, (height, width))).flatten(1, 2)


class LoadFusion:
    """A folder that `DeltaConvFusion.save_pretrained` wrote."""

    CATEGORY = CATEGORY
    FUNCTION = "load"
    RETURN_TYPES = ("DELTACONV_FUSION",)
    RETURN_NAMES = ("fusion",)
    DESCRIPTION = "Loads the ΔConvBlocks that replace a model's self-attentions."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"folder": ("STRING", {"tooltip": "the folder with the blocks' config.json and weights"})}}

    def load(self, folder: str) -> tuple[DeltaConvFusion]:
        fusion = DeltaConvFusion.from_pretrained(folder).eval()
        if fusion.config.denoiser != DENOISER:
            raise ValueError(f"folder: expected blocks of a {DENOISER}, got those of a {fusion.config.denoiser}")
        return (fusion,)


class AttachFusion:
    """Blocks in the places of a model's self-attentions. The model that comes in stays as it is."""

    CATEGORY = CATEGORY
    FUNCTION = "attach"
    RETURN_TYPES = ("MODEL",)
    DESCRIPTION = "Replaces the model's self-attentions by ΔConvBlocks. LoRAs keep working on all other layers."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"model": ("MODEL",), "fusion": ("DELTACONV_FUSION",)}}

    def attach(self, model: Any, fusion: DeltaConvFusion) -> tuple[Any]:
        layers_per_block = fusion.config.teacher["config"]["layers_per_block"]
        patched = model.clone()
        for layer, block in fusion.blocks.items():
            place = f"diffusion_model.{comfyui_name(layer, layers_per_block)}"
            _check_place(model, place, layer, block)
            patched.add_object_patch(place, GridBlock(layer, block))
        return (patched,)


class DetachFusion:
    """The model with its own self-attentions again."""

    CATEGORY = CATEGORY
    FUNCTION = "detach"
    RETURN_TYPES = ("MODEL",)
    DESCRIPTION = "Takes ΔConvBlocks off again; other patches stay."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"model": ("MODEL",)}}

    def detach(self, model: Any) -> tuple[Any]:
        without = model.clone()
        without.object_patches = {
            place: patch for place, patch in model.object_patches.items() if not isinstance(patch, GridBlock)
        }
        return (without,)


def _check_place(model: Any, place: str, layer: str, block: DeltaConvBlock) -> None:
    """Raises ValueError unless the model has a self-attention of the block's width there."""
    try:
        attention = model.get_model_object(place)
    except AttributeError:
        raise ValueError(f"model: expected a self-attention at {place} ({layer}), got none: another model?") from None
    if isinstance(attention, GridBlock):
        raise ValueError("model: expected one without ΔConvBlocks, got one that has some; detach them first")
    query = getattr(getattr(attention, "to_q", None), "weight", None)
    if not isinstance(query, torch.Tensor) or query.shape[-1] != block.dim:
        width = "no projection of queries" if query is None else f"width {query.shape[-1]}"
        raise ValueError(f"model: expected a self-attention of width {block.dim} at {place} ({layer}), got {width}")
