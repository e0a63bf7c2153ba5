"""`deltaconv sample`: images from a pipeline, with or without a trained fusion."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .errors import UserError
from .pipeline_parts import load_lora, replace_scheduler
from .pipelines import DTYPES, EMBEDDED, add_model_flags, attach_fusion, attach_saved, load_pipeline
from .places import add_device_flag, chosen_device, require_folder

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from PIL.Image import Image

    from ..conversion import DeltaConvFusion
    from ..generation import Plan

CHECKED_LATER = ("height", "width", "base_height", "base_width", "strength", "largest_upscale")
IMAGE_FILES = (".png", ".jpg", ".jpeg", ".webp")
OTHER_FILES = (".tif", ".tiff", ".bmp", ".gif", ".avif", ".jxl", ".heic")  # no folder is meant


class Picture(NamedTuple):
    """One image to make, and where it goes."""

    prompt: str
    seed: int
    path: Path


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        default=EMBEDDED,
        help="a diffusers pipeline directory or id, a checkpoint file, 'embedded' or 'embedded-mmdit'",
    )
    add_model_flags(parser)
    parser.add_argument(
        "--fusion",
        help="a saved fusion's or a run's folder; without it the blocks that were saved with the model, if any",
    )
    parser.add_argument("--no_fusion", action="store_true", help="the model's own self-attention, whatever is saved")
    parser.add_argument("--lora", help="a folder or file with a LoRA")
    parser.add_argument("--lora_scale", type=float, default=1.0, help="how strongly it acts")
    parser.add_argument("--scheduler", help="one of diffusers', such as EulerDiscreteScheduler, instead of the model's")
    parser.add_argument("--prompt", action="append", required=True, help="what to show; may be given several times")
    parser.add_argument("--negative_prompt", help="what not to show")
    parser.add_argument("--images_per_prompt", type=int, default=1, help="each from noise of its own")
    parser.add_argument("--seed", type=int, default=0, help="of the first image's noise; each further image adds 1")
    parser.add_argument("--num_inference_steps", type=int, default=25, help="denoising steps")
    parser.add_argument("--guidance_scale", type=float, default=3.0, help="classifier-free guidance; 1 turns it off")
    parser.add_argument(
        "--output", type=Path, default=Path("samples"), help="folder for the PNG files, or a file for a single image"
    )
    add_device_flag(parser)
    parser.add_argument("--dtype", choices=DTYPES, help="bfloat16 on a GPU and float32 on a CPU, if not given")
    sizes = parser.add_argument_group("size", "far beyond its own size a model generates small, enlarges, and refines")
    sizes.add_argument("--height", type=int, help="in pixels; the model's own size where not given")
    sizes.add_argument("--width", type=int, help="in pixels; the model's own size where not given")
    sizes.add_argument("--base_height", type=int, help="of the first stage; chosen by the model where not given")
    sizes.add_argument("--base_width", type=int, help="of the first stage; chosen by the model where not given")
    sizes.add_argument("--strength", type=float, default=0.4, help="share of the steps that later stages run")
    sizes.add_argument("--largest_upscale", type=float, default=4.0, help="from one stage to the next, at most")
    sizes.add_argument(
        "--batch_guidance",
        choices=("auto", "on", "off"),
        default="auto",
        help="whether the denoiser takes the image with and without the prompt at once; auto asks the free memory",
    )


def run(options: argparse.Namespace) -> None:
    import torch

    from ..generation import generate_high_resolution
    from ..generation.plan import training_size

    _check(options)
    pipe = _load(options)
    try:
        fusion = _prepare(pipe, options)
        height, width = (options.height, options.width) if options.height else training_size(pipe)
        plan = _plan(pipe, height, width, options)
        if len(plan.sizes) > 1:
            print(plan)
        for picture in _pictures(options, "-student" if fusion else ""):
            image = generate_high_resolution(
                pipe,
                picture.prompt,
                height,
                width,
                strength=options.strength,
                num_inference_steps=options.num_inference_steps,
                guidance_scale=options.guidance_scale,
                generator=torch.Generator().manual_seed(picture.seed),
                plan=plan,
                negative_prompt=options.negative_prompt,
            )[0]
            print(save_image(image, picture.path))
    except (TypeError, ValueError) as error:  # sizes, pipelines and prompts are checked where they are used
        raise UserError(f"--{error}" if str(error).startswith(CHECKED_LATER) else str(error)) from error
    except OSError as error:
        raise UserError(f"--output: {error}") from error


def _load(options: argparse.Namespace) -> DiffusionPipeline:
    """The model as it is saved, on its device."""
    import torch

    device = chosen_device(options)
    dtype = options.dtype or ("bfloat16" if device.type == "cuda" else "float32")
    return load_pipeline(options.model, "--model", options, getattr(torch, dtype)).to(device)


def _check(options: argparse.Namespace) -> None:
    for name in ("num_inference_steps", "images_per_prompt", "height", "width", "base_height", "base_width"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"--{name}: expected a positive number, got {value}")
    if not math.isfinite(options.guidance_scale):
        raise UserError(f"--guidance_scale: expected a finite number, got {options.guidance_scale}")
    for prefix in ("", "base_"):
        if (getattr(options, f"{prefix}height") is None) != (getattr(options, f"{prefix}width") is None):
            raise UserError(f"--{prefix}height, --{prefix}width: expected both or neither")
    if options.base_height and not options.height:
        raise UserError("--base_height, --base_width: expected --height and --width with them")
    if options.fusion and options.no_fusion:
        raise UserError("--fusion, --no_fusion: expected one of them at most")
    if options.lora_scale != 1.0 and not options.lora:
        raise UserError("--lora_scale: expected --lora with it")
    _check_output(options.output, len(options.prompt) * options.images_per_prompt)


def _check_output(output: Path, images: int) -> None:
    """Before minutes of work: a folder, or a file's name for one image."""
    if output.suffix.lower() in IMAGE_FILES and not output.is_dir():
        if images > 1:
            raise UserError(f"--output: expected a folder for {images} images, got the file {output}")
        output = output.parent
    is_other_file = output.exists() or output.suffix.lower() in OTHER_FILES
    if is_other_file and not output.is_dir():
        raise UserError(f"--output: expected a folder, or a file that ends in {', '.join(IMAGE_FILES)}, got {output}")
    require_folder("--output", output)


def _prepare(pipe: DiffusionPipeline, options: argparse.Namespace) -> DeltaConvFusion | None:
    """Whatever the flags put into the pipeline; returns the fusion that it runs with."""
    fusion = None
    if options.fusion:
        fusion = attach_fusion(pipe, options.fusion)
    elif not options.no_fusion:
        fusion = attach_saved(pipe, options.variant)
    if options.scheduler:
        replace_scheduler(pipe, options.scheduler)
    if options.lora:
        load_lora(pipe, options.lora, options.lora_scale)
    return fusion


def _plan(pipe: DiffusionPipeline, height: int, width: int, options: argparse.Namespace) -> Plan:
    from ..generation import plan_generation

    return plan_generation(
        pipe,
        height,
        width,
        base=(options.base_height, options.base_width) if options.base_height else None,
        largest_upscale=options.largest_upscale,
        guidance=options.guidance_scale > 1,
        batch_guidance={"auto": None, "on": True, "off": False}[options.batch_guidance],
    )


def _pictures(options: argparse.Namespace, suffix: str) -> Iterator[Picture]:
    """A student's files get a suffix, so that it does not overwrite what its teacher made of the same prompt."""
    is_file = options.output.suffix.lower() in IMAGE_FILES and not options.output.is_dir()
    for index, prompt in enumerate(options.prompt):
        for repeat in range(options.images_per_prompt):
            seed = options.seed + index * options.images_per_prompt + repeat
            name = f"{index:03d}-{file_stem(prompt)}-{seed}{suffix}.png"
            yield Picture(prompt, seed, options.output if is_file else options.output / name)


def save_image(image: Image, path: Path) -> Path:
    """Write an image that is whole or not there, in the format of its name."""
    from PIL.Image import registered_extensions

    from ..atomic import atomic_file

    with atomic_file(path) as file:
        image.save(file, format=registered_extensions()[path.suffix.lower()])
    return path


def file_stem(prompt: str) -> str:
    """A prompt as part of a file name: letters, digits and hyphens, at most 48 of them."""
    return re.sub(r"[^\w]+", "-", prompt.lower()).strip("-")[:48] or "untitled"
