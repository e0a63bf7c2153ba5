"""`deltaconv sample`: images from a pipeline, with or without a trained fusion."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import UserError
from .pipelines import EMBEDDED, attach_fusion, load_pipeline

if TYPE_CHECKING:
    from PIL.Image import Image


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default=EMBEDDED, help="a diffusers pipeline directory or id, or 'embedded'")
    parser.add_argument("--fusion", help="a saved fusion's directory; without it the model keeps its self-attention")
    parser.add_argument("--prompt", action="append", required=True, help="what to show; may be given several times")
    parser.add_argument("--seed", type=int, default=0, help="of the first prompt's noise; each further prompt adds 1")
    parser.add_argument("--num_inference_steps", type=int, default=25, help="denoising steps")
    parser.add_argument("--guidance_scale", type=float, default=3.0, help="classifier-free guidance; 1 turns it off")
    parser.add_argument("--height", type=int, help="in pixels; the model's own size where not given")
    parser.add_argument("--width", type=int, help="in pixels; the model's own size where not given")
    parser.add_argument("--output", type=Path, default=Path("samples"), help="folder for the PNG files")


def run(options: argparse.Namespace) -> None:
    import torch

    for name in ("num_inference_steps", "height", "width"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"--{name}: expected a positive number, got {value}")
    if (options.height is None) != (options.width is None):
        raise UserError("--height, --width: expected both or neither")
    pipe = load_pipeline(options.model, "--model")
    if options.fusion:
        attach_fusion(pipe, options.fusion)
    for index, prompt in enumerate(options.prompt):
        seed = options.seed + index
        try:
            image = pipe(
                prompt,
                height=options.height,
                width=options.width,
                num_inference_steps=options.num_inference_steps,
                guidance_scale=options.guidance_scale,
                generator=torch.Generator().manual_seed(seed),
            ).images[0]
        except ValueError as error:  # the pipeline checks sizes and prompts itself
            raise UserError(str(error)) from error
        print(save_image(image, options.output / f"{index:03d}-{file_stem(prompt)}-{seed}.png"))


def save_image(image: Image, path: Path) -> Path:
    """Write a PNG that is whole or not there."""
    from ..atomic import atomic_file

    with atomic_file(path) as file:
        image.save(file, format="PNG")
    return path


def file_stem(prompt: str) -> str:
    """A prompt as part of a file name: letters, digits and hyphens, at most 48 of them."""
    return re.sub(r"[^\w]+", "-", prompt.lower()).strip("-")[:48] or "untitled"
