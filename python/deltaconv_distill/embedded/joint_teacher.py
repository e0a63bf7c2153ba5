"""The second embedded teacher: a small Stable Diffusion 3 pipeline, trained by flow matching on the same emoji."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusion3Pipeline

JOINT_GUIDANCE_SCALE = 3.0


class PipelineWithoutT5(StableDiffusion3Pipeline):
    """Leaves T5's part of the prompt away. Where there is no T5, diffusers puts 256 zeros in its place, which cost more
    than everything else in a model as small as this, and which it was not trained with."""

    def encode_prompt(self, *args: Any, **options: Any) -> Any:
        return super().encode_prompt(*args, **{**options, "max_sequence_length": 0})


def joint_teacher_path() -> Path:
    """The folder of the embedded pipeline, as `save_pretrained` wrote it (float16 weights)."""
    return Path(__file__).parent / "joint_teacher"


def load_joint_teacher(dtype: torch.dtype = torch.float32) -> StableDiffusion3Pipeline:
    """Loads the second embedded teacher on the CPU with weights of the given dtype.

    32x32 images from 16x16 latents in tokens of 2x2; seven joint attentions of 128 channels at 8x8. Prompts are those
    of `load_teacher`, whose autoencoder and tokenizer it has; tools/teacher/train_joint_teacher.py trained it, and
    TRAINING.json in its folder records how.
    """
    without = {"text_encoder_3": None, "tokenizer_3": None}
    return PipelineWithoutT5.from_pretrained(joint_teacher_path(), torch_dtype=dtype, local_files_only=True, **without)
