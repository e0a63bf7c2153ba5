"""Grids of images that show the teacher above the student, same prompts and same noise."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import make_image_grid
from PIL import Image

from ...atomic import atomic_file
from ...conversion import DeltaConvFusion
from ..config import DistillConfig
from ..data.encoding import PIXART

VALIDATION_FOLDER = "validation"


@torch.no_grad()
def draw_pair(pipe: Any, fusion: DeltaConvFusion, config: DistillConfig) -> tuple[list[Image.Image], list[Image.Image]]:
    """The teacher's and the student's image of each validation prompt."""
    shown = dict(getattr(pipe, "_progress_bar_config", {}))
    pipe.set_progress_bar_config(disable=True)
    side = config.validation_resolution
    seeds = range(config.seed, config.seed + len(config.validation_prompts))
    images = []
    for context in (fusion.teacher(), nullcontext()):
        with context:
            images.append(
                pipe(
                    list(config.validation_prompts),
                    num_inference_steps=config.validation_inference_steps,
                    generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                    height=side,
                    width=side,
                    **size_options(pipe),
                ).images
            )
    pipe.set_progress_bar_config(**shown)
    teacher, student = images
    return teacher, student


def size_options(pipe: Any) -> dict[str, bool]:
    """Options of a pipeline's call that keep it to the size it is asked for; PixArt's would take a bin near it."""
    return {"use_resolution_binning": False} if isinstance(pipe, PIXART) else {}


def save_grid(teacher: list[Image.Image], student: list[Image.Image], folder: Path, step: int) -> Path:
    """`folder/validation/step-{step}.png`: the teacher's row above the student's."""
    path = folder / VALIDATION_FOLDER / f"step-{step:06}.png"
    with atomic_file(path) as file:
        make_image_grid([*teacher, *student], rows=2, cols=len(teacher)).save(file, format="PNG")
    return path


def difference(teacher: list[Image.Image], student: list[Image.Image]) -> float:
    """Mean absolute difference of pixels, 0 to 1."""
    ours, theirs = (np.stack([np.asarray(image, np.float32) for image in images]) for images in (student, teacher))
    return float(np.abs(ours - theirs).mean() / 255)


def can_generate(pipe: DiffusionPipeline) -> bool:
    """Whether the pipeline has what turns latents into images."""
    return getattr(pipe, "vae", None) is not None
