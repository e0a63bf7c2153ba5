"""How each family's denoiser is asked for a prediction: names, order and packing of its inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import (
    FluxTransformer2DModel,
    ModelMixin,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from torch import Tensor

# Conditioning that denoisers take inside `added_cond_kwargs`: of SDXL, then of PixArt-α.
SDXL_CONDITIONS = ("text_embeds", "time_ids")
PIXART_CONDITIONS = ("resolution", "aspect_ratio")

PACKED = 2  # FLUX: latent pixels along each side of a token

# denoiser (or its compiled form), noisy latents [B, C, h, w], timesteps [B], conditioning by name, guidance
# -> prediction [B, C, h, w]
Call = Callable[[Any, Tensor, Tensor, Mapping[str, Tensor], "float | None"], Tensor]


def of_unet(denoiser: Any, noisy: Tensor, timesteps: Tensor, given: Mapping[str, Tensor], _: float | None) -> Tensor:
    return _with_added(denoiser, noisy, timesteps, given, SDXL_CONDITIONS, always=False)


def of_pixart(denoiser: Any, noisy: Tensor, timesteps: Tensor, given: Mapping[str, Tensor], _: float | None) -> Tensor:
    return _with_added(denoiser, noisy, timesteps, given, PIXART_CONDITIONS, always=True)


def _with_added(
    denoiser: Any, noisy: Tensor, timesteps: Tensor, given: Mapping[str, Tensor], names: tuple[str, ...], always: bool
) -> Tensor:
    conditioning: dict[str, Any] = {name: value for name, value in given.items() if name not in names}
    added = {name: given.get(name) for name in names}
    if always or any(value is not None for value in added.values()):
        conditioning["added_cond_kwargs"] = added
    prediction = denoiser(noisy, timestep=timesteps, **conditioning, return_dict=False)[0]
    # a denoiser that has learned the variance predicts it in further channels
    return prediction[:, : noisy.shape[1]]


def of_sd3(denoiser: Any, noisy: Tensor, timesteps: Tensor, given: Mapping[str, Tensor], _: float | None) -> Tensor:
    require_whole_tokens(noisy, denoiser.config.patch_size)
    return denoiser(noisy, timestep=timesteps, **given, return_dict=False)[0]


def of_flux(
    denoiser: Any, noisy: Tensor, timesteps: Tensor, given: Mapping[str, Tensor], guidance: float | None
) -> Tensor:
    """As FluxPipeline: tokens of 2 x 2 latents, with their places; times from 0 to 1; guidance where it is an input."""
    require_whole_tokens(noisy, PACKED)
    height, width = (side // PACKED for side in noisy.shape[-2:])
    text_tokens = given["encoder_hidden_states"].shape[1]
    prediction = denoiser(
        _packed(noisy),
        timestep=timesteps / 1000,  # the transformer multiplies by this, whatever the scheduler's number of timesteps
        guidance=None if guidance is None else noisy.new_full((len(noisy),), guidance),
        img_ids=_places(height, width, noisy),
        txt_ids=noisy.new_zeros(text_tokens, 3),
        **given,
        return_dict=False,
    )[0]
    return _unpacked(prediction, height, width)


def require_whole_tokens(noisy: Tensor, patch: int) -> None:
    """Raises ValueError for latents that tokens of patch x patch do not cover."""
    height, width = noisy.shape[-2:]
    if height % patch or width % patch:
        raise ValueError(
            f"batch.latents: expected a height and width that are multiples of the {patch} latent pixels of a token, "
            f"got {height} x {width}"
        )


def _packed(latents: Tensor) -> Tensor:
    """[B, C, h, w] -> [B, h/2 w/2, 4 C], channel by channel."""
    tokens = latents.unflatten(-1, (-1, PACKED)).unflatten(-3, (-1, PACKED))  # [B, C, h/2, 2, w/2, 2]
    return tokens.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def _unpacked(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse, of `height` x `width` tokens."""
    parts = tokens.unflatten(2, (-1, PACKED, PACKED)).unflatten(1, (height, width))  # [B, h/2, w/2, C, 2, 2]
    return parts.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def _places(height: int, width: int, like: Tensor) -> Tensor:
    """[height * width, 3]: 0, row and column of each token."""
    rows, columns = (torch.arange(side, device=like.device, dtype=like.dtype) for side in (height, width))
    places = like.new_zeros(height, width, 3)
    places[..., 1], places[..., 2] = rows[:, None], columns
    return places.flatten(0, 1)


DIFFUSION: dict[type[ModelMixin], Call] = {UNet2DConditionModel: of_unet, PixArtTransformer2DModel: of_pixart}
FLOW_MATCHING: dict[type[ModelMixin], Call] = {SD3Transformer2DModel: of_sd3, FluxTransformer2DModel: of_flux}


def token_side(denoiser: Any) -> int:
    """Latent pixels along each side of an image token, of a denoiser in FLOW_MATCHING."""
    return PACKED if isinstance(denoiser, FluxTransformer2DModel) else denoiser.config.patch_size
