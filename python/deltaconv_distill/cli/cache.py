"""`deltaconv cache`: encode images and captions once, for every later `deltaconv distill --cached_data_dir`."""

from __future__ import annotations

import argparse
from pathlib import Path

from .errors import UserError
from .pipelines import add_model_flags, load_pipeline
from .places import add_device_flag, chosen_device, require_folder
from .training_data import IMAGE_SOURCES, add_image_flags, open_images, require_one_source

DTYPES = ("float16", "bfloat16", "float32")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pretrained_teacher_model",
        required=True,
        help="a diffusers pipeline directory or id, a checkpoint file, 'embedded' or 'embedded-mmdit'",
    )
    add_model_flags(parser)
    add_image_flags(parser)
    parser.add_argument("--output_dir", required=True, help="the cache's folder; an unfinished one is continued")
    parser.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help="what latents and embeddings are stored in")
    add_device_flag(parser)
    parser.add_argument("--dataloader_num_workers", type=int, default=0, help="threads that decode images ahead")


def run(options: argparse.Namespace) -> None:
    import torch

    from ..distillation import DataError, PipelineEncoder, write_cache

    require_one_source(options, IMAGE_SOURCES)
    require_folder("--output_dir", options.output_dir)
    device = chosen_device(options)
    pipe = load_pipeline(options.pretrained_teacher_model, "--pretrained_teacher_model", options)
    try:
        images = open_images(options)
        encoder = PipelineEncoder(pipe.to(device))
        folder = Path(options.output_dir)
        write_cache(images, encoder, folder, getattr(torch, options.dtype), options.dataloader_num_workers)
    except DataError as error:
        raise UserError(str(error)) from error
    except OSError as error:
        raise UserError(f"--output_dir: {error}; what is written so far is used when you run this again") from error
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"cache: {folder}, {len(images)} examples, {size / 2**20:.1f} MiB")
