"""Wall-clock time of one denoising step, teacher against student."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import DiffusionPipeline

from ..conversion import DeltaConvFusion
from ..distillation import Batch, DenoisingTask, PipelineEncoder
from .settings import DemoSettings
from .variants import STUDENT, TEACHER

WARM_UP = 2


@dataclass(frozen=True)
class StepTime:
    """size: pixels a side; tokens: in the largest self-attention; milliseconds: medians of interleaved runs."""

    size: int
    tokens: int
    teacher_ms: float
    student_ms: float

    @property
    def speedup(self) -> float:
        return self.teacher_ms / self.student_ms


@torch.no_grad()
def time_steps(pipe: DiffusionPipeline, fusion: DeltaConvFusion, settings: DemoSettings) -> list[StepTime]:
    """One image with classifier-free guidance (a batch of two), at each of the settings' sizes."""
    return [_time_size(pipe, fusion, size, settings.timing_repeats) for size in settings.timing_sizes]


@torch.no_grad()
def seconds_of_both(pipe: DiffusionPipeline, fusion: DeltaConvFusion, size: int) -> float:
    """One step of the teacher and one of the student, neither warmed up: what a repeat of `time_steps` takes."""
    return sum(_time_both(_denoising_step(pipe, size), fusion).values())


def _time_size(pipe: DiffusionPipeline, fusion: DeltaConvFusion, size: int, repeats: int) -> StepTime:
    step = _denoising_step(pipe, size)
    with fusion.record_features() as features:
        step()
    times: dict[str, list[float]] = {TEACHER.key: [], STUDENT.key: []}
    for repeat in range(WARM_UP + repeats):
        seconds = _time_both(step, fusion)
        if repeat >= WARM_UP:
            for key, elapsed in seconds.items():
                times[key].append(1000 * elapsed)
    return StepTime(
        size=size,
        tokens=max(hidden.shape[1] for hidden in features.values()),
        teacher_ms=statistics.median(times[TEACHER.key]),
        student_ms=statistics.median(times[STUDENT.key]),
    )


def _time_both(step: Callable[[], object], fusion: DeltaConvFusion) -> dict[str, float]:
    """Variant key -> seconds of one step."""
    seconds = {}
    for variant in (TEACHER, STUDENT):
        with variant.running(fusion):
            started = time.perf_counter()
            step()
            seconds[variant.key] = time.perf_counter() - started
    return seconds


def _denoising_step(pipe: DiffusionPipeline, size: int) -> Callable[[], torch.Tensor]:
    task = DenoisingTask(pipe)
    side, channels = size // pipe.vae_scale_factor, pipe.vae.config.latent_channels
    noise = torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(0))
    half_way = torch.full((2,), task.num_timesteps // 2)
    batch = Batch(noise, noise, half_way, PipelineEncoder(pipe).conditioning(["", ""]))
    return lambda: task.predict(batch)
