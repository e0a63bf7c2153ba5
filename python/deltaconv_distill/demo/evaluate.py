"""How well each variant predicts noise, and how far its images are from real ones and from the teacher's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline

from ..conversion import DeltaConvFusion
from ..distillation import DenoisingTask
from ..distillation.data.examples import Examples
from ..distillation.evaluation.generated_images import pixel_difference
from ..distillation.evaluation.held_out_noise import held_out_batches
from ..metrics import effnet_features, frechet_distance
from .settings import DemoSettings
from .variants import TEACHER, VARIANTS

HELD_BATCH = 64


@dataclass(frozen=True)
class PredictionError:
    """Mean squared errors over the held examples, against the scheduler's target and the teacher's prediction."""

    noise_mse: float
    teacher_mse: float


@torch.no_grad()
def prediction_errors(
    pipe: DiffusionPipeline, fusion: DeltaConvFusion, examples: Examples, settings: DemoSettings
) -> dict[str, PredictionError]:
    """Variant key -> errors with noise and timesteps that training never drew; captions are never dropped."""
    task = DenoisingTask(pipe)
    sums: dict[str, list[tuple[float, float]]] = {variant.key: [] for variant in VARIANTS}
    for batch in held_out_batches(task, examples, settings.seed, HELD_BATCH, settings.held_batches):
        target = task.target(batch)
        predictions = {}
        for variant in VARIANTS:
            with variant.running(fusion):
                predictions[variant.key] = task.predict(batch)
        for key, prediction in predictions.items():
            errors = F.mse_loss(prediction, target), F.mse_loss(prediction, predictions[TEACHER.key])
            sums[key].append((errors[0].item(), errors[1].item()))
    return {key: PredictionError(*(float(column) for column in np.mean(rows, axis=0))) for key, rows in sums.items()}


def image_distances(samples: Mapping[str, np.ndarray], real: np.ndarray) -> dict[str, dict[str, float]]:
    """Variant key -> Fréchet distances (FD-EffNet) to real images and to the teacher's, and mean pixel difference.

    Args:
        samples: variant key -> uint8 [N, H, W, 3], the same prompts and seeds in each.
        real: uint8 [N, H, W, 3], the images that have these prompts as captions.
    """
    features = {key: effnet_features(images) for key, images in samples.items()}
    real_features = effnet_features(real)
    return {
        key: {
            "fd_real": frechet_distance(features[key], real_features),
            "fd_teacher": frechet_distance(features[key], features[TEACHER.key]),
            "pixel_difference": pixel_difference(images, samples[TEACHER.key]),
        }
        for key, images in samples.items()
    }


def spread(length: int, count: int) -> list[int]:
    """At most `count` indices at even distances through a sequence of `length`."""
    count = min(count, length)
    return [index * length // count for index in range(count)]
