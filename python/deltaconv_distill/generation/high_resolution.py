"""Images in stages: one at the size that the model was trained at, enlarged, and denoised again from there."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, StableDiffusion3Pipeline
from PIL import ImageOps
from PIL.Image import Image, Resampling

from ..conversion.sites import denoiser_as_called
from .guidance import calls_of_one_sample
from .image_to_image import PIXART, WITH_SIBLING, check_refinement, refine, steps_for
from .plan import Plan, plan_generation

logger = logging.getLogger(__name__)
ONE_STAGE = (StableDiffusion3Pipeline,)  # made at one size: nothing here denoises from an image by flow matching
SMALLEST_TILE = 512  # pixels: a small autoencoder's own tiles would show their seams


def generate_high_resolution(
    pipe: DiffusionPipeline,
    prompt: str | Sequence[str],
    height: int,
    width: int,
    *,
    strength: float = 0.4,
    num_inference_steps: int = 25,
    guidance_scale: float = 5.0,
    generator: torch.Generator | list[torch.Generator] | None = None,
    plan: Plan | None = None,
    **options: Any,
) -> list[Image]:
    """One image for each prompt, of height x width pixels, also far beyond the model's training size.

    The first stage generates at the training size; every later one enlarges the image, noises it by `strength` and
    denoises it (SDEdit, arXiv 2108.01073). The autoencoder works in tiles, and the denoiser on one sample at a time,
    where `plan` says so.

    Args:
        pipe: a StableDiffusion(XL) or PixArt text-to-image pipeline, converted or not; or a StableDiffusion3 one, for
            sizes that need no second stage.
        prompt: one, or a list of them.
        height, width: in pixels.
        strength: above 0, at most 1: how much of the schedule a later stage runs; 1 keeps nothing of the image.
        num_inference_steps: of the first stage; later ones run `strength` times as many, or one step of a schedule
            that is long enough for it.
        guidance_scale: classifier-free guidance; 1 turns it off.
        generator: of all noise, or one for each prompt.
        plan: of `plan_generation`, which makes it where not given.
        options: of the pipelines' calls, for all stages, such as negative_prompt.

    Raises:
        TypeError: another kind of pipeline.
        ValueError: sizes, a strength or a scheduler that cannot work, naming the argument, before the first step.
    """
    if not isinstance(pipe, (*WITH_SIBLING, *PIXART, *ONE_STAGE)):
        raise TypeError(
            f"pipe: expected a StableDiffusion, StableDiffusionXL, StableDiffusion3 or PixArt pipeline, got "
            f"{type(pipe).__name__}"
        )
    if not 0 < strength <= 1:
        raise ValueError(f"strength: expected more than 0 and at most 1, got {strength:g}")
    prompt = prompt if isinstance(prompt, str) else list(prompt)
    count = 1 if isinstance(prompt, str) else len(prompt)
    if plan is None:
        plan = plan_generation(pipe, height, width, images=count, guidance=guidance_scale > 1)
    if plan.sizes[-1] != (height, width):
        raise ValueError(f"plan: expected one for {height} x {width} pixels, got one for {plan.sizes[-1]}")
    if isinstance(pipe, ONE_STAGE) and len(plan.sizes) > 1:
        raise ValueError(
            f"plan: {type(pipe).__name__} makes images in one stage, got {plan}; expected a size nearer to that of its "
            "training, or the image's own size as the plan's base"
        )
    logger.info(f"generating in stages: {plan}")
    later_steps = steps_for(strength, num_inference_steps)
    if len(plan.sizes) > 1:
        check_refinement(pipe, strength, later_steps)
    shared: dict[str, Any] = {"guidance_scale": guidance_scale, "generator": generator, **options}
    if "use_resolution_binning" in inspect.signature(pipe.__call__).parameters:
        shared = {"use_resolution_binning": False, **shared}  # sizes are those of the plan
    with _sparing_memory(pipe, plan):
        (height, width), *later = plan.sizes
        images = pipe(prompt, height=height, width=width, num_inference_steps=num_inference_steps, **shared).images
        for stage_height, stage_width in later:
            enlarged = [ImageOps.fit(image, (stage_width, stage_height), Resampling.LANCZOS) for image in images]
            images = refine(pipe, prompt, enlarged, strength, later_steps, **shared)
    return images


@contextmanager
def _sparing_memory(pipe: DiffusionPipeline, plan: Plan) -> Iterator[None]:
    with ExitStack() as stack:
        if plan.tiled:
            stack.enter_context(_tiled(pipe.vae, pipe.vae_scale_factor))
        if not plan.batch_guidance:
            stack.enter_context(calls_of_one_sample(denoiser_as_called(pipe)))
        yield


@contextmanager
def _tiled(vae: AutoencoderKL, scale: int) -> Iterator[None]:
    """The autoencoder works on one tile of one image at a time; `scale` is how many pixels a latent one has."""
    names = ("use_tiling", "use_slicing", "tile_sample_min_size", "tile_latent_min_size")
    before = {name: getattr(vae, name) for name in names}
    side = max(vae.tile_sample_min_size, SMALLEST_TILE)
    vae.enable_tiling()
    vae.enable_slicing()
    vae.tile_sample_min_size, vae.tile_latent_min_size = side, side // scale
    try:
        yield
    finally:
        vars(vae).update(before)
