"""`deltaconv check`: read every picture and caption of a data set before anything is trained on it."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import UserError

if TYPE_CHECKING:
    from ..distillation.data.framing import Framer
    from ..distillation.data.inspection import Finding


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data", help="a folder of captioned images, a save_to_disk folder or a hub id, or shards ({000..123}.tar)"
    )
    parser.add_argument("--image_column", default="image", help="the column of pictures in a data set")
    parser.add_argument("--caption_column", default="text", help="the column, or entry of .json files, with captions")
    parser.add_argument("--resolution", type=int, default=512, help="as in training")
    parser.add_argument("--max_aspect_ratio", type=float, default=1.0, help="as in training")
    parser.add_argument("--dataloader_num_workers", type=int, default=4, help="threads that decode")


def run(options: argparse.Namespace) -> None:
    from tqdm.auto import tqdm

    from ..distillation import DataError, Framer

    try:
        framer = Framer(options.resolution, options.max_aspect_ratio)
        with ThreadPoolExecutor(max(1, options.dataloader_num_workers)) as threads:
            seen = list(tqdm(_findings(options, threads), desc="check", unit="picture"))
    except DataError as error:  # which begins with the name that training has for this kind of data
        raise UserError(re.sub(r"^(train_data_dir|dataset_name|train_shards): ", "data: ", str(error))) from error
    except ValueError as error:
        raise UserError(f"--{error}") from error
    print(_summary(seen, framer))
    bad = [finding for finding in seen if finding.fault]
    for finding in bad:
        print(f"{finding.name}: {finding.fault}")
    if bad or not seen:
        raise UserError(f"{len(bad)} of {len(seen)} pictures cannot be used")


def _findings(options: argparse.Namespace, threads: Executor) -> Iterator[Finding]:
    """In squares, whatever the buckets: sorting would leave out what is to be reported."""
    from ..distillation import Framer, HubImages, ImageFolder
    from ..distillation.data.inspection import inspect_images, inspect_shards

    squares, column = Framer(options.resolution), options.caption_column
    if ".tar" in options.data:
        return inspect_shards(options.data, column)
    folder = Path(options.data)
    if folder.is_file():
        raise UserError(f"data: expected a folder, a hub id or shards (.tar), {folder} is a file")
    saved = any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))
    if folder.is_dir() and not saved:
        return inspect_images(ImageFolder(folder, squares, column), threads)
    return inspect_images(HubImages.load(options.data, squares, options.image_column, column), threads)


def _summary(seen: list[Finding], framer: Framer) -> str:
    sizes = [finding.size for finding in seen if finding.size]
    if not sizes:
        return "no picture that can be used"
    buckets = Counter(framer.sizes[framer.bucket(*size)] for size in sizes)
    enlarged = sum(_is_enlarged(size, framer) for size in sizes)
    empty = sum(not finding.caption.strip() for finding in seen if finding.size)
    lines = [f"{len(sizes)} pictures: {empty} with an empty caption, {enlarged} smaller than they are trained at"]
    lines += [f"  {height} x {width}: {count}" for (height, width), count in buckets.most_common()]
    return "\n".join(lines)


def _is_enlarged(size: tuple[int, int], framer: Framer) -> bool:
    height, width = framer.sizes[framer.bucket(*size)]
    return size[0] < height or size[1] < width
