"""The noise that a teacher was trained with, read from the scheduler that its pipeline samples with."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from torch import Tensor

PREDICTION_TYPES = ("epsilon", "v_prediction")
# What defines the noise in training. Everything else in a scheduler's config is about sampling.
TRAINING_SETTINGS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
)
# Some samplers replace the last, vanishing value by 2**-24 (6e-8), which this lets pass.
ALPHA_TOLERANCE = 1e-6


class Diffusion:
    """The noise of a teacher that was trained with a schedule of betas.

    Raises:
        ValueError: as `training_schedule`.
    """

    times = None  # all timesteps alike

    def __init__(self, scheduler: Any, prediction_type: str | None = None) -> None:
        self.schedule = training_schedule(scheduler, prediction_type)
        self.prediction_type: str = self.schedule.config.prediction_type
        self.num_timesteps: int = self.schedule.config.num_train_timesteps

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return self.schedule.add_noise(latents, noise, timesteps)

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The noise, or the velocity, by the prediction type."""
        return noise if self.prediction_type == "epsilon" else self.schedule.get_velocity(latents, noise, timesteps)

    def snr_weights(self, timesteps: Tensor, gamma: float) -> Tensor:
        """[B] weights min(SNR, γ) / SNR for epsilon, min(SNR, γ) / (SNR + 1) for velocities (arXiv 2303.09556).

        Where the SNR is zero, at the last step of a schedule rescaled to zero terminal SNR, the first is its limit, 1.
        """
        snr = compute_snr(self.schedule, timesteps)
        if self.prediction_type == "epsilon":
            return (gamma / snr).clamp(max=1)
        return snr.clamp(max=gamma) / (snr + 1)


def training_schedule(scheduler: Any, prediction_type: str | None = None) -> DDPMScheduler:
    """The DDPM schedule with the betas of a pipeline's `scheduler`.

    The values are taken as they stand in its config: `DDPMScheduler.from_config` would drop every value that is a
    default of the other class, such as `LCMScheduler`'s betas, in favour of DDPM's own defaults.

    Args:
        prediction_type: what the teacher predicts, where the scheduler's config does not say it.

    Raises:
        ValueError: the scheduler has no betas (EDM, flow matching), other alphas than its betas give, or a prediction
            type that is neither epsilon nor v_prediction.
    """
    config = scheduler.config
    _refuse_other_families(scheduler)
    prediction = prediction_type or config.get("prediction_type", "epsilon")
    if prediction not in PREDICTION_TYPES:
        raise ValueError(f"pipe.scheduler: expected a prediction_type in {PREDICTION_TYPES}, got {prediction!r}")
    settings = {name: config[name] for name in TRAINING_SETTINGS if name in config}
    schedule = DDPMScheduler(**settings, prediction_type=prediction)
    ours, theirs = schedule.alphas_cumprod, torch.as_tensor(scheduler.alphas_cumprod).float().cpu()
    if theirs.shape != ours.shape or not torch.allclose(ours, theirs, rtol=0, atol=ALPHA_TOLERANCE):
        raise ValueError(
            f"pipe.scheduler: the alphas of this {type(scheduler).__name__} are not those of its configured betas, "
            "so the noise that the teacher was trained with is not known"
        )
    return schedule


def _refuse_other_families(scheduler: Any) -> None:
    """EDM's and flow matching's schedulers have sigmas, and inputs scaled in other ways, in place of betas."""
    flow = scheduler.config.get("use_flow_sigmas", False)
    if flow or not hasattr(scheduler, "alphas_cumprod") or "beta_schedule" not in scheduler.config:
        kind = type(scheduler).__name__ + (" with use_flow_sigmas" if flow else "")
        raise ValueError(
            "pipe.scheduler: expected a scheduler with betas (DDPM, DDIM, Euler, DPM-Solver, …), whose noise a DDPM "
            f"schedule reproduces; got {kind}"
        )
