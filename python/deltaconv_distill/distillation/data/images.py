"""Captioned images: the embedded emoji, a folder, or a Hugging Face data set."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from ...embedded import load_emoji
from .framing import Framer, Framing

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"})


class DataError(ValueError):
    """The training data cannot be used; the message names the file and what was expected."""


class CaptionedImages:
    """A data set of images with captions, by index: what a subclass provides.

    captions: one for each image.
    buckets:  each image's bucket, images of one bucket having one size; None where all have one size.
    """

    captions: Sequence[str]
    buckets: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.captions)

    def image(self, index: int) -> torch.Tensor:
        """[3, H, W] uint8."""
        raise NotImplementedError

    def framing(self, index: int) -> Framing:
        """Size and crop of the image; unless a subclass knows better, it is whole and as large as it was."""
        return Framing.whole(*self.image(index).shape[1:])


class EmojiImages(CaptionedImages):
    """The emoji that the embedded teacher was trained on, 32x32 in colour: each under its name, then under its kind.

    A name ("red apple") belongs to one picture, a kind ("fruit") to many.
    """

    def __init__(self) -> None:
        emoji = load_emoji(pictorial_only=True)
        self.captions = [*emoji.captions, *emoji.kinds]
        self.pixels = np.concatenate([emoji.images, emoji.images])  # uint8 [2N, 32, 32, 3]

    def image(self, index: int) -> torch.Tensor:
        return torch.from_numpy(self.pixels[index]).permute(2, 0, 1)


class FramedImages(CaptionedImages):
    """Pictures of any size, resized and cropped by a `Framer`, which also sorts them into buckets.

    Args:
        sources: a path or encoded bytes for each picture.
        framer: a resolution makes a `Framer` of squares.
    """

    def __init__(self, captions: Sequence[str], sources: Sequence[Any], framer: Framer | int) -> None:
        self.captions = captions
        self.framer = Framer(framer) if isinstance(framer, int) else framer
        self._sources = sources
        if self.framer.has_buckets:
            self.buckets = [self.framer.bucket(*self._size(index)) for index in range(len(captions))]

    def name(self, index: int) -> str:
        """What an error calls the picture."""
        return str(self._sources[index])

    def image(self, index: int) -> torch.Tensor:
        with self._open(index) as picture:
            try:
                return self.framer.apply(picture)
            except OSError as error:
                raise self._unreadable(index, error) from error

    def framing(self, index: int) -> Framing:
        return self.framer.framing(*self._size(index))

    def _size(self, index: int) -> tuple[int, int]:
        """(height, width), from the picture's header alone."""
        with self._open(index) as picture:
            return picture.height, picture.width

    def _open(self, index: int) -> Image.Image:
        source = self._sources[index]
        try:
            return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
        except (OSError, UnidentifiedImageError) as error:
            raise self._unreadable(index, error) from error

    def _unreadable(self, index: int, error: Exception) -> DataError:
        return DataError(f"{self.name(index)}: not a readable image ({error})")


class ImageFolder(FramedImages):
    """A folder of images with captions.

    Captions come from metadata.jsonl or metadata.csv (columns `file_name` and `caption_column`, as in Hugging Face's
    imagefolder), or else from a .txt file beside each image.

    Args:
        resolution: images are resized on the shorter side and cropped at the centre to this square; or a `Framer`.

    Raises:
        DataError: no images, a missing caption, or a file that is not an image.
    """

    def __init__(self, folder: str | Path, resolution: int | Framer, caption_column: str = "text") -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise DataError(f"train_data_dir: expected a folder of images, got {str(folder)!r}")
        captioned = _read_metadata(self.folder, caption_column) or _read_text_files(self.folder)
        if not captioned:
            raise DataError(f"train_data_dir: no images ({', '.join(sorted(IMAGE_SUFFIXES))}) in {self.folder}")
        super().__init__([caption for _, caption in captioned], [path for path, _ in captioned], resolution)


class HubImages(FramedImages):
    """A data set of the `datasets` library, from the hub or from `save_to_disk`; pictures stay on the disk.

    Args:
        dataset: a `datasets.Dataset` with a column of images and one of captions.

    Raises:
        DataError: columns are missing or of another type.
    """

    def __init__(
        self, dataset: Any, resolution: int | Framer, image_column: str = "image", caption_column: str = "text"
    ) -> None:
        import datasets

        for flag, column in (("image_column", image_column), ("caption_column", caption_column)):
            if column not in dataset.column_names:
                raise DataError(f"{flag}: expected one of the columns {dataset.column_names}, got {column!r}")
        if not isinstance(dataset.features[image_column], datasets.Image):
            raise DataError(f"image_column: expected images in {image_column!r}, got {dataset.features[image_column]}")
        encoded = dataset.cast_column(image_column, datasets.Image(decode=False))
        captions = list(dataset[caption_column])
        if not all(isinstance(caption, str) for caption in captions):
            raise DataError(f"caption_column: expected texts in {caption_column!r}")
        super().__init__(captions, _EncodedColumn(encoded, image_column), resolution)

    @classmethod
    def load(
        cls,
        name: str,
        resolution: int | Framer,
        image_column: str = "image",
        caption_column: str = "text",
        split: str = "train",
        config_name: str | None = None,
    ) -> HubImages:
        """A folder made by `save_to_disk`, else whatever `datasets.load_dataset(name)` finds.

        Raises:
            DataError: the `datasets` library is missing, or it cannot load the set.
        """
        try:
            import datasets
        except ImportError as error:
            raise DataError("dataset_name: needs the datasets library: pip install datasets") from error
        try:
            if (Path(name) / "state.json").is_file() or (Path(name) / "dataset_dict.json").is_file():
                loaded = datasets.load_from_disk(name)
                dataset = loaded[split] if isinstance(loaded, datasets.DatasetDict) else loaded
            else:
                dataset = datasets.load_dataset(name, config_name, split=split)
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"dataset_name: {name!r} cannot be loaded ({error})") from error
        return cls(dataset, resolution, image_column, caption_column)

    def name(self, index: int) -> str:
        return f"entry {index} of the data set"


class _EncodedColumn(Sequence):
    """The encoded pictures of a column, read one by one: bytes, or the path of a file."""

    def __init__(self, dataset: Any, column: str) -> None:
        self._dataset, self._column = dataset, column

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: Any) -> Any:
        entry = self._dataset[index][self._column]
        return entry["bytes"] if entry["bytes"] is not None else entry["path"]


def _read_metadata(folder: Path, caption_column: str) -> list[tuple[Path, str]]:
    rows: list[dict] = []
    for name in ("metadata.jsonl", "metadata.csv"):
        path = folder / name
        if path.is_file():
            try:
                rows = _parse(path)
            except (ValueError, csv.Error) as error:
                raise DataError(f"{path}: not readable as {path.suffix[1:]} ({error})") from error
            break
    return [_captioned(folder, path, number, row, caption_column) for number, row in enumerate(rows, 1)]


def _parse(path: Path) -> list[dict]:
    with open(path, encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            return list(csv.DictReader(file))
        return [json.loads(line) for line in file if line.strip()]


def _captioned(folder: Path, metadata: Path, number: int, row: dict, caption_column: str) -> tuple[Path, str]:
    for column in ("file_name", caption_column):
        if not isinstance(row.get(column), str):
            raise DataError(f"{metadata}, entry {number}: expected a text column {column!r}, got columns {sorted(row)}")
    path = folder / row["file_name"]
    if not path.is_file():
        raise DataError(f"{metadata}, entry {number}: {path} does not exist")
    return path, row[caption_column]


def _read_text_files(folder: Path) -> list[tuple[Path, str]]:
    images = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    for path in images:
        if not path.with_suffix(".txt").is_file():
            raise DataError(
                f"{path}: no caption; expected metadata.jsonl, metadata.csv or {path.with_suffix('.txt').name}"
            )
    return [(path, path.with_suffix(".txt").read_text(encoding="utf-8").strip()) for path in images]
