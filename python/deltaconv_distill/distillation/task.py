"""What the denoiser is asked in training, and the answer that the scheduler's prediction type wants."""

from __future__ import annotations

import torch
from diffusers import DDPMScheduler, DiffusionPipeline

from .stream import Batch

PREDICTION_TYPES = ("epsilon", "v_prediction")


class DenoisingTask:
    """Noise is added, and targets are formed, as the pipeline's scheduler was configured in the teacher's training.

    Raises:
        ValueError: the scheduler's prediction type is neither epsilon nor v_prediction.
    """

    def __init__(self, pipe: DiffusionPipeline) -> None:
        self.denoiser = pipe.unet
        self.scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
        self.prediction_type = self.scheduler.config.prediction_type
        if self.prediction_type not in PREDICTION_TYPES:
            raise ValueError(
                f"pipe.scheduler: expected a prediction_type in {PREDICTION_TYPES}, got {self.prediction_type!r}"
            )

    @property
    def num_timesteps(self) -> int:
        return self.scheduler.config.num_train_timesteps

    def predict(self, batch: Batch) -> torch.Tensor:
        """[B, C, h, w] prediction of the denoiser in its present state (teacher, student or ablated)."""
        noisy = self.scheduler.add_noise(batch.latents, batch.noise, batch.timesteps)
        return self.denoiser(noisy, batch.timesteps, **batch.conditioning, return_dict=False)[0]

    def target(self, batch: Batch) -> torch.Tensor:
        """The noise, or the velocity, that a perfect denoiser would predict."""
        if self.prediction_type == "epsilon":
            return batch.noise
        return self.scheduler.get_velocity(batch.latents, batch.noise, batch.timesteps)
