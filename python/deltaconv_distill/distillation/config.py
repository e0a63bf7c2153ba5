"""Every setting of a distillation run, under the names that diffusers' training scripts use."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from .flow_matching import LOGIT_NORMAL, MODE, MODE_SCALES, WEIGHTING_SCHEMES, TimeDensity
from .noise_schedule import PREDICTION_TYPES
from .training.losses import LossWeights
from .training.schedules import WeightSchedule

MIXED_PRECISIONS = ("no", "fp16", "bf16")
TRACKERS = ("tensorboard", "wandb")
ALL_TRACKERS = "all"  # those of them that are installed
# Those of diffusers.optimization that need no further settings.
LR_SCHEDULERS = ("constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial")


def setting(default: Any, help: str) -> Any:
    """A dataclass field that carries its own help line; the command line is made from these."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class DistillConfig:
    """Settings of `Distiller`; the defaults are the paper's recipe.

    Raises:
        ValueError: a setting is out of its range; the message names it.
    """

    output_dir: str | None = setting(
        None, "where checkpoints, metrics and the final fusion go; nothing is written without it"
    )
    overwrite_output_dir: bool = setting(
        False, "remove what another run, or the later part of the resumed one, left in output_dir"
    )
    seed: int = setting(0, "fixes noise, timesteps, caption dropout and the order of examples")
    train_batch_size: int = setting(16, "examples in one forward of one process")
    gradient_accumulation_steps: int = setting(1, "forwards whose gradients are averaged into one optimizer step")
    max_train_steps: int = setting(60_000, "stop after this many optimizer steps")
    max_train_seconds: float | None = setting(
        None, "stop after this many seconds of training, whichever limit comes first"
    )
    learning_rate: float = setting(3e-4, "AdamW's learning rate after warm-up")
    adam_beta1: float = setting(0.9, "AdamW's beta1")
    adam_beta2: float = setting(0.99, "AdamW's beta2")
    adam_weight_decay: float = setting(0.03, "AdamW's weight decay")
    adam_epsilon: float = setting(1e-8, "AdamW's epsilon")
    use_8bit_adam: bool = setting(False, "keep AdamW's moments in 8 bits; needs bitsandbytes")
    max_grad_norm: float = setting(1.0, "clip the gradient's norm to this")
    lr_scheduler: str = setting("constant_with_warmup", f"the learning rate's schedule: {', '.join(LR_SCHEDULERS)}")
    lr_warmup_steps: int = setting(500, "steps over which the learning rate rises from 0")
    lr_num_cycles: int = setting(1, "restarts of lr_scheduler cosine_with_restarts")
    lr_power: float = setting(1.0, "exponent of lr_scheduler polynomial")
    w_noise: float = setting(1.0, "weight of MSE(student, true noise or velocity)")
    w_kd: float = setting(1.0, "weight of MSE(student, teacher)")
    w_feat: float = setting(0.001, "weight of the summed MSE of hidden states after each replaced self-attention")
    w_noise_schedule: str | None = setting(
        None, "w_noise by step, as step:value,step:value with straight lines between; instead of w_noise"
    )
    w_kd_schedule: str | None = setting(None, "as w_noise_schedule, for w_kd")
    w_feat_schedule: str | None = setting(None, "as w_noise_schedule, for w_feat")
    snr_gamma: float | None = setting(
        None, "weigh the prediction losses by min(SNR, snr_gamma) (arXiv 2303.09556; 5.0 there); unset: all alike"
    )
    prediction_type: str | None = setting(None, "epsilon or v_prediction; unset: what the scheduler's config says")
    weighting_scheme: str | None = setting(
        None,
        "of flow matching, how often each time is trained on: logit_normal, mode, or none for all alike; unset: "
        "logit_normal",
    )
    logit_mean: float | None = setting(
        None, "of logit_normal; above 0 favours noisy pictures (arXiv 2403.03206); unset: 0"
    )
    logit_std: float | None = setting(None, "of logit_normal; unset: 1")
    mode_scale: float | None = setting(None, "of mode; above 0 favours the middle; unset: 1.29")
    timestep_shift: float | None = setting(
        None,
        "of flow matching, move times towards noise, t to s t / (1 + (s - 1) t), by this s; unset: the scheduler's, "
        "which may depend on the size",
    )
    guidance_scale: float | None = setting(
        None, "what a guidance-distilled teacher (FLUX.1-dev) is told in all passes; unset: 3.5"
    )
    fit_batches: int = setting(0, "before step 1, fit the blocks' output projections on this many batches")
    stage1_steps: int = setting(0, "first steps in which every block learns its own attention's output, layer by layer")
    stage1_repeats: int = setting(
        1, "layer-local steps on each of the teacher's passes; above 1 it keeps stage1_steps / stage1_repeats of them"
    )
    stage1_learning_rate: float | None = setting(None, "learning rate of the layer-local steps; unset: learning_rate")
    proportion_empty_prompts: float = setting(0.15, "share of captions replaced by the empty one")
    random_flip: bool = setting(False, "mirror half of the pictures; needs images that are encoded on the fly")
    noise_offset: float = setting(0.0, "add this times one normal number a channel to the noise; 0: none")
    mixed_precision: str = setting("no", "no, fp16 (with loss scaling) or bf16: the autocast dtype of the passes")
    teacher_precision: str | None = setting(
        None, "no, fp16 or bf16: the teacher's passes in another precision than mixed_precision"
    )
    frozen_precision: str = setting(
        "no", "fp16 or bf16 stores all frozen weights so, in half the memory; needs the same mixed_precision"
    )
    gradient_checkpointing: bool = setting(False, "recompute activations in the backward pass: less memory, more time")
    allow_tf32: bool = setting(False, "let float32 matrix products use TensorFloat-32 on NVIDIA GPUs")
    use_ema: bool = setting(False, "keep an exponential moving average of the blocks and finish with it")
    ema_decay: float = setting(0.9995, "decay of the average once warmed up")
    offload_ema: bool = setting(False, "keep the average in the CPU's memory between steps")
    dataloader_num_workers: int = setting(
        0, "threads that decode images ahead, or for shards worker processes, per process"
    )
    checkpointing_steps: int = setting(500, "write a checkpoint every this many steps")
    checkpoints_total_limit: int | None = setting(None, "keep only this many newest checkpoints")
    resume_from_checkpoint: str | None = setting(None, "a checkpoint directory, or latest")
    max_skipped_steps: int = setting(20, "give up after this many non-finite steps in a row")
    report_to: str | None = setting(None, "tracker: tensorboard, wandb, or all of these that are installed")
    tracker_project_name: str = setting("deltaconv-distill", "the project's name in the tracker")
    validation_prompts: tuple[str, ...] = setting((), "prompts of the grids that compare teacher and student")
    validation_steps: int = setting(1000, "draw a validation grid every this many steps")
    validation_inference_steps: int = setting(20, "denoising steps of the images in the grid")
    validation_resolution: int | None = setting(None, "side of the images in the grid; unset: the model's own")

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            self._require(name, not isinstance(value, float) or math.isfinite(value), "a finite number")
        for name in AT_LEAST_ONE:
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("learning_rate", "max_grad_norm", "adam_epsilon", "lr_power"):
            self._require(name, getattr(self, name) > 0, "a positive number")
        for name in NOT_NEGATIVE:
            self._require(name, getattr(self, name) >= 0, "0 or more")
        for name in ("adam_beta1", "adam_beta2", "ema_decay"):
            self._require(name, 0 <= getattr(self, name) < 1, "a number in [0, 1)")
        for name in POSITIVE_OR_NONE:
            self._require(name, getattr(self, name) is None or getattr(self, name) > 0, "a positive number or None")
        self._require("proportion_empty_prompts", 0 <= self.proportion_empty_prompts <= 1, "a number in [0, 1]")
        self._require_one_of("mixed_precision", MIXED_PRECISIONS)
        self._require_one_of("teacher_precision", (None, *MIXED_PRECISIONS))
        self._require_one_of("frozen_precision", MIXED_PRECISIONS)
        self._require_one_of("lr_scheduler", LR_SCHEDULERS)
        self._require_one_of("prediction_type", (None, *PREDICTION_TYPES))
        self._require_one_of("weighting_scheme", (None, *WEIGHTING_SCHEMES))
        self._require_one_of("report_to", (None, *TRACKERS, ALL_TRACKERS))
        self._require("w_noise, w_kd, w_feat", self.weight_schedule.is_ever_positive, "at least one above 0")
        self._require_consistency()

    @property
    def weights(self) -> LossWeights:
        """The weights of the losses at the first step."""
        return self.weight_schedule.at(0)

    @property
    def weight_schedule(self) -> WeightSchedule:
        """The weights of the losses by step.

        Raises:
            ValueError: a schedule that is not step:value,step:value.
        """
        return WeightSchedule.parse(
            noise=self.w_noise_schedule or self.w_noise,
            kd=self.w_kd_schedule or self.w_kd,
            feat=self.w_feat_schedule or self.w_feat,
        )

    @property
    def time_density(self) -> TimeDensity | None:
        """Of flow matching; None where no setting is about it."""
        settings = {"scheme": self.weighting_scheme, "mode_scale": self.mode_scale}
        settings |= {"logit_mean": self.logit_mean, "logit_std": self.logit_std}
        given: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
        return TimeDensity(**given) if given else None

    def _require_consistency(self) -> None:
        for name, scheme in (("logit_mean", LOGIT_NORMAL), ("logit_std", LOGIT_NORMAL), ("mode_scale", MODE)):
            fits = (self.weighting_scheme or LOGIT_NORMAL) == scheme
            self._require(name, fits or getattr(self, name) is None, f"None unless weighting_scheme is {scheme!r}")
        low, high = MODE_SCALES
        in_range = self.mode_scale is None or low <= self.mode_scale <= high
        self._require("mode_scale", in_range, f"a number in [{low:g}, {high:.3f}]")
        self._require(
            "resume_from_checkpoint",
            self.resume_from_checkpoint != "latest" or self.output_dir,
            "output_dir with 'latest'",
        )
        self._require(
            "frozen_precision",
            self.frozen_precision in ("no", self.mixed_precision)
            and (self.frozen_precision == "no" or self.teacher_precision in (None, self.mixed_precision)),
            f"'no' or what the passes are computed in ({self.mixed_precision!r} for the student)",
        )
        self._require("report_to", not self.report_to or self.output_dir, "output_dir with a tracker")

    def _require(self, name: str, holds: object, expected: str) -> None:
        if not holds:
            got = getattr(self, name, None) if ", " not in name else "all 0"
            raise ValueError(f"{name}: expected {expected}, got {got!r}")

    def _require_one_of(self, name: str, choices: tuple[str | None, ...]) -> None:
        self._require(name, getattr(self, name) in choices, f"one of {choices}")


AT_LEAST_ONE = (
    "train_batch_size",
    "gradient_accumulation_steps",
    "max_train_steps",
    "checkpointing_steps",
    "max_skipped_steps",
    "lr_num_cycles",
    "stage1_repeats",
    "validation_steps",
    "validation_inference_steps",
)
NOT_NEGATIVE = (
    "lr_warmup_steps",
    "adam_weight_decay",
    "w_noise",
    "w_kd",
    "w_feat",
    "seed",
    "fit_batches",
    "stage1_steps",
    "dataloader_num_workers",
    "noise_offset",
)
POSITIVE_OR_NONE = (
    "max_train_seconds",
    "checkpoints_total_limit",
    "snr_gamma",
    "stage1_learning_rate",
    "validation_resolution",
    "logit_std",
    "timestep_shift",
    "guidance_scale",
)
