"""Loading what `--model`, `--pretrained_teacher_model` and `--fusion` name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import UserError

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

    from ..conversion import DeltaConvFusion

EMBEDDED = "embedded"
DTYPES = ("float32", "bfloat16", "float16")


def load_pipeline(name: str, flag: str, dtype: torch.dtype | None = None) -> DiffusionPipeline:
    """A pipeline directory, a hub id, or "embedded", in float32 unless another type is given.

    Raises:
        UserError: `name` does not lead to a pipeline.
    """
    import torch
    from diffusers import DiffusionPipeline

    if name == EMBEDDED:
        from ..embedded import load_teacher

        return load_teacher(dtype or torch.float32)
    expected = f"{flag}: expected {EMBEDDED!r}, a folder with a diffusers pipeline, or a hub id, got {name!r}"
    if not _is_folder_or_hub_id(name):
        raise UserError(expected)
    try:
        return DiffusionPipeline.from_pretrained(name, dtype=dtype or torch.float32)
    except (OSError, ValueError) as error:
        raise UserError(f"{expected} ({_first_line(error)})") from error


def attach_fusion(pipe: DiffusionPipeline, path: str) -> DeltaConvFusion:
    """Put the blocks of a saved fusion into the pipeline, and return the fusion.

    Raises:
        UserError: `path` holds no fusion, or one of another model.
    """
    from ..conversion import DeltaConvFusion

    if not _is_folder_or_hub_id(path):
        raise UserError(f"--fusion: expected a saved fusion's folder or a hub id, got {path!r}")
    try:
        return DeltaConvFusion.from_pretrained(path).attach(pipe)
    except (OSError, ValueError) as error:
        raise UserError(f"--fusion: {path!r} cannot be used with this model ({_first_line(error)})") from error


def _is_folder_or_hub_id(name: str) -> bool:
    """Told apart here, because the hub's client asks the network, at length, about a folder that is not there."""
    return Path(name).is_dir() or re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) is not None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
