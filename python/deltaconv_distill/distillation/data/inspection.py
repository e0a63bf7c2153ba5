"""A pass over a whole data set that decodes every picture and reads every caption, and trains on none."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass

from .errors import BadPicture
from .images import FramedImages
from .pictures import Source, read_picture
from .shards import caption_of, expand_shards, picture_of, read_samples


@dataclass(frozen=True)
class Finding:
    """One picture: its height and width as a viewer shows it, or why it cannot be used."""

    name: str
    size: tuple[int, int] | None = None
    caption: str = ""
    fault: str | None = None


def inspect_images(images: FramedImages, threads: Executor) -> Iterator[Finding]:
    """Every picture of a folder or a data set, in order, decoded by `threads`."""

    def inspect(index: int) -> Finding:
        return _finding(images.name(index), images.source(index), images.captions[index])

    return threads.map(inspect, range(len(images)))


def inspect_shards(urls: str, caption_column: str) -> Iterator[Finding]:
    """Every sample of every shard, and a finding for a shard that cannot be read to its end."""
    for url in expand_shards(urls):
        faults: dict[str, str] = {}
        for sample in read_samples(url, faults):
            name = f"{url}, sample {sample.get('__key__')}"
            try:
                yield _finding(name, picture_of(sample), caption_of(sample, caption_column))
            except BadPicture as error:
                yield Finding(name, fault=str(error))
        for name, fault in faults.items():
            yield Finding(name, fault=fault)


def _finding(name: str, source: Source, caption: str) -> Finding:
    try:
        picture = read_picture(source)
    except BadPicture as error:
        return Finding(name, fault=str(error))
    return Finding(name, (picture.height, picture.width), caption)
