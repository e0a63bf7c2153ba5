"""Grids of images that show the teacher above the student, same prompts and same noise."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from diffusers import DiffusionPipeline
from diffusers.utils import make_image_grid
from PIL import Image

from ...atomic import atomic_file
from ...conversion import DeltaConvFusion
from ..config import DistillConfig
from ..evaluation.generated_images import generate_images

VALIDATION_FOLDER = "validation"


def draw_pair(pipe: Any, fusion: DeltaConvFusion, config: DistillConfig) -> tuple[np.ndarray, np.ndarray]:
    """The teacher's and the student's image of each validation prompt, uint8 [N, H, W, 3] each."""
    prompts, side = config.validation_prompts, config.validation_resolution
    steps = config.validation_inference_steps
    pair = []
    for context in (fusion.teacher(), nullcontext()):
        with context:
            pair.append(
                generate_images(
                    pipe, prompts, config.seed, len(prompts), num_inference_steps=steps, height=side, width=side
                )
            )
    teacher, student = pair
    return teacher, student


def save_grid(teacher: np.ndarray, student: np.ndarray, folder: Path, step: int) -> Path:
    """`folder/validation/step-{step}.png`: the teacher's row above the student's."""
    path = folder / VALIDATION_FOLDER / f"step-{step:06}.png"
    images = [Image.fromarray(image) for image in (*teacher, *student)]
    with atomic_file(path) as file:
        make_image_grid(images, rows=2, cols=len(teacher)).save(file, format="PNG")
    return path


def can_generate(pipe: DiffusionPipeline) -> bool:
    """Whether the pipeline has what turns latents into images."""
    return getattr(pipe, "vae", None) is not None
