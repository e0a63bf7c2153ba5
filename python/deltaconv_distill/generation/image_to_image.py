"""Denoising from an image instead of from noise (SDEdit, arXiv 2108.01073), for every model that can be converted."""

from __future__ import annotations

import copy
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


def check_refinement(pipe: DiffusionPipeline, strength: float, num_inference_steps: int) -> None:
    """
    Raises:
        ValueError: `refine` cannot run with the pipeline's scheduler, naming it.
    """
    if not isinstance(pipe, WITH_SIBLING):
        scheduler = copy.deepcopy(pipe.scheduler)
        _set_timesteps(scheduler, last_timesteps(scheduler, strength, num_inference_steps, "cpu"), "cpu")


def steps_for(strength: float, num_inference_steps: int) -> int:
    """The length of a schedule of which the last `strength` share is at least one step: as asked, or more."""
    while int(num_inference_steps * strength) < 1:
        num_inference_steps += 1
    return num_inference_steps


def last_timesteps(scheduler: Any, strength: float, num_inference_steps: int, device: torch.device | str) -> Tensor:
    """The last `strength` share of the schedule, one entry for each step.

    Second-order schedulers such as HeunDiscreteScheduler list a timestep for each call of the denoiser, most of them
    twice; given the list, they would double it again.
    """
    scheduler.set_timesteps(num_inference_steps, device=device)
    timesteps = scheduler.timesteps
    if scheduler.order > 1:
        timesteps = torch.unique_consecutive(timesteps)
    return timesteps[-int(num_inference_steps * strength) :]


def _set_timesteps(scheduler: Any, timesteps: Tensor, device: torch.device | str) -> None:
    name = type(scheduler).__name__
    if "timesteps" not in inspect.signature(scheduler.set_timesteps).parameters:
        raise ValueError(
            "pipe: expected a scheduler that takes timesteps, such as DPMSolverMultistepScheduler, to denoise from an "
            f"image, got {name}"
        )
    try:
        scheduler.set_timesteps(timesteps=timesteps.tolist(), device=device)
    except ValueError as error:  # with Karras sigmas and the like
        raise ValueError(f"pipe: {name}, as configured, cannot denoise from an image: {error}") from error


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
        ValueError: as `check_refinement`.
    """
    scheduler = pipe.scheduler
    timesteps = last_timesteps(scheduler, strength, num_inference_steps, latents.device)
    noise = randn_tensor(latents.shape, generator, latents.device, latents.dtype)
    noised = scheduler.add_noise(latents, noise, timesteps[:1].repeat(len(latents)))
    _set_timesteps(scheduler, timesteps, latents.device)  # as the pipeline will
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
