"""Denoising from an image instead of from noise (SDEdit, arXiv 2108.01073), for every model that can be converted."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import (
    AutoPipelineForImage2Image,
    DiffusionPipeline,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from diffusers.utils.torch_utils import randn_tensor
from PIL.Image import Image
from torch import Tensor

WITH_SIBLING = (StableDiffusionPipeline, StableDiffusionXLPipeline)  # diffusers has their image-to-image pipelines
PIXART = (PixArtAlphaPipeline, PixArtSigmaPipeline)
Generators = torch.Generator | list[torch.Generator] | None


def refine(
    pipe: DiffusionPipeline,
    prompt: str | Sequence[str],
    images: Sequence[Image],
    strength: float,
    num_inference_steps: int,
    generator: Generators,
    **options: Any,
) -> list[Image]:
    """Noise the images by `strength` (0 to 1) of the schedule and denoise them with the prompt.

    Of the `num_inference_steps` the last `strength` share runs. `options` are those of the pipeline's own call.
    """
    if isinstance(pipe, WITH_SIBLING):
        sibling = AutoPipelineForImage2Image.from_pipe(pipe)
        sibling.set_progress_bar_config(**getattr(pipe, "_progress_bar_config", {}))
        return sibling(
            prompt,
            image=list(images),
            strength=strength,
            num_inference_steps=num_inference_steps,
            generator=generator,
            **options,
        ).images
    latents = encode(pipe, images, generator)
    return denoise_from(pipe, prompt, latents, strength, num_inference_steps, generator, **options)


@torch.no_grad()
def encode(pipe: DiffusionPipeline, images: Sequence[Image], generator: Generators) -> Tensor:
    """Latents of the images, scaled as the denoiser expects them."""
    pixels = pipe.image_processor.preprocess(list(images)).to(pipe._execution_device, pipe.vae.dtype)
    generators = generator if isinstance(generator, list) else [generator] * len(pixels)
    latents = [
        pipe.vae.encode(one[None]).latent_dist.sample(each) for one, each in zip(pixels, generators, strict=True)
    ]
    return torch.cat(latents) * pipe.vae.config.scaling_factor


def denoise_from(
    pipe: DiffusionPipeline,
    prompt: str | Sequence[str],
    latents: Tensor,
    strength: float,
    num_inference_steps: int,
    generator: Generators,
    **options: Any,
) -> list[Image]:
    """`refine` for pipelines without a sibling: their own loop, on the last part of the schedule.

    Raises:
        ValueError: the scheduler cannot run given timesteps.
    """
    scheduler = pipe.scheduler
    if "timesteps" not in inspect.signature(scheduler.set_timesteps).parameters:
        raise ValueError(
            f"pipe: expected a scheduler that takes timesteps, such as DPMSolverMultistepScheduler, to denoise from "
            f"an image, got {type(scheduler).__name__}"
        )
    scheduler.set_timesteps(num_inference_steps, device=latents.device)
    steps = min(int(num_inference_steps * strength), num_inference_steps)
    timesteps = scheduler.timesteps[-steps * scheduler.order :]
    noise = randn_tensor(latents.shape, generator, latents.device, latents.dtype)
    noised = scheduler.add_noise(latents, noise, timesteps[:1].repeat(len(latents)))
    scheduler.set_timesteps(timesteps=timesteps.tolist(), device=latents.device)  # as the pipeline will
    height, width = (side * pipe.vae_scale_factor for side in latents.shape[-2:])
    return pipe(
        prompt,
        latents=noised / scheduler.init_noise_sigma,  # which the pipeline multiplies by
        timesteps=timesteps.tolist(),
        height=height,
        width=width,
        generator=generator,
        **options,
    ).images
