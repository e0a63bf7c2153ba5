"""The demo from end to end: load, convert, distil, compare, report."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline

from deltaconv_kernels.backends import choose_backend

from ..atomic import atomic_directory
from ..conversion import DeltaConvFusion
from ..distillation import CachedExamples, Distiller, EmojiImages, PipelineEncoder, StepRecord
from ..embedded import load_teacher
from ..machine import describe_machine
from .evaluate import HELD_BATCH, image_distances, prediction_errors, spread
from .generate import generate_all
from .plots import draw_grid, draw_losses, draw_times
from .precision import faster_precision
from .report import write_report
from .settings import DemoSettings
from .timing import StepTime, time_steps

FIGURES_FILE = "figures.json"
FUSION_FOLDER = "fusion"


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
    """What the demo made: the trained fusion, the pictured images by variant, and every figure."""

    fusion: DeltaConvFusion
    records: list[StepRecord]
    pictured: dict[str, np.ndarray]
    times: list[StepTime]
    figures: dict[str, Any]


def run_demo(
    output: Path,
    settings: DemoSettings,
    pipe: DiffusionPipeline | None = None,
    images: EmojiImages | None = None,
) -> dict[str, Any]:
    """Run the demo and leave its folder at `output`, which is whole or, after an error, not there.

    Args:
        output: the folder; an earlier demo's is replaced.
        settings: what to do, and for how long.
        pipe, images: another teacher than the embedded one, and what it was trained on.

    Returns:
        The content of figures.json.

    Raises:
        FileExistsError: `output` holds something that is not a demo.
    """
    _refuse_foreign(output)
    outcome = _measure(settings, pipe, images)
    with atomic_directory(output) as folder:
        outcome.fusion.save_pretrained(folder / FUSION_FOLDER)
        draw_grid(outcome.pictured, settings.prompts, folder)
        draw_losses(outcome.records, folder)
        draw_times(outcome.times, folder)
        text = json.dumps(outcome.figures, indent=2, ensure_ascii=False)
        (folder / FIGURES_FILE).write_text(text + "\n", encoding="utf-8")
        write_report(outcome.figures, folder)
    return outcome.figures


def _measure(settings: DemoSettings, pipe: DiffusionPipeline | None, images: EmojiImages | None) -> Outcome:
    phase = Phases()
    with phase("load the teacher, encode the emoji"):
        pipe = pipe or load_teacher()
        images = images or EmojiImages()
        examples = CachedExamples(images, PipelineEncoder(pipe))
    with phase("replace self-attention by ΔConvBlocks"):
        torch.manual_seed(settings.seed)
        fusion = DeltaConvFusion.convert(pipe, kernel_size=settings.kernel_size)
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
        records = distiller.train()
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
        "backend": choose_backend(torch.empty(0)).name,
        "settings": {
            **{name: value for name, value in asdict(settings).items() if name != "training"},
            "held_examples": settings.held_batches * HELD_BATCH,
            "distance_samples": len(chosen),
        },
        "conversion": _describe_conversion(fusion),
        "training": {**_describe_training(distiller, records), "seconds_by_precision": precisions},
        "quality": {key: {**asdict(errors[key]), **distances[key]} for key in errors},
        "timing": [{**asdict(time), "speedup": time.speedup} for time in times],
        "seconds": phase.seconds,
    }
    return Outcome(fusion, records, pictured, times, figures)


def _describe_conversion(fusion: DeltaConvFusion) -> dict[str, Any]:
    report = fusion.report
    return {
        "parameters_teacher": report.parameters_before,
        "parameters_trained": sum(layer.block_parameters for layer in report.layers),
        "kernel_sizes_from": report.kernel_sizes_from,
        "layers": [asdict(layer) for layer in report.layers],
    }


def _describe_training(distiller: Distiller, records: list[StepRecord]) -> dict[str, Any]:
    return {
        "steps": len(records),
        "seconds": sum(record.seconds for record in records),
        "skipped": distiller.skipped,
        "median_step_seconds": statistics.median(record.seconds for record in records),
        "config": asdict(distiller.config),
    }


def _refuse_foreign(output: Path) -> None:
    if output.exists() and not (output.is_dir() and ((output / FIGURES_FILE).is_file() or not any(output.iterdir()))):
        raise FileExistsError(f"output: expected a new folder or an earlier demo's, got {output}")
