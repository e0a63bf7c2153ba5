"""Images of one variant, each from its own seed, so that every variant starts from the same noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import DiffusionPipeline
from tqdm.auto import tqdm

from ..conversion import DeltaConvFusion
from .settings import DemoSettings
from .variants import VARIANTS, Variant

BATCH = 32


def generate_all(
    pipe: DiffusionPipeline,
    fusion: DeltaConvFusion,
    prompts: Sequence[str],
    settings: DemoSettings,
    variants: Sequence[Variant] = VARIANTS,
) -> dict[str, np.ndarray]:
    """Variant key -> uint8 images [N, H, W, 3]; image i shows prompts[i] from seed `settings.seed` + i."""
    images = {}
    with tqdm(total=len(variants) * len(prompts), desc="sample", unit="image") as bar:
        for variant in variants:
            with variant.running(fusion):
                images[variant.key] = _generate(pipe, prompts, settings, bar)
    return images


def _generate(pipe: DiffusionPipeline, prompts: Sequence[str], settings: DemoSettings, bar: tqdm) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    batches = []
    for start in range(0, len(prompts), BATCH):
        batch = list(prompts[start : start + BATCH])
        seeds = range(settings.seed + start, settings.seed + start + len(batch))
        result = pipe(
            batch,
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="np",
        )
        batches.append((result.images * 255).round().astype(np.uint8))
        bar.update(len(batch))
    return np.concatenate(batches)
