"""What the denoiser is asked in training, and the answer that a perfect one would give."""

from __future__ import annotations

from typing import Any

from diffusers import DiffusionPipeline, UNet2DConditionModel
from torch import Tensor

from ..conversion.sites import denoiser_of
from .config import DistillConfig
from .data.batches import Batch
from .denoiser_calls import DIFFUSION, FLOW_MATCHING, token_side
from .flow_matching import FlowMatching, FlowTimes, TimeDensity
from .noise_schedule import Diffusion

PLAIN_TEXT = (None, "ip_image_proj")  # encoder_hid_dim_type of Stable Diffusion's UNets, and with IP-Adapters
DEFAULT_GUIDANCE = 3.5  # what FLUX.1-dev's pipeline tells it, unless asked for another


class DenoisingTask:
    """Noise is added, and targets are formed, as the teacher was trained: by diffusion, or by flow matching.

    Args:
        pipe: a Stable Diffusion, SDXL, PixArt, Stable Diffusion 3 or FLUX.1 pipeline.
        prediction_type: of diffusion, where the scheduler's config does not say what the teacher predicts.
        density: of flow matching, how often each time is trained on.
        timestep_shift: of flow matching, in place of the scheduler's.
        guidance_scale: what a guidance-distilled teacher (FLUX.1-dev) is told.

    Raises:
        TypeError: the pipeline has another kind of denoiser, or one that projects its text.
        ValueError: the scheduler is of another family than the denoiser, has a prediction type that is neither epsilon
            nor v_prediction, or an argument is for another kind of teacher.
    """

    def __init__(
        self,
        pipe: DiffusionPipeline,
        prediction_type: str | None = None,
        density: TimeDensity | None = None,
        timestep_shift: float | None = None,
        guidance_scale: float | None = None,
    ) -> None:
        denoiser = denoiser_of(pipe)
        calls = {**DIFFUSION, **FLOW_MATCHING}
        kind = next((kind for kind in calls if isinstance(denoiser, kind)), None)
        if kind is None:
            *others, last = (kind.__name__ for kind in calls)
            names = f"{', '.join(others)} or {last}"
            raise TypeError(f"pipe: expected one with a {names} to train blocks for, got a {type(denoiser).__name__}")
        text = denoiser.config.get("encoder_hid_dim_type")
        if text not in PLAIN_TEXT:
            raise TypeError(
                f"pipe: expected a {kind.__name__} that gets its text as it is to train blocks for, got one with "
                f"encoder_hid_dim_type={text!r} (Kandinsky, DeepFloyd IF)"
            )
        self._call = calls[kind]
        owner: Any = pipe
        # its compiled form, if it has one
        self.denoiser: Any = owner.unet if kind is UNet2DConditionModel else owner.transformer
        self.noising: Diffusion | FlowMatching
        if kind in FLOW_MATCHING:
            _refuse(kind.__name__, "is trained by flow matching", prediction_type=prediction_type)
            self.noising = FlowMatching(owner.scheduler, token_side(denoiser), density, timestep_shift)
        else:
            _refuse(kind.__name__, "has no flow matching", weighting_scheme=density, timestep_shift=timestep_shift)
            self.noising = Diffusion(owner.scheduler, prediction_type)
        takes_guidance = bool(denoiser.config.get("guidance_embeds", False))
        if not takes_guidance:
            _refuse(kind.__name__, "is not told any guidance", guidance_scale=guidance_scale)
        self._guidance = (guidance_scale or DEFAULT_GUIDANCE) if takes_guidance else None

    @classmethod
    def configured(cls, pipe: DiffusionPipeline, config: DistillConfig) -> DenoisingTask:
        """The task of a run.

        Raises:
            TypeError, ValueError: as the class, and for `snr_gamma` with flow matching.
        """
        task = cls(pipe, config.prediction_type, config.time_density, config.timestep_shift, config.guidance_scale)
        if isinstance(task.noising, FlowMatching):
            _refuse(type(task.denoiser).__name__, "weighs its times by weighting_scheme", snr_gamma=config.snr_gamma)
        return task

    @property
    def prediction_type(self) -> str:
        """epsilon, v_prediction, or of flow matching velocity."""
        return self.noising.prediction_type

    @property
    def num_timesteps(self) -> int:
        return self.noising.num_timesteps

    @property
    def flow_times(self) -> FlowTimes | None:
        """Where timesteps come from; None: from 0 to num_timesteps - 1, all alike."""
        return self.noising.times

    def predict(self, batch: Batch) -> Tensor:
        """[B, C, h, w] prediction of the denoiser in its present state (teacher, student or ablated)."""
        noisy = self.noising.add_noise(batch.latents, batch.noise, batch.timesteps)
        return self._call(self.denoiser, noisy, batch.timesteps, batch.conditioning, self._guidance)

    def target(self, batch: Batch) -> Tensor:
        """The noise, or the velocity, that a perfect denoiser would predict."""
        return self.noising.target(batch.latents, batch.noise, batch.timesteps)

    def snr_weights(self, timesteps: Tensor, gamma: float) -> Tensor:
        """[B] weights of the prediction losses, as `Diffusion.snr_weights` has them.

        Raises:
            ValueError: the teacher is one of flow matching.
        """
        if isinstance(self.noising, FlowMatching):
            raise ValueError(f"snr_gamma: expected None for a teacher of flow matching, got {gamma}")
        return self.noising.snr_weights(timesteps, gamma)


def _refuse(kind: str, reason: str, **given: object) -> None:
    """Raises ValueError where one of these arguments is given."""
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"{name}: expected None, because a {kind} {reason}; got {value!r}")
