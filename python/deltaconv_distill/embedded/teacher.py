"""The embedded teacher: a small Stable-Diffusion-shaped pipeline that draws emoji from their names."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

# Prompts that the teacher draws recognisably, with the settings it draws them best with.
DEMO_PROMPTS = (
    "strawberry", "red apple", "penguin", "rainbow", "sunflower", "octopus", "hamburger", "ghost",
    "tiger face", "guitar", "bus", "butterfly", "rocket", "frog face", "watermelon", "crown",
)  # fmt: skip
GUIDANCE_SCALE = 3.0
STEPS = 20


def teacher_path() -> Path:
    """The folder of the embedded pipeline, as `save_pretrained` wrote it (float16 weights)."""
    return Path(__file__).parent / "teacher"


def load_teacher(dtype: torch.dtype = torch.float32) -> StableDiffusionPipeline:
    """Loads the embedded teacher on the CPU with weights of the given dtype.

    32x32 images from 16x16 latents; self-attention at 16x16 (64 channels) and 8x8 (128 channels).
    Trained by tools/train_teacher.py on load_emoji(pictorial_only=True); the record is TRAINING.json in its folder.
    """
    return StableDiffusionPipeline.from_pretrained(teacher_path(), torch_dtype=dtype, local_files_only=True)
