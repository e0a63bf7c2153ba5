"""The stream of batches that a data set and the settings make."""

from __future__ import annotations

from accelerate import Accelerator

from ..config import DistillConfig
from ..task import DenoisingTask
from .batches import Draws
from .example_stream import ExampleStream
from .examples import Examples
from .shard_stream import ShardStream
from .shards import ShardedImages


def open_stream(
    examples: Examples | ShardedImages, config: DistillConfig, task: DenoisingTask, accelerator: Accelerator
) -> ExampleStream | ShardStream:
    """This process's stream, from its beginning.

    Raises:
        DataError: there are fewer shards than workers.
        ValueError: shards, which are read once, under `stage1_repeats`; `random_flip` of encoded examples.
    """
    draws = Draws(
        config.seed,
        task.num_timesteps,
        config.proportion_empty_prompts,
        config.noise_offset,
        config.random_flip,
        task.flow_times,
    )
    if not isinstance(examples, ShardedImages):
        return ExampleStream(examples, config.train_batch_size, draws)
    if config.stage1_repeats > 1:
        raise ValueError(f"stage1_repeats: expected 1 with streamed shards, got {config.stage1_repeats}")
    return ShardStream(
        examples,
        config.train_batch_size,
        draws,
        config.dataloader_num_workers,
        accelerator.process_index,
        accelerator.num_processes,
    )
