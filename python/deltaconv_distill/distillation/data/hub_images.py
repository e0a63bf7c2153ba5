"""Captioned images of the `datasets` library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import BadPictures, DataError
from .framing import Framer
from .images import FramedImages


class HubImages(FramedImages):
    """A data set of the `datasets` library, from the hub or from `save_to_disk`; pictures stay on the disk.

    Args:
        dataset: a `datasets.Dataset` with a column of images and one of captions.

    Raises:
        DataError: columns are missing or of another type.
    """

    def __init__(
        self,
        dataset: Any,
        resolution: int | Framer,
        image_column: str = "image",
        caption_column: str = "text",
        bad: BadPictures | None = None,
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
        super().__init__(captions, _EncodedColumn(encoded, image_column), resolution, bad)

    @classmethod
    def load(
        cls,
        name: str,
        resolution: int | Framer,
        image_column: str = "image",
        caption_column: str = "text",
        split: str = "train",
        config_name: str | None = None,
        bad: BadPictures | None = None,
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
        return cls(dataset, resolution, image_column, caption_column, bad)

    def _source_name(self, entry: int) -> str:
        return f"entry {entry} of the data set"


class _EncodedColumn(Sequence):
    """The encoded pictures of a column, read one by one: bytes, or the path of a file."""

    def __init__(self, dataset: Any, column: str) -> None:
        self._dataset, self._column = dataset, column

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: Any) -> Any:
        entry = self._dataset[index][self._column]
        return entry["bytes"] if entry["bytes"] is not None else entry["path"]
