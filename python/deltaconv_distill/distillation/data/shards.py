"""Streamed webdataset shards: which process reads which, in what order, and how a read is taken up again.

Every epoch shuffles the shards and deals them out to all workers of all processes, each shard to one. Within a shard
samples pass through a shuffle buffer and are grouped, by bucket, into batches; what is left over at the end of the
shard is filled up to whole batches. A worker's place is therefore (epoch, shard, batches taken from it): resuming
reads one shard again, up to that batch, without decoding.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import IterableDataset

from .batches import ORDER, seeded_generator
from .captions import decode_text
from .encoding import PipelineEncoder
from .errors import BadPicture, BadPictures, DataError
from .framing import Framer, Framing
from .pictures import IMAGE_SUFFIXES, read_picture, read_size

IMAGE_KEYS = tuple(suffix.removeprefix(".") for suffix in sorted(IMAGE_SUFFIXES))
SHUFFLE_BUFFER = 1000
SHOWN_REASONS = 3

RawSample = dict[str, Any]  # webdataset's: "__key__", and the bytes of each file by its extension


@dataclass(frozen=True)
class ShardedImages:
    """Captioned images in tar files: under each key a picture and .txt, or .json with `caption_column`.

    The picture is the file that has a picture's suffix and nothing else behind the key: a.png, not a.mask.png.

    Args:
        urls: as webdataset takes them: paths, "{000..123}" ranges, http(s):, "pipe:" commands; "::" between several.
        framer: makes the pictures one size, or sorts them into buckets.
        encoder: of the teacher.
        caption_column: the entry of .json files that holds the caption.
        shuffle_buffer: samples of a shard that wait, encoded, to be drawn at random.
        bad: counts samples that are left out, to a limit.
    """

    urls: str
    framer: Framer
    encoder: PipelineEncoder
    caption_column: str = "text"
    shuffle_buffer: int = SHUFFLE_BUFFER
    bad: BadPictures = field(default_factory=BadPictures)

    def __post_init__(self) -> None:
        if not self.shards:
            raise DataError(f"train_shards: no shards in {self.urls!r}")
        if not any(":" in url or Path(url).exists() for url in self.shards):  # a colon: an address, or pipe:command
            others = f" and {len(self.shards) - 1} more" if len(self.shards) > 1 else ""
            raise DataError(f"train_shards: no such file: {self.shards[0]}{others}")

    @property
    def shards(self) -> list[str]:
        return expand_shards(self.urls)


def expand_shards(urls: str) -> list[str]:
    """The shards that `urls` names.

    Raises:
        DataError: webdataset is not installed.
    """
    try:
        from webdataset.shardlists import expand_urls
    except ImportError as error:
        raise DataError("train_shards: needs the webdataset library: pip install webdataset") from error
    return list(expand_urls(urls))


@dataclass(frozen=True)
class Place:
    """Where a worker is: its `shard`-th shard of an epoch, and how many of its batches have been taken."""

    epoch: int = 0
    shard: int = 0
    batches: int = 0


@dataclass(frozen=True)
class Pixels:
    """A decoded batch: pixels [B, 3, H, W] uint8, and the place of its worker after it.

    bad: what had to be left out since the worker's batch before: why, by name.
    """

    pixels: torch.Tensor
    captions: list[str]
    framings: list[Framing]
    place: Place
    bad: dict[str, str]


@dataclass
class ShardReader(IterableDataset):
    """The batches of this process's workers; worker i of a DataLoader goes on at `places[i]`."""

    images: ShardedImages
    seed: int
    batch_size: int
    process: int
    num_processes: int
    places: list[Place]
    order: list[int] = field(default_factory=list)  # the worker that each of the DataLoader's plays
    _bad: dict[str, str] = field(default_factory=dict)  # what has been left out since the last batch

    def __iter__(self) -> Iterator[Pixels]:
        info = torch.utils.data.get_worker_info()
        return self.read(self.order[info.id if info else 0])

    def read(self, worker: int) -> Iterator[Pixels]:
        """The endless batches of one worker, from its place on."""
        place = self.places[worker]
        while True:
            shards = self.shards_of(worker, place.epoch)
            yielded = place != Place(place.epoch)  # of an epoch that is taken up midway, earlier batches count
            while place.shard < len(shards):
                for batch in self._read_shard(shards[place.shard], place):
                    yielded = True
                    yield batch
                place = Place(place.epoch, place.shard + 1)
            if not yielded:
                reasons = "; ".join(f"{name}: {reason}" for name, reason in list(self._bad.items())[:SHOWN_REASONS])
                raise DataError(f"train_shards: no usable sample in a whole epoch of {', '.join(shards)} ({reasons})")
            place = Place(place.epoch + 1)

    def shards_of(self, worker: int, epoch: int) -> list[str]:
        """What a worker of this process reads in an epoch, in order; all workers together read each shard once."""
        shards = self.images.shards
        order = torch.randperm(len(shards), generator=seeded_generator(self.seed, ORDER, epoch)).tolist()
        readers = self.num_processes * len(self.places)
        return [shards[index] for index in order[self.process * len(self.places) + worker :: readers]]

    def _read_shard(self, url: str, place: Place) -> Iterator[Pixels]:
        for number, group in enumerate(self._groups(url, place.epoch)):
            if number >= place.batches:
                batch = self._decode(group, url)
                if batch is not None:
                    yield replace(batch, place=replace(place, batches=number + 1), bad=dict(self._bad))
                    self._bad.clear()

    def _groups(self, url: str, epoch: int) -> Iterator[list[RawSample]]:
        """Batches of samples of one bucket each, not decoded yet."""
        waiting: dict[int, list[RawSample]] = {}
        for sample in self._shuffled(url, epoch):
            bucket = self._bucket(sample, url)
            if bucket is None:
                continue
            group = waiting.setdefault(bucket, [])
            group.append(sample)
            if len(group) == self.batch_size:
                yield waiting.pop(bucket)
        for group in waiting.values():
            yield [group[index % len(group)] for index in range(self.batch_size)]

    def _shuffled(self, url: str, epoch: int) -> Iterator[RawSample]:
        draws = random.Random(f"{self.seed} {epoch} {self.images.shards.index(url)}")  # wherever the shards lie
        buffer: list[RawSample] = []
        for sample in read_samples(url, self._bad):
            buffer.append(sample)
            if len(buffer) > self.images.shuffle_buffer:
                yield _pop(buffer, draws)
        while buffer:
            yield _pop(buffer, draws)

    def _bucket(self, sample: RawSample, url: str) -> int | None:
        try:
            size = read_size(picture_of(sample))
            caption_of(sample, self.images.caption_column)
        except BadPicture as error:
            self._leave_out(sample, url, error)
            return None
        return self.images.framer.bucket(*size)

    def _decode(self, group: list[RawSample], url: str) -> Pixels | None:
        """Broken pictures are replaced by sound ones of the same batch; None where there is no sound one."""
        decoded = []
        framer = self.images.framer
        for sample in group:
            try:
                picture = read_picture(picture_of(sample))
            except BadPicture as error:
                self._leave_out(sample, url, error)
                continue
            caption = caption_of(sample, self.images.caption_column)
            decoded.append((framer.apply(picture), caption, framer.framing(picture.height, picture.width)))
        if not decoded:
            return None
        filled = [decoded[index % len(decoded)] for index in range(len(group))]
        pixels, captions, framings = (list(column) for column in zip(*filled, strict=True))
        return Pixels(torch.stack(pixels), captions, framings, Place(), {})

    def _leave_out(self, sample: RawSample, url: str, error: BadPicture) -> None:
        self._bad[f"{url}, sample {sample.get('__key__')}"] = str(error)


def read_samples(url: str, faults: dict[str, str]) -> Iterator[RawSample]:
    """The samples of a shard; why it cannot be read to its end, if so, goes into `faults` under the shard's name."""
    from webdataset.tariterators import tarfile_samples

    def skip(error: Exception) -> bool:
        faults[url] = f"the shard, or what is left of it, cannot be read ({error!r})"
        return True

    yield from tarfile_samples([{"url": url}], handler=skip)


def _pop(buffer: list[RawSample], draws: random.Random) -> RawSample:
    index = draws.randrange(len(buffer))
    buffer[index], buffer[-1] = buffer[-1], buffer[index]
    return buffer.pop()


def picture_of(sample: RawSample) -> bytes:
    """The sample's own picture, encoded.

    Raises:
        BadPicture: it has none.
    """
    found = next((name for name in sample if name.lower() in IMAGE_KEYS), None)
    if found is None:
        raise BadPicture(f"no picture of its own (.png, .jpg, …) among {_extensions(sample)}")
    return sample[found]


def caption_of(sample: RawSample, column: str) -> str:
    """The sample's .txt, or the entry `column` of its .json.

    Raises:
        BadPicture: it has neither, or one that cannot be read.
    """
    try:
        if "txt" in sample:
            return decode_text(sample["txt"], ".txt").strip()
        entries = json.loads(sample["json"]) if "json" in sample else {}
    except ValueError as error:
        raise BadPicture(f"its caption cannot be read ({error})") from error
    caption = entries.get(column) if isinstance(entries, dict) else None
    if not isinstance(caption, str):
        raise BadPicture(f"no caption among {_extensions(sample)}; expected .txt, or .json with {column!r}")
    return caption


def _extensions(sample: RawSample) -> Sequence[str]:
    return [key for key in sample if not key.startswith("__")]
