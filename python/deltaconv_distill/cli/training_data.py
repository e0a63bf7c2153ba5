"""The flags that name training data, and what they open."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
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
FRAMED_SOURCES = (*IMAGE_SOURCES, "train_shards")
# By flag: its default, and the sources for which it says something. The embedded images are of one size and captioned.
READ_FROM = {
    "dataset_config_name": (None, ("dataset_name",)),
    "image_column": ("image", ("dataset_name",)),
    "caption_column": ("text", FRAMED_SOURCES),
    "max_bad_pictures": (100, FRAMED_SOURCES),
    "resolution": (512, FRAMED_SOURCES),
    "max_aspect_ratio": (1.0, FRAMED_SOURCES),
    "shuffle_buffer": (1000, ("train_shards",)),
    "cache_latents": (False, IMAGE_SOURCES),
}


def add_image_flags(parser: argparse.ArgumentParser) -> None:
    """Flags for pictures that are in reach by index."""
    _add_image_flags(parser.add_argument_group("pictures", f"exactly one of {_flags(IMAGE_SOURCES)}"))


def _add_image_flags(parser: argparse._ArgumentGroup) -> None:
    parser.add_argument("--train_data_dir", help="a folder of captioned images, or 'embedded'")
    parser.add_argument(
        "--dataset_name", help="a data set of the datasets library: a save_to_disk folder, a local script or a hub id"
    )
    parser.add_argument("--dataset_config_name", help="the configuration of --dataset_name")
    parser.add_argument("--image_column", default="image", help="the column of pictures in --dataset_name")
    parser.add_argument("--caption_column", default="text", help="the column, or entry of .json files, with captions")
    parser.add_argument(
        "--max_bad_pictures", type=int, default=100, help="so many that cannot be used are left out; one more ends it"
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
    group = parser.add_argument_group("training data", f"exactly one of {_flags(TRAINING_SOURCES)}")
    _add_image_flags(group)
    group.add_argument(
        "--train_shards", help="webdataset shards, streamed: paths with {000..123} ranges, http(s) addresses or pipe:…"
    )
    group.add_argument("--shuffle_buffer", type=int, default=1000, help="samples of a shard that are mixed")
    group.add_argument("--cached_data_dir", help="what `deltaconv cache` wrote")
    group.add_argument(
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
    """Raises UserError where none or several of these flags are given, or others that the one given leaves unread."""
    given = [name for name in names if getattr(options, name)]
    if len(given) != 1:
        raise UserError(f"{_flags(names)}: expected exactly one of them, got {_flags(given) or 'none'}")
    embedded = options.train_data_dir == EMBEDDED
    ignored = [
        name
        for name, (default, sources) in READ_FROM.items()
        if getattr(options, name, default) != default
        and (given[0] not in sources or (embedded and name != "cache_latents"))
    ]
    if ignored:
        raise UserError(f"{_flags(ignored)}: not with --{given[0]}{' embedded' if embedded else ''}, which has its own")


def _flags(names: Iterable[str]) -> str:
    return ", ".join(f"--{name}" for name in names)
