"""The embedded teacher: a small Stable-Diffusion-shaped pipeline that draws emoji from their names."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

# Prompts that the teacher draws recognisably, with the settings it draws them best with; a prompt may come twice, for
# two seeds. The first eight are kinds, which leave open what is drawn: samples of these need self-attention most.
DEMO_PROMPTS = (
    "animal face", "fruit", "bird", "vehicle", "fruit", "animal face", "flower", "vehicle",
    "strawberry", "penguin", "rocket", "heart", "tiger face", "sunflower", "hamburger", "guitar",
)  # fmt: skip
GUIDANCE_SCALE = 2.5
STEPS = 20


def teacher_path() -> Path:
    """The folder of the embedded pipeline, as `save_pretrained` wrote it (float16 weights)."""
    return Path(__file__).parent / "teacher"


def load_teacher(dtype: torch.dtype = torch.float32) -> StableDiffusionPipeline:
    """Loads the embedded teacher on the CPU with weights of the given dtype.

    32x32 images from 16x16 latents; self-attention at 16x16 (64 channels) and 8x8 (128 channels).
    Prompts are captions and kinds of load_emoji(pictorial_only=True), on which tools/teacher/train_teacher.py trained
    it: names it has learnt by heart, kinds ("fruit") give new pictures. TRAINING.json in its folder records the
    training.
    """
    return StableDiffusionPipeline.from_pretrained(teacher_path(), torch_dtype=dtype, local_files_only=True)
