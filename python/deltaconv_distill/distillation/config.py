"""Every setting of a distillation run, under the names that diffusers' training scripts use."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .losses import LossWeights

MIXED_PRECISIONS = ("no", "bf16")
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
    seed: int = setting(0, "fixes noise, timesteps, caption dropout and the order of examples")
    train_batch_size: int = setting(16, "examples in a step")
    max_train_steps: int = setting(60_000, "stop after this many steps")
    max_train_seconds: float | None = setting(
        None, "stop after this many seconds of training, whichever limit comes first"
    )
    learning_rate: float = setting(3e-4, "AdamW's learning rate after warm-up")
    adam_beta1: float = setting(0.9, "AdamW's beta1")
    adam_beta2: float = setting(0.99, "AdamW's beta2")
    adam_weight_decay: float = setting(0.03, "AdamW's weight decay")
    adam_epsilon: float = setting(1e-8, "AdamW's epsilon")
    max_grad_norm: float = setting(1.0, "clip the gradient's norm to this")
    lr_scheduler: str = setting("constant_with_warmup", "the learning rate's schedule, one of diffusers'")
    lr_warmup_steps: int = setting(500, "steps over which the learning rate rises from 0")
    w_noise: float = setting(1.0, "weight of MSE(student, true noise or velocity)")
    w_kd: float = setting(1.0, "weight of MSE(student, teacher)")
    w_feat: float = setting(0.001, "weight of the summed MSE of hidden states after each replaced self-attention")
    proportion_empty_prompts: float = setting(0.15, "share of captions replaced by the empty one")
    mixed_precision: str = setting("no", "no or bf16: the autocast dtype of both passes")
    use_ema: bool = setting(False, "keep an exponential moving average of the blocks and finish with it")
    ema_decay: float = setting(0.9995, "decay of the average once warmed up")
    checkpointing_steps: int = setting(500, "write a checkpoint every this many steps")
    checkpoints_total_limit: int | None = setting(None, "keep only this many newest checkpoints")
    resume_from_checkpoint: str | None = setting(None, "a checkpoint directory, or latest")
    max_skipped_steps: int = setting(20, "give up after this many non-finite steps in a row")

    def __post_init__(self) -> None:
        for name in ("train_batch_size", "max_train_steps", "checkpointing_steps", "max_skipped_steps"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("learning_rate", "max_grad_norm", "adam_epsilon"):
            self._require(name, getattr(self, name) > 0, "a positive number")
        for name in ("lr_warmup_steps", "adam_weight_decay", "w_noise", "w_kd", "w_feat", "seed"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        for name in ("adam_beta1", "adam_beta2", "ema_decay"):
            self._require(name, 0 <= getattr(self, name) < 1, "a number in [0, 1)")
        for name in ("max_train_seconds", "checkpoints_total_limit"):
            self._require(name, getattr(self, name) is None or getattr(self, name) > 0, "a positive number or None")
        self._require("proportion_empty_prompts", 0 <= self.proportion_empty_prompts <= 1, "a number in [0, 1]")
        self._require("mixed_precision", self.mixed_precision in MIXED_PRECISIONS, f"one of {MIXED_PRECISIONS}")
        self._require("lr_scheduler", self.lr_scheduler in LR_SCHEDULERS, f"one of {LR_SCHEDULERS}")
        self._require("w_noise, w_kd, w_feat", self.w_noise + self.w_kd + self.w_feat > 0, "at least one above 0")
        self._require(
            "resume_from_checkpoint",
            self.resume_from_checkpoint != "latest" or self.output_dir,
            "output_dir with 'latest'",
        )

    @property
    def weights(self) -> LossWeights:
        return LossWeights(noise=self.w_noise, kd=self.w_kd, feat=self.w_feat)

    def _require(self, name: str, holds: object, expected: str) -> None:
        if not holds:
            got = getattr(self, name, None) if ", " not in name else "all 0"
            raise ValueError(f"{name}: expected {expected}, got {got!r}")
