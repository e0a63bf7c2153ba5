"""Streamed shards as a stream of batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from torch.utils.data import DataLoader

from .batches import Batch, Draws, draw_batch
from .errors import DataError
from .shards import Pixels, Place, ShardedImages, ShardReader


class ShardStream:
    """The batches of a process, in order; `batch(position)` is to be asked for one position after the other.

    Raises:
        DataError: there are fewer shards than workers in all processes.
    """

    def __init__(
        self,
        images: ShardedImages,
        batch_size: int,
        draws: Draws,
        num_workers: int = 0,
        process: int = 0,
        num_processes: int = 1,
    ) -> None:
        self.batch_size = batch_size
        self.bad = images.bad
        self._images = images
        self._draws = draws
        self._num_workers = num_workers
        places = [Place()] * max(1, num_workers)
        self._reader = ShardReader(images, draws.seed, batch_size, process, num_processes, places)
        self._taken = 0
        self._batches: Iterator[Pixels] | None = None
        if len(images.shards) < num_processes * len(places):
            raise DataError(
                f"train_shards: expected a shard at least for each of {num_processes} processes x {len(places)} "
                f"workers, got {len(images.shards)}"
            )

    def batch(self, position: int) -> Batch:
        """The next batch, with the noise of `position`."""
        raw = self.read()
        encoder = self._images.encoder
        pixels = self._draws.mirror(raw.pixels, position)
        moments = encoder.moments(pixels.float() / 127.5 - 1)
        batch, kept = draw_batch(self._draws, position, moments, raw.captions)
        conditioning = {**encoder.conditioning(kept), **encoder.geometry(raw.framings)}
        return Batch(batch.latents, batch.noise, batch.timesteps, conditioning)

    def read(self) -> Pixels:
        """The next decoded batch.

        Raises:
            DataError: no sample of a whole epoch can be used, or too many cannot.
        """
        if self._batches is None:
            self._batches = self._open()
        raw = next(self._batches)
        self._reader.places[self._taken % len(self._reader.places)] = raw.place
        self._taken += 1
        for name, reason in raw.bad.items():
            self.bad.leave_out(name, reason)
        return raw

    def prefetch(self, position: int) -> None:
        """The workers read ahead by themselves."""

    def state(self) -> dict[str, Any]:
        """Where each worker is, and how many batches have been taken from them in turn."""
        places = [asdict(place) for place in self._reader.places]
        return {"taken": self._taken, "places": places, "shards": len(self._images.shards)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken.

        Raises:
            DataError: it was taken with other workers or shards.
        """
        if len(state["places"]) != len(self._reader.places):
            raise DataError(
                f"dataloader_num_workers: the checkpoint was written with {len(state['places'])} readers of shards "
                f"per process, not {len(self._reader.places)}"
            )
        if state["shards"] != len(self._images.shards):
            count = len(self._images.shards)
            raise DataError(f"train_shards: the checkpoint was written with {state['shards']} shards, not {count}")
        self._taken = state["taken"]
        self._reader.places[:] = [Place(**place) for place in state["places"]]
        self._batches = None

    def _open(self) -> Iterator[Pixels]:
        """A DataLoader asks its workers in turn from the first on: that one plays the worker whose turn it is."""
        count = len(self._reader.places)
        reader = replace(
            self._reader,
            places=list(self._reader.places),
            order=[(self._taken + offset) % count for offset in range(count)],
        )
        return iter(DataLoader(reader, batch_size=None, num_workers=self._num_workers))
