"""How the demo's minutes are shared: what comes after the training is measured before it; the rest is for training."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from diffusers import DiffusionPipeline

from ..conversion import DeltaConvFusion
from ..distillation import Batch, DenoisingTask
from ..distillation.data.examples import Examples
from ..distillation.evaluation.held_out_noise import held_out_batches
from ..metrics import effnet_features
from .evaluate import HELD_BATCH
from .precision import computing_in
from .settings import DemoSettings
from .stages import COMPARE, DRAW, PREDICT, TIME_STEPS, WRITE
from .timing import WARM_UP, seconds_of_both
from .variants import TEACHER, VARIANTS

LEAST_SHARE = 0.5
FEW = 32  # examples, or images, that are tried
# What matplotlib's pictures take on one core. Nothing of them is there to be tried before the training.
WRITING_SECONDS = 4.0


def training_seconds(minutes: float, elapsed: float, rest: float) -> float:
    """What `minutes` leave after the seconds gone and those that the rest will take; at least half of them."""
    return max(60 * minutes - elapsed - rest, LEAST_SHARE * 60 * minutes)


@torch.no_grad()
def expected_after_training(
    pipe: DiffusionPipeline, fusion: DeltaConvFusion, examples: Examples, settings: DemoSettings, precision: str
) -> dict[str, float]:
    """Seconds that each part after the training should take, by title, from a few of each thing that it repeats.

    precision: that the images for the distances are computed in.
    """
    task = DenoisingTask(pipe)
    batch = next(held_out_batches(task, examples, settings.seed, FEW, 1))
    prediction = _seconds_of_predictions(task, fusion, batch)
    decoding = len(VARIANTS) * _seconds_of(lambda: pipe.vae.decode(batch.latents)) / FEW
    predictions = settings.num_inference_steps * (2 if settings.guidance_scale > 1 else 1)
    pairs = sum(seconds_of_both(pipe, fusion, size) for size in settings.timing_sizes)
    expected = {
        PREDICT: settings.held_batches * HELD_BATCH * prediction,
        TIME_STEPS: (WARM_UP + settings.timing_repeats) * pairs,
        DRAW: len(settings.prompts) * (predictions * prediction + decoding),
    }
    if settings.distance_samples:
        with computing_in(precision):
            image = predictions * _seconds_of_predictions(task, fusion, batch) + decoding
        features = (len(VARIANTS) + 1) * _seconds_of_features()
        expected[COMPARE] = settings.distance_samples * (image + features)
    return {**expected, WRITE: WRITING_SECONDS}


def _seconds_of_predictions(task: DenoisingTask, fusion: DeltaConvFusion, batch: Batch) -> float:
    """What one prediction of each variant takes for one example, in a batch."""
    with TEACHER.running(fusion):
        task.predict(batch)  # warms up
    seconds = 0.0
    for variant in VARIANTS:
        with variant.running(fusion):
            seconds += _seconds_of(lambda: task.predict(batch))
    return seconds / len(batch)


def _seconds_of_features() -> float:
    """What FD-EffNet takes for one picture."""
    images = np.zeros((FEW, 32, 32, 3), np.uint8)
    return _seconds_of(lambda: effnet_features(images)) / FEW


def _seconds_of(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started
