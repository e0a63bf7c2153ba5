"""Flow matching: how noise is mixed in, at which times a teacher was trained, and the velocity that it predicts.

At time t a picture is (1 - t) latents + t noise, 0 <= t <= 1, and the denoiser predicts its velocity, noise - latents
(arXiv 2209.03003, 2403.03206). Denoisers are told t as a timestep, t times the scheduler's number of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.training_utils import compute_density_for_timestep_sampling
from torch import Tensor

# Densities of t, by the names that diffusers' training scripts have for them.
LOGIT_NORMAL, MODE, UNIFORM = "logit_normal", "mode", "none"
WEIGHTING_SCHEMES = (LOGIT_NORMAL, MODE, UNIFORM)
# The scales for which f_mode (arXiv 2403.03206, equation 20) goes through every t once.
MODE_SCALES = (-1.0, 2 / (math.pi - 2))

# Some samplers have what FlowMatchEulerDiscreteScheduler calls `shift` under this name.
SHIFT_NAMES = ("shift", "flow_shift")


@dataclass(frozen=True)
class TimeDensity:
    """How often each t is trained on, before the shift.

    logit_normal: logit(t) is normal with this mean and deviation; a mean above 0 favours noisy pictures.
    mode: t = 1 - u - mode_scale (cos²(πu/2) - 1 + u) of a uniform u; a scale above 0 favours the middle.
    none: uniform.
    """

    scheme: str = LOGIT_NORMAL
    logit_mean: float = 0.0
    logit_std: float = 1.0
    mode_scale: float = 1.29

    def draw(self, generator: torch.Generator) -> Tensor:
        """One t, a scalar in float32."""
        return compute_density_for_timestep_sampling(
            self.scheme, 1, self.logit_mean, self.logit_std, self.mode_scale, generator=generator
        )[0]


@dataclass(frozen=True)
class TimeShift:
    """Large pictures need more noise for the same loss of what they show: t becomes s t / (1 + (s - 1) t).

    constant: s where it does not depend on the size.
    tokens, exponents: where it does: between these two numbers of image tokens, and beyond, a straight line through
        these two values of log s, or of s itself where `linear`.
    """

    constant: float | None = 1.0
    tokens: tuple[int, int] = (256, 4096)
    exponents: tuple[float, float] = (0.5, 1.15)
    linear: bool = False

    def factor(self, image_tokens: int) -> float:
        """s for pictures of so many tokens."""
        if self.constant is not None:
            return self.constant
        (fewest, most), (low, high) = self.tokens, self.exponents
        exponent = low + (high - low) * (image_tokens - fewest) / (most - fewest)
        return exponent if self.linear else math.exp(exponent)

    def __call__(self, time: Tensor, image_tokens: int) -> Tensor:
        factor = self.factor(image_tokens)
        return factor * time / (1 + (factor - 1) * time)


@dataclass(frozen=True)
class FlowTimes:
    """Draws timesteps. `patch`: latent pixels along each side of an image token."""

    num_timesteps: int
    patch: int
    density: TimeDensity
    shift: TimeShift

    def draw(self, generator: torch.Generator, height: int, width: int) -> Tensor:
        """One timestep for latents of this size, a scalar in float32."""
        tokens = (height // self.patch) * (width // self.patch)
        return self.num_timesteps * self.shift(self.density.draw(generator), tokens)


class FlowMatching:
    """The noise of a teacher that was trained with flow matching.

    Args:
        scheduler: of the pipeline.
        patch: latent pixels along each side of an image token.
        density: how often each time is trained on.
        timestep_shift: in place of what the scheduler's config says.

    Raises:
        ValueError: the scheduler is not one of flow matching.
    """

    prediction_type = "velocity"

    def __init__(
        self, scheduler: Any, patch: int, density: TimeDensity | None = None, timestep_shift: float | None = None
    ) -> None:
        shift = configured_shift(scheduler) if timestep_shift is None else TimeShift(timestep_shift)
        self.num_timesteps: int = scheduler.config.num_train_timesteps
        self.times: FlowTimes | None = FlowTimes(self.num_timesteps, patch, density or TimeDensity(), shift)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        time = (timesteps / self.num_timesteps).to(latents.dtype).view(-1, *[1] * (latents.ndim - 1))
        return (1 - time) * latents + time * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The velocity, which is the same at all times."""
        return noise - latents


def configured_shift(scheduler: Any) -> TimeShift:
    """What a scheduler of flow matching does to its times, from its config.

    Raises:
        ValueError: it is not one of flow matching.
    """
    config = scheduler.config
    named = [config[name] for name in SHIFT_NAMES if name in config]
    is_flow = "FlowMatch" in type(scheduler).__name__ or config.get("use_flow_sigmas", False)
    if not is_flow or not named:
        raise ValueError(
            "pipe.scheduler: expected one of flow matching (FlowMatchEulerDiscreteScheduler, …), which this pipeline's "
            f"denoiser was trained with; got {type(scheduler).__name__}"
        )
    if not config.get("use_dynamic_shifting", False):
        return TimeShift(float(named[0]))
    return TimeShift(
        None,
        (config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)),
        (config.get("base_shift", 0.5), config.get("max_shift", 1.15)),
        linear=config.get("time_shift_type", "exponential") == "linear",
    )
