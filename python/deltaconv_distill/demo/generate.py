"""Images of every variant of the demo."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from diffusers import DiffusionPipeline
from tqdm.auto import tqdm

from ..conversion import DeltaConvFusion
from ..distillation.evaluation.generated_images import generate_images
from .precision import computing_in
from .settings import DemoSettings
from .variants import VARIANTS, Variant

BATCH = 32


def generate_all(
    pipe: DiffusionPipeline,
    fusion: DeltaConvFusion,
    prompts: Sequence[str],
    settings: DemoSettings,
    variants: Sequence[Variant] = VARIANTS,
    precision: str = "no",
) -> dict[str, np.ndarray]:
    """Variant key -> uint8 images [N, H, W, 3]; image i shows prompts[i] from seed `settings.seed` + i.

    precision: "no" for float32, or "bf16".
    """
    images = {}
    with tqdm(total=len(variants) * len(prompts), desc="sample", unit="image") as bar:
        for variant in variants:
            with variant.running(fusion), computing_in(precision):
                images[variant.key] = generate_images(
                    pipe,
                    prompts,
                    settings.seed,
                    BATCH,
                    bar.update,
                    num_inference_steps=settings.num_inference_steps,
                    guidance_scale=settings.guidance_scale,
                )
    return images
