"""Images of a pipeline, each from a seed of its own, so that teacher and student start from the same noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ...quiet import quiet
from ..data.encoding import PIXART


@torch.no_grad()
def generate_images(
    pipe: Any,
    prompts: Sequence[str],
    seed: int,
    batch_size: int,
    on_batch: Callable[[int], object] | None = None,
    **options: Any,
) -> np.ndarray:
    """uint8 images [N, H, W, 3]; image i shows prompts[i] from seed + i.

    Args:
        on_batch: told how many images have come, after each batch.
        options: of the pipeline's call, such as num_inference_steps, height and width.
    """
    batches = []
    with quiet(pipe):
        for start in range(0, len(prompts), batch_size):
            part = list(prompts[start : start + batch_size])
            generators = [torch.Generator().manual_seed(seed + start + index) for index in range(len(part))]
            images = pipe(part, generator=generators, output_type="np", **_size_options(pipe), **options).images
            batches.append((images * 255).round().astype(np.uint8))
            if on_batch:
                on_batch(len(part))
    return np.concatenate(batches)


def pixel_difference(images: np.ndarray, others: np.ndarray) -> float:
    """Mean absolute difference of two sets of uint8 images [N, H, W, 3], 0 to 1."""
    return float(np.abs(images.astype(np.int16) - others).mean() / 255)


def _size_options(pipe: Any) -> dict[str, bool]:
    """Options of a pipeline's call that keep it to the size it is asked for; PixArt's would take a bin near it."""
    return {"use_resolution_binning": False} if isinstance(pipe, PIXART) else {}
