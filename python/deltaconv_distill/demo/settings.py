"""What the demo does, in numbers: prompts, budget, hyper-parameters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..analysis import Generation
from ..distillation import DistillConfig
from ..embedded.joint_teacher import JOINT_GUIDANCE_SCALE
from ..embedded.teacher import DEMO_PROMPTS, GUIDANCE_SCALE, STEPS

# Chosen by measurement on the embedded teacher: minutes must do what days do for the paper's models.
TRAINING = DistillConfig(
    train_batch_size=32,
    learning_rate=3e-3,
    lr_warmup_steps=20,
    use_ema=True,
    ema_decay=0.98,
    fit_batches=4,
    stage1_steps=160,
    stage1_repeats=10,
)
MINUTES = 6.0  # on two quiet cores about four of them are left for training
UNET, MMDIT = "unet", "mmdit"
TEACHERS = (UNET, MMDIT)


def analysis_of(guidance_scale: float) -> Generation:
    """What is generated while a teacher's attention is looked at."""
    return Generation(prompts=DEMO_PROMPTS[:2], num_inference_steps=STEPS, options={"guidance_scale": guidance_scale})


ANALYSIS = analysis_of(GUIDANCE_SCALE)


@dataclass(frozen=True)
class DemoSettings:
    """Everything that a run of the demo depends on.

    teacher: "unet", the embedded one shaped as Stable Diffusion, or "mmdit", the one shaped as Stable Diffusion 3.
    minutes: of the whole run, on the clock. The distillation gets what the other parts leave, and at least half.
    kernel_size: of the blocks, as DeltaConvFusion.convert takes it; "auto" is the first embedded teacher's
        preset, and for the second what the analysis recommends.
    analysis: what is generated while the teacher's attention is looked at.
    prompts: captions of the picture's columns; column i starts from noise with seed `seed + i`.
    distance_samples: images of each variant, and emoji, that the Fréchet distances are computed on; 0 leaves that part
        out.
    held_batches: batches of HELD_BATCH examples, with noise that training never drew, for the prediction errors.
    timing_sizes: pixel sizes, square, of the timed denoising steps; timing_repeats: steps timed at each.
    """

    teacher: str = UNET
    minutes: float = MINUTES
    kernel_size: int | str = "auto"
    analysis: Generation = ANALYSIS
    prompts: tuple[str, ...] = DEMO_PROMPTS[:8]
    seed: int = 0
    num_inference_steps: int = STEPS
    guidance_scale: float = GUIDANCE_SCALE
    distance_samples: int = 96
    held_batches: int = 8
    timing_sizes: tuple[int, ...] = (32, 128)
    timing_repeats: int = 15
    training: DistillConfig = field(default=TRAINING)

    def __post_init__(self) -> None:
        if self.teacher not in TEACHERS:
            raise ValueError(f"teacher: expected one of {TEACHERS}, got {self.teacher!r}")


def settings_for(teacher: str, **settings: Any) -> DemoSettings:
    """The settings of an embedded teacher, by its name, but for those given.

    Raises:
        ValueError: no teacher of this name.
    """
    if teacher == MMDIT:
        settings = {
            "guidance_scale": JOINT_GUIDANCE_SCALE,
            "analysis": analysis_of(JOINT_GUIDANCE_SCALE),
            **settings,
        }
    return DemoSettings(teacher=teacher, **settings)
