"""`deltaconv evaluate`: how far a student's predictions and images are from its teacher's."""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import UserError, flagged
from .pipelines import add_model_flags, attach_fusion, load_pipeline
from .places import add_device_flag, chosen_device, require_file
from .training_data import IMAGE_SOURCES, add_image_flags, open_images, require_one_source

if TYPE_CHECKING:
    import numpy as np

    from ..distillation.data.images import CaptionedImages
    from ..distillation.evaluation.evaluate import Evaluation

COLUMNS = {
    "timestep": "timestep",
    "teacher_noise_mse": "noise MSE, teacher",
    "student_noise_mse": "noise MSE, student",
    "teacher_mse": "student to teacher",
    "relative_mse": "relative",
    "cosine": "cosine",
}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pretrained_teacher_model",
        required=True,
        help="a diffusers pipeline directory or id, a checkpoint file, 'embedded' or 'embedded-mmdit'",
    )
    add_model_flags(parser)
    parser.add_argument("--fusion", required=True, help="the folder of a saved fusion, or of a run")
    add_image_flags(parser)
    parser.add_argument("--examples", type=int, default=64, help="examples at each timestep")
    parser.add_argument("--timesteps", type=int, default=10, help="timesteps, evenly spaced")
    parser.add_argument("--batch_size", type=int, default=16, help="examples or images at a time")
    parser.add_argument("--images", type=int, default=64, help="images that each generates; 0 for none, else 2 or more")
    parser.add_argument("--num_inference_steps", type=int, default=20, help="denoising steps of an image")
    parser.add_argument("--guidance_scale", type=float, default=4.5, help="classifier-free guidance")
    parser.add_argument("--height", type=int, help="of generated images; unless given, the model's own")
    parser.add_argument("--width", type=int, help="of generated images; unless given, the model's own")
    parser.add_argument("--seed", type=int, default=0, help="image i starts from seed + i")
    parser.add_argument(
        "--prediction_type",
        help="epsilon or v_prediction, as in training; unless given, what the scheduler's config says",
    )
    parser.add_argument("--inception_weights", help="torch-fidelity's Inception weights, for FID")
    parser.add_argument("--clip_model", help="a folder with a CLIP model of transformers, for the CLIP score")
    parser.add_argument("--dino_model", help="a folder with a DINOv2 model of transformers, for FDD")
    add_device_flag(parser)
    parser.add_argument("--output", help="write every figure to this JSON file")


def run(options: argparse.Namespace) -> None:
    from ..atomic import atomic_file
    from ..distillation import DataError, EncodedOnTheFly, PipelineEncoder
    from ..distillation.evaluation.evaluate import EvaluationSettings, evaluate

    _check(options)
    _check_weights(options)
    require_one_source(options, IMAGE_SOURCES)
    device = chosen_device(options)
    pipe = load_pipeline(options.pretrained_teacher_model, "--pretrained_teacher_model", options).to(device)
    fusion = attach_fusion(pipe, options.fusion)
    settings = EvaluationSettings(**{entry.name: getattr(options, entry.name) for entry in fields(EvaluationSettings)})
    try:
        images = open_images(options)
        examples = EncodedOnTheFly(images, PipelineEncoder(pipe))
        result = evaluate(pipe, fusion, examples, settings, _real(images, settings.images))
    except DataError as error:
        raise UserError(str(error)) from error
    except (ImportError, ValueError) as error:
        raise flagged(error, "--pretrained_teacher_model") from error
    print(_table(result))
    if options.output:
        with atomic_file(Path(options.output), "w") as file:
            json.dump(result.as_dict(), file, indent=2)


def _check(options: argparse.Namespace) -> None:
    for name in ("examples", "timesteps", "batch_size", "num_inference_steps"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name}: expected at least 1, got {getattr(options, name)}")
    if options.images < 0 or options.images == 1:
        raise UserError(f"--images: expected 0, or at least 2 for distances, got {options.images}")
    if (options.height is None) != (options.width is None):
        raise UserError("--height, --width: expected both or neither")
    if options.output:
        require_file("--output", options.output)


def _check_weights(options: argparse.Namespace) -> None:
    from ..distillation.evaluation.external_metrics import check_weights

    try:
        check_weights(options.inception_weights, options.clip_model, options.dino_model)
    except ValueError as error:
        raise UserError(f"--{error}") from error


def _real(images: CaptionedImages, count: int) -> np.ndarray | None:
    """The first of the data's own images, where all have one size and there are enough for a distance."""
    import numpy as np

    if images.buckets is not None or min(count, len(images)) < 2:
        return None
    real = [image.permute(1, 2, 0).numpy() for image in islice(images.sound(), count)]
    return np.stack(real) if len(real) >= 2 else None


def _table(result: Evaluation) -> str:
    rows = [[f"{getattr(entry, name):.4g}" for name in COLUMNS] for entry in result.by_timestep]
    rows.append(["mean", *(f"{value:.4g}" for value in result.mean.values())])
    widths = [max(len(title), *(len(row[index]) for row in rows)) for index, title in enumerate(COLUMNS.values())]
    lines = [[*COLUMNS.values()], *rows]
    table = "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    figures = "\n".join(f"{name:<28} {value:.4g}" for name, value in result.images.items())
    return f"{table}\n\n{figures}".rstrip()
