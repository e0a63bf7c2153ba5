"""The demo from end to end: load, analyse, convert, distil, compare."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline

from deltaconv_kernels.backends import choose_backend

from ..analysis import Profile, analyze
from ..conversion import DeltaConvFusion
from ..distillation import CachedExamples, DenoisingTask, Distiller, EmojiImages, PipelineEncoder, StepRecord
from ..embedded import load_teacher
from ..machine import describe_machine
from .evaluate import HELD_BATCH, image_distances, prediction_errors, spread
from .generate import generate_all
from .precision import faster_precision
from .settings import DemoSettings
from .timing import StepTime, time_steps


class Phases:
    """Announces each part of the demo and keeps how long it took, in seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, title: str) -> Iterator[None]:
        print(f"[{len(self.seconds) + 1}] {title}", flush=True)
        started = time.perf_counter()
        yield
        self.seconds[title] = time.perf_counter() - started


@dataclass(frozen=True)
class Outcome:
    """What the demo made: the analysis, the trained fusion, the pictured images by variant, and every figure."""

    profile: Profile
    fusion: DeltaConvFusion
    records: list[StepRecord]
    pictured: dict[str, np.ndarray]
    times: list[StepTime]
    figures: dict[str, Any]


@dataclass(frozen=True)
class Distilled:
    """What training left: its records, its distiller, and the seconds of a step by precision."""

    records: list[StepRecord]
    distiller: Distiller
    precisions: dict[str, float]


def experiment(settings: DemoSettings, pipe: DiffusionPipeline | None, images: EmojiImages | None) -> Outcome:
    """Everything but writing files; arguments as in `run_demo`."""
    phase = Phases()
    with phase("load the teacher, encode the emoji"):
        pipe = pipe or load_teacher()
        images = images or EmojiImages()
        examples = CachedExamples(images, PipelineEncoder(pipe))
    with phase("look at its self-attention"):
        profile = analyze(pipe, settings.analysis)
    with phase("replace self-attention by ΔConvBlocks"):
        torch.manual_seed(settings.seed)
        fusion = DeltaConvFusion.convert(pipe, settings.kernel_size, profile)
    distilled = _distil(phase, settings, pipe, fusion, examples)
    with phase("predict noise never seen in training"):
        errors = prediction_errors(pipe, fusion, examples, settings)
    with phase("time denoising steps"):
        times = time_steps(pipe, fusion, settings)
    with phase("generate the images to look at"):
        pictured = generate_all(pipe, fusion, settings.prompts, settings)
    with phase("generate images to compare by their statistics"):
        chosen = spread(len(images), settings.distance_samples)
        samples = generate_all(pipe, fusion, [images.captions[index] for index in chosen], settings)
        distances = image_distances(samples, images.pixels[chosen])
    figures = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "predicted": DenoisingTask(pipe).prediction_type,
        "backend": choose_backend(torch.empty(0)).name,
        "settings": {
            **{name: value for name, value in asdict(settings).items() if name != "training"},
            "held_examples": settings.held_batches * HELD_BATCH,
            "distance_samples": len(chosen),
        },
        "conversion": _describe_conversion(fusion),
        "training": _describe_training(distilled),
        "quality": {key: {**asdict(errors[key]), **distances[key]} for key in errors},
        "timing": [{**asdict(time), "speedup": time.speedup} for time in times],
        "seconds": phase.seconds,
    }
    return Outcome(profile, fusion, distilled.records, pictured, times, figures)


def _distil(
    phase: Phases,
    settings: DemoSettings,
    pipe: DiffusionPipeline,
    fusion: DeltaConvFusion,
    examples: CachedExamples,
) -> Distilled:
    with phase("choose the faster precision"):
        precisions = faster_precision(pipe, fusion, examples, settings.training)
    with phase(f"distil, at most {settings.minutes:g} minutes"):
        training = replace(
            settings.training,
            seed=settings.seed,
            mixed_precision=next(iter(precisions)),
            max_train_seconds=60 * settings.minutes,
        )
        distiller = Distiller(pipe, fusion, examples, training)
        return Distilled(distiller.train(), distiller, precisions)


def _describe_conversion(fusion: DeltaConvFusion) -> dict[str, Any]:
    report = fusion.report
    return {
        "parameters_teacher": report.parameters_before,
        "parameters_trained": sum(layer.block_parameters for layer in report.layers),
        "kernel_sizes_from": report.kernel_sizes_from,
        "layers": [asdict(layer) for layer in report.layers],
    }


def _describe_training(distilled: Distilled) -> dict[str, Any]:
    """Step 0 is the fit; "steps" are those of both stages, "stage1" the first of them."""
    records, config = distilled.records, distilled.distiller.config
    stage1, stage2 = records[: config.stage1_steps], records[config.stage1_steps :]
    return {
        "steps": len(records),
        "stage1": {"steps": len(stage1), "seconds": sum(record.seconds for record in stage1)},
        "seconds": sum(record.seconds for record in records),
        "skipped": distilled.distiller.skipped,
        "median_step_seconds": statistics.median(record.seconds for record in stage2 or records),
        "config": asdict(config),
        "seconds_by_precision": distilled.precisions,
    }
