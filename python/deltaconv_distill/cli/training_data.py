"""The flags that name training data, and what they open."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .errors import UserError
from .pipelines import EMBEDDED

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from ..distillation.data.examples import Examples
    from ..distillation.data.framing import Framer
    from ..distillation.data.images import CaptionedImages
    from ..distillation.data.shards import ShardedImages

IMAGE_SOURCES = ("train_data_dir", "dataset_name")
TRAINING_SOURCES = (*IMAGE_SOURCES, "train_shards", "cached_data_dir")


def add_image_flags(parser: argparse.ArgumentParser) -> None:
    """Flags for pictures that are in reach by index."""
    parser.add_argument("--train_data_dir", help="a folder of captioned images, or 'embedded'")
    parser.add_argument(
        "--dataset_name", help="a data set of the datasets library: a save_to_disk folder, a local script or a hub id"
    )
    parser.add_argument("--dataset_config_name", help="the configuration of --dataset_name")
    parser.add_argument("--image_column", default="image", help="the column of pictures in --dataset_name")
    parser.add_argument("--caption_column", default="text", help="the column, or entry of .json files, with captions")
    parser.add_argument(
        "--max_bad_pictures", type=int, default=100, help="pictures that cannot be used and are left out; more end it"
    )
    parser.add_argument("--resolution", type=int, default=512, help="images are resized and cropped to this square")
    parser.add_argument(
        "--max_aspect_ratio",
        type=float,
        default=1.0,
        help="above 1: buckets of rectangles up to this longer side over shorter, of about resolution² pixels each",
    )


def add_training_flags(parser: argparse.ArgumentParser) -> None:
    """Those, and what only training reads."""
    add_image_flags(parser)
    parser.add_argument(
        "--train_shards", help="webdataset shards, streamed: paths with {000..123} ranges, http(s) addresses or pipe:…"
    )
    parser.add_argument("--shuffle_buffer", type=int, default=1000, help="samples of a shard that are mixed")
    parser.add_argument("--cached_data_dir", help="what `deltaconv cache` wrote")
    parser.add_argument(
        "--cache_latents", action="store_true", help="encode every image and caption once and keep them in memory"
    )


def open_images(options: argparse.Namespace) -> CaptionedImages:
    """The pictures that --train_data_dir or --dataset_name names.

    Raises:
        UserError: neither or both are given, or sizes make no sense.
        DataError: they cannot be read.
    """
    from ..distillation import BadPictures, EmojiImages, HubImages, ImageFolder

    require_one_source(options, IMAGE_SOURCES)
    bad = BadPictures(options.max_bad_pictures)
    if options.train_data_dir == EMBEDDED:
        return EmojiImages()
    if options.train_data_dir:
        return ImageFolder(options.train_data_dir, _framer(options), options.caption_column, bad)
    return HubImages.load(
        options.dataset_name,
        _framer(options),
        options.image_column,
        options.caption_column,
        config_name=options.dataset_config_name,
        bad=bad,
    )


def open_examples(pipe: DiffusionPipeline, options: argparse.Namespace) -> Examples | ShardedImages:
    """Whatever the flags of training name, ready for a `Distiller`.

    Raises:
        UserError, DataError: as `open_images`.
    """
    from ..distillation import (
        BadPictures,
        CachedExamples,
        CachedOnDisk,
        EncodedOnTheFly,
        PipelineEncoder,
        ShardedImages,
    )

    require_one_source(options, TRAINING_SOURCES)
    try:
        encoder = PipelineEncoder(pipe)
    except TypeError as error:
        raise UserError(f"--pretrained_teacher_model: {error}") from error
    if options.cached_data_dir:
        return CachedOnDisk(options.cached_data_dir, encoder)
    if options.train_shards:
        bad = BadPictures(options.max_bad_pictures)
        framer, column = _framer(options), options.caption_column
        return ShardedImages(options.train_shards, framer, encoder, column, options.shuffle_buffer, bad)
    images = open_images(options)
    if options.cache_latents or options.train_data_dir == EMBEDDED:
        return CachedExamples(images, encoder)
    return EncodedOnTheFly(images, encoder, options.dataloader_num_workers)


def _framer(options: argparse.Namespace) -> Framer:
    from ..distillation import Framer

    try:
        return Framer(options.resolution, options.max_aspect_ratio)
    except ValueError as error:
        raise UserError(f"--{error}") from error


def require_one_source(options: argparse.Namespace, names: tuple[str, ...]) -> None:
    """Raises UserError where none or several of these flags are given."""
    given = [name for name in names if getattr(options, name)]
    if len(given) != 1:
        flags = ", ".join(f"--{name}" for name in names)
        raise UserError(f"{flags}: expected exactly one of them, got {', '.join(given) or 'none'}")
