"""Batches whose noise training never drew: what students are measured on."""

from __future__ import annotations

from collections.abc import Iterator

from ..data.batches import Batch, Draws
from ..data.example_stream import ExampleStream
from ..data.examples import Examples
from ..task import DenoisingTask

# The training stream has the run's own seed; this offset keeps the noises apart from every one of its draws.
SEED_OFFSET = 1_000_003


def held_out_batches(
    task: DenoisingTask, examples: Examples, seed: int, batch_size: int, count: int
) -> Iterator[Batch]:
    """The first `count` batches, on the denoiser's device, that go with a run's `seed`; captions are never dropped."""
    stream = ExampleStream(
        examples, batch_size, Draws(seed + SEED_OFFSET, task.num_timesteps, flow_times=task.flow_times)
    )
    for index in range(count):
        yield stream.batch(index * batch_size).to(task.denoiser.device)
