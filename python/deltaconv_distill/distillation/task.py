"""What the denoiser is asked in training, and the answer that the scheduler's prediction type wants."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DiffusionPipeline, PixArtTransformer2DModel, UNet2DConditionModel
from diffusers.training_utils import compute_snr

from ..conversion.sites import denoiser_of
from .data.batches import Batch
from .noise_schedule import training_schedule

# Conditioning that denoisers take inside `added_cond_kwargs`: of SDXL, then of PixArt-α.
SDXL_CONDITIONS = ("text_embeds", "time_ids")
PIXART_CONDITIONS = ("resolution", "aspect_ratio")

TRAINABLE = (UNet2DConditionModel, PixArtTransformer2DModel)


class DenoisingTask:
    """Noise is added, and targets are formed, as the pipeline's scheduler was configured in the teacher's training.

    Args:
        pipe: a Stable Diffusion, SDXL or PixArt pipeline.
        prediction_type: what the teacher predicts, where the scheduler's config does not say it.

    Raises:
        TypeError: the pipeline has another kind of denoiser.
        ValueError: the scheduler is of a family without betas, or the prediction type neither epsilon nor v_prediction.
    """

    def __init__(self, pipe: DiffusionPipeline, prediction_type: str | None = None) -> None:
        denoiser = denoiser_of(pipe)
        if not isinstance(denoiser, TRAINABLE):
            names = " or ".join(kind.__name__ for kind in TRAINABLE)
            raise TypeError(f"pipe: expected one with a {names} to train blocks for, got a {type(denoiser).__name__}")
        self._is_pixart = isinstance(denoiser, PixArtTransformer2DModel)
        self.denoiser: Any = pipe.transformer if self._is_pixart else pipe.unet  # its compiled form, if it has one
        self.scheduler = training_schedule(pipe.scheduler, prediction_type)
        self.prediction_type = self.scheduler.config.prediction_type

    @property
    def num_timesteps(self) -> int:
        return self.scheduler.config.num_train_timesteps

    def predict(self, batch: Batch) -> torch.Tensor:
        """[B, C, h, w] prediction of the denoiser in its present state (teacher, student or ablated)."""
        noisy = self.scheduler.add_noise(batch.latents, batch.noise, batch.timesteps)
        names = PIXART_CONDITIONS if self._is_pixart else SDXL_CONDITIONS
        conditioning: dict[str, Any] = {name: value for name, value in batch.conditioning.items() if name not in names}
        added = {name: batch.conditioning.get(name) for name in names}
        if self._is_pixart or any(value is not None for value in added.values()):
            conditioning["added_cond_kwargs"] = added
        prediction = self.denoiser(noisy, timestep=batch.timesteps, **conditioning, return_dict=False)[0]
        # a denoiser that has learned the variance predicts it in further channels
        return prediction[:, : noisy.shape[1]]

    def target(self, batch: Batch) -> torch.Tensor:
        """The noise, or the velocity, that a perfect denoiser would predict."""
        if self.prediction_type == "epsilon":
            return batch.noise
        return self.scheduler.get_velocity(batch.latents, batch.noise, batch.timesteps)

    def snr_weights(self, timesteps: torch.Tensor, gamma: float) -> torch.Tensor:
        """[B] weights min(SNR, γ) / SNR for epsilon, min(SNR, γ) / (SNR + 1) for velocities (arXiv 2303.09556).

        Where the SNR is zero, at the last step of a schedule rescaled to zero terminal SNR, the first is its limit, 1.
        """
        snr = compute_snr(self.scheduler, timesteps)
        if self.prediction_type == "epsilon":
            return (gamma / snr).clamp(max=1)
        return snr.clamp(max=gamma) / (snr + 1)
