"""`deltaconv sample`: images from a pipeline, with or without a trained fusion."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import UserError
from .pipelines import DTYPES, EMBEDDED, attach_fusion, load_pipeline

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from PIL.Image import Image

    from ..generation import Plan

CHECKED_LATER = ("height", "width", "base_height", "base_width", "strength", "largest_upscale")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default=EMBEDDED, help="a diffusers pipeline directory or id, or 'embedded'")
    parser.add_argument("--fusion", help="a saved fusion's directory; without it the model keeps its self-attention")
    parser.add_argument("--prompt", action="append", required=True, help="what to show; may be given several times")
    parser.add_argument("--negative_prompt", default="", help="what not to show")
    parser.add_argument("--seed", type=int, default=0, help="of the first prompt's noise; each further prompt adds 1")
    parser.add_argument("--num_inference_steps", type=int, default=25, help="denoising steps")
    parser.add_argument("--guidance_scale", type=float, default=3.0, help="classifier-free guidance; 1 turns it off")
    parser.add_argument("--output", type=Path, default=Path("samples"), help="folder for the PNG files")
    parser.add_argument("--device", help="such as cuda or cpu; a GPU where there is one, if not given")
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
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = options.dtype or ("bfloat16" if device.startswith("cuda") else "float32")
    pipe = load_pipeline(options.model, "--model", getattr(torch, dtype))
    try:
        pipe.to(device)
    except (RuntimeError, AssertionError) as error:  # torch asserts where it was built without CUDA
        raise UserError(f"--device: cannot use {device!r} ({error})") from error
    if options.fusion:
        attach_fusion(pipe, options.fusion)
    try:
        height, width = (options.height, options.width) if options.height else training_size(pipe)
        plan = _plan(pipe, height, width, options)
        if len(plan.sizes) > 1:
            print(plan)
        for index, prompt in enumerate(options.prompt):
            seed = options.seed + index
            image = generate_high_resolution(
                pipe,
                prompt,
                height,
                width,
                strength=options.strength,
                num_inference_steps=options.num_inference_steps,
                guidance_scale=options.guidance_scale,
                generator=torch.Generator().manual_seed(seed),
                plan=plan,
                negative_prompt=options.negative_prompt,
            )[0]
            print(save_image(image, options.output / f"{index:03d}-{file_stem(prompt)}-{seed}.png"))
    except (TypeError, ValueError) as error:  # sizes, pipelines and prompts are checked where they are used
        raise UserError(f"--{error}" if str(error).startswith(CHECKED_LATER) else str(error)) from error


def _check(options: argparse.Namespace) -> None:
    for name in ("num_inference_steps", "height", "width", "base_height", "base_width"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"--{name}: expected a positive number, got {value}")
    for prefix in ("", "base_"):
        if (getattr(options, f"{prefix}height") is None) != (getattr(options, f"{prefix}width") is None):
            raise UserError(f"--{prefix}height, --{prefix}width: expected both or neither")
    if options.base_height and not options.height:
        raise UserError("--base_height, --base_width: expected --height and --width with them")


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


def save_image(image: Image, path: Path) -> Path:
    """Write a PNG that is whole or not there."""
    from ..atomic import atomic_file

    with atomic_file(path) as file:
        image.save(file, format="PNG")
    return path


def file_stem(prompt: str) -> str:
    """A prompt as part of a file name: letters, digits and hyphens, at most 48 of them."""
    return re.sub(r"[^\w]+", "-", prompt.lower()).strip("-")[:48] or "untitled"
