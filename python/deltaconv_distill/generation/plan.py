"""Which sizes an image goes through on its way to one beyond the training size, and how memory is spared."""

from __future__ import annotations

import math
from dataclasses import dataclass

from diffusers import (
    ChromaTransformer2DModel,
    DiffusionPipeline,
    FluxTransformer2DModel,
    QwenImageTransformer2DModel,
)

from ..conversion.attachment import smallest_latents
from ..conversion.sites import denoiser_of
from .memory import denoiser_memory, free_memory

LARGEST_DIRECT = 1.5  # times the training size, as the square root of the area: generated in one go up to here
PIPELINE_MULTIPLE = 8  # what all pipelines of diffusers ask of a height and a width, in pixels
SHARE_OF_FREE_MEMORY = 0.8  # the estimate leaves out the workspaces of kernels and gaps in the allocator's memory
LARGEST_UNTILED = 1024  # pixels of the longer side: where tiles meet, a trained eye may see it

Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class Plan:
    """How an image is made: `sizes` are (height, width) in pixels, the first from noise, each other from the last."""

    sizes: tuple[Size, ...]
    tiled: bool  # the autoencoder works on one tile of one image at a time
    batch_guidance: bool  # with and without the prompt in one call of the denoiser
    memory: int | None = None  # bytes of a denoising step at the last size, as planned; None where not looked at

    def __str__(self) -> str:
        steps = ", then ".join(f"{width} x {height}" for height, width in self.sizes)
        notes = ["the autoencoder in tiles"] * self.tiled
        notes += ["one sample at a time in the denoiser"] * (not self.batch_guidance)
        notes += [f"about {readable_bytes(self.memory)} a denoising step"] if self.memory else []
        return "; ".join([f"{steps} pixels", *notes])


def plan_generation(
    pipe: DiffusionPipeline,
    height: int,
    width: int,
    *,
    base: Size | None = None,
    largest_upscale: float = 4.0,
    images: int = 1,
    guidance: bool = True,
    batch_guidance: bool | None = None,
) -> Plan:
    """The stages that lead to an image of height x width pixels.

    Args:
        base: (height, width) of the first stage, in pixels. Where not given, the image itself up to 1.5 times the
            model's training size, and beyond it one of the training size's area in the shape of the image.
        largest_upscale: one stage enlarges at most this many times; more stages come between where that is not enough.
        images: how many are generated together.
        guidance: whether classifier-free guidance is on, which doubles the denoiser's batch.
        batch_guidance: whether it may; None decides by memory, beyond the training size.

    Raises:
        ValueError: a size that the pipeline cannot make, naming the argument.
    """
    multiple = size_multiple(pipe)
    for name, size in (("height", height), ("width", width)):
        _check_size(name, size, multiple)
    if largest_upscale <= 1:
        raise ValueError(f"largest_upscale: expected more than 1, got {largest_upscale:g}")
    if base is None:
        base = _base_size(pipe, height, width, multiple)
    else:
        for name, size, limit in (("base_height", base[0], height), ("base_width", base[1], width)):
            _check_size(name, size, multiple)
            if size > limit:
                raise ValueError(f"{name}: expected at most the image's own {limit} pixels, got {size}")
    sizes = _stages(base, (height, width), largest_upscale, multiple)
    for stage in sizes:
        _check_blocks(pipe, *stage)
    memory = None
    if batch_guidance is None:
        batch_guidance, memory = _fit_guidance(pipe, sizes, images) if guidance and len(sizes) > 1 else (True, None)
    return Plan(sizes, max(height, width) > LARGEST_UNTILED, batch_guidance, memory)


def readable_bytes(count: int) -> str:
    """Such as "3.2 GB"."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"


def training_size(pipe: DiffusionPipeline) -> Size:
    """(height, width) in pixels that the denoiser was trained at."""
    size = denoiser_of(pipe).config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return height * pipe.vae_scale_factor, width * pipe.vae_scale_factor


def size_multiple(pipe: DiffusionPipeline) -> int:
    """Heights and widths in pixels must be multiples of this."""
    denoiser = denoiser_of(pipe)
    patch = (
        2
        if isinstance(denoiser, (ChromaTransformer2DModel, FluxTransformer2DModel, QwenImageTransformer2DModel))
        else denoiser.config.get("patch_size") or 1
    )
    return math.lcm(PIPELINE_MULTIPLE, pipe.vae_scale_factor * patch)


def _check_size(name: str, size: int, multiple: int) -> None:
    if size < multiple or size % multiple:
        raise ValueError(f"{name}: expected a multiple of {multiple} pixels, got {size}")


def _check_blocks(pipe: DiffusionPipeline, height: int, width: int) -> None:
    """As `RouteHook` does in the middle of a forward, for the layer with the fewest tokens."""
    smallest = smallest_latents(denoiser_of(pipe)) * pipe.vae_scale_factor
    for name, size in (("height", height), ("width", width)):
        if size < smallest:
            raise ValueError(f"{name}: expected at least {smallest} pixels for this model's ΔConvBlocks, got {size}")


def _base_size(pipe: DiffusionPipeline, height: int, width: int, multiple: int) -> Size:
    area = math.prod(training_size(pipe))
    if height * width <= LARGEST_DIRECT**2 * area:
        return height, width
    return _scaled((height, width), math.sqrt(area / (height * width)), multiple)


def _stages(base: Size, target: Size, largest_upscale: float, multiple: int) -> tuple[Size, ...]:
    """From base to target in equal factors of the area's square root."""
    upscale = math.sqrt(math.prod(target) / math.prod(base))
    if base == target:
        return (target,)
    steps = max(1, math.ceil(math.log(upscale) / math.log(largest_upscale) - 1e-9))
    between = (_scaled(target, upscale ** (step / steps - 1), multiple) for step in range(1, steps))
    return (base, *between, target)


def _scaled(size: Size, factor: float, multiple: int) -> Size:
    height, width = (max(multiple, multiple * round(side * factor / multiple)) for side in size)
    return height, width


def _fit_guidance(pipe: DiffusionPipeline, sizes: tuple[Size, ...], images: int) -> tuple[bool, int]:
    """Whether the doubled batch of guidance fits the memory that is free, and what a step needs then."""
    denoiser = denoiser_of(pipe)
    height, width = (side // pipe.vae_scale_factor for side in sizes[-1])
    needed = denoiser_memory(denoiser, height, width, 2 * images)
    if needed <= SHARE_OF_FREE_MEMORY * free_memory(pipe._execution_device):
        return True, needed
    return False, denoiser_memory(denoiser, height, width)
