"""The demo from end to end: load, analyse, convert, distil, compare."""

from __future__ import annotations

import statistics
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
from ..embedded import load_joint_teacher, load_teacher
from ..machine import describe_machine
from .budget import expected_after_training, training_seconds
from .evaluate import HELD_BATCH, image_distances, prediction_errors, spread
from .generate import generate_all
from .load import Load, StepClock, measure_load
from .precision import faster_precision
from .settings import MMDIT, UNET, DemoSettings
from .stages import ANALYSE, COMPARE, CONVERT, DISTIL, DRAW, LOAD, MEASURE, PREDICT, TIME_STEPS, Stages
from .timing import StepTime, time_steps

LOADERS = {UNET: load_teacher, MMDIT: load_joint_teacher}


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
    """What training left: records, distiller, the seconds of a step by precision, and what it got of the machine."""

    records: list[StepRecord]
    distiller: Distiller
    precisions: dict[str, float]
    load: Load

    @property
    def faster_precision(self) -> str:
        return next(iter(self.precisions))


def experiment(
    settings: DemoSettings, stage: Stages, pipe: DiffusionPipeline | None, images: EmojiImages | None
) -> Outcome:
    """Everything but writing files; arguments as in `run_demo`."""
    with stage(LOAD):
        pipe = pipe or LOADERS[settings.teacher]()
        images = images or EmojiImages()
        examples = CachedExamples(images, PipelineEncoder(pipe))
    with stage(ANALYSE):
        profile = analyze(pipe, settings.analysis)
    with stage(CONVERT):
        torch.manual_seed(settings.seed)
        fusion = DeltaConvFusion.convert(pipe, settings.kernel_size, profile)
    distilled = _distil(stage, settings, pipe, fusion, examples)
    with stage(PREDICT):
        errors = prediction_errors(pipe, fusion, examples, settings)
    with stage(TIME_STEPS):
        times = time_steps(pipe, fusion, settings)
    with stage(DRAW):
        pictured = generate_all(pipe, fusion, settings.prompts, settings)
    distances = _distances(stage, settings, pipe, fusion, images, distilled.faster_precision)
    figures = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "predicted": DenoisingTask(pipe).prediction_type,
        "backend": choose_backend(torch.empty(0)).name,
        "settings": {
            **{name: value for name, value in asdict(settings).items() if name != "training"},
            "held_examples": settings.held_batches * HELD_BATCH,
            "distance_samples": min(settings.distance_samples, len(images)),
        },
        "conversion": _describe_conversion(fusion),
        "training": _describe_training(distilled),
        "quality": {key: {**asdict(errors[key]), **distances.get(key, {})} for key in errors},
        "timing": [{**asdict(time), "speedup": time.speedup} for time in times],
    }
    return Outcome(profile, fusion, distilled.records, pictured, times, figures)


def _distil(
    stage: Stages, settings: DemoSettings, pipe: DiffusionPipeline, fusion: DeltaConvFusion, examples: CachedExamples
) -> Distilled:
    with stage(MEASURE):
        precisions = faster_precision(pipe, fusion, examples, settings.training)
        precision = next(iter(precisions))
        rest = expected_after_training(pipe, fusion, examples, settings, precision)
        seconds = training_seconds(settings.minutes, stage.elapsed, sum(rest.values()))
        stage.expect({DISTIL: seconds, **rest}, settings.minutes)
    with stage(DISTIL):
        training = replace(settings.training, seed=settings.seed, mixed_precision=precision, max_train_seconds=seconds)
        distiller = Distiller(pipe, fusion, examples, training)
        clock = StepClock()
        records = distiller.train(clock)
        load = measure_load([record.seconds for record in records], clock.step_seconds, training.stage1_steps)
    return Distilled(records, distiller, precisions, load)


def _distances(
    stage: Stages,
    settings: DemoSettings,
    pipe: DiffusionPipeline,
    fusion: DeltaConvFusion,
    images: EmojiImages,
    precision: str,
) -> dict[str, dict[str, float]]:
    """Variant key -> distances of its images; nothing where the settings ask for none.

    The images are computed in the faster precision, all variants alike: bfloat16 changes an image of the embedded
    teacher by less than half a grey level a pixel.
    """
    if not settings.distance_samples:
        return {}
    with stage(COMPARE):
        chosen = spread(len(images), settings.distance_samples)
        samples = generate_all(
            pipe, fusion, [images.captions[index] for index in chosen], settings, precision=precision
        )
        return image_distances(samples, images.pixels[chosen])


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
        "load": {**asdict(distilled.load), "is_loaded": distilled.load.is_loaded},
    }
