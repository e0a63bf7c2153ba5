"""Which run a checkpoint belongs to: what may not change when a run goes on from it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..config import DistillConfig
from ..data.examples import Examples
from ..data.shards import ShardedImages

# Settings that a run may change when it resumes; any other would make it another run.
RESUMABLE_CHANGES = frozenset(
    {
        "output_dir",
        "overwrite_output_dir",
        "max_train_steps",
        "max_train_seconds",
        "checkpointing_steps",
        "checkpoints_total_limit",
        "resume_from_checkpoint",
        "max_skipped_steps",
        "gradient_accumulation_steps",  # what counts is the global batch, compared by itself
        "gradient_checkpointing",
        "offload_ema",
        "dataloader_num_workers",
        "report_to",
        "tracker_project_name",
        "validation_prompts",
        "validation_steps",
        "validation_inference_steps",
        "validation_resolution",
    }
)
# Schedules that depend on how long the run is to be.
LR_SCHEDULERS_WITH_END = frozenset({"linear", "cosine", "cosine_with_restarts", "polynomial"})


@dataclass(frozen=True)
class RunIdentity:
    """The settings of a run and the sizes that its stream of examples follows from.

    num_examples: None for streamed shards, which are not counted.
    captions: a digest of all captions and buckets, in order; None for shards.
    global_batch_size: examples in one optimizer step, over all processes.
    """

    config: DistillConfig
    num_examples: int | None
    captions: str | None
    global_batch_size: int

    def changes_from(self, saved: Mapping[str, Any]) -> list[str]:
        """What makes this another run than the one that saved `asdict(identity)`: "name old -> new" for each."""
        ours, theirs = _flat(asdict(self)), _flat(saved)
        allowed = set(RESUMABLE_CHANGES)
        if self.config.lr_scheduler in LR_SCHEDULERS_WITH_END:
            allowed -= {"max_train_steps"}
        changed = [name for name in ours if name in theirs and theirs[name] != ours[name]]
        return [f"{name} {theirs[name]} -> {ours[name]}" for name in changed if name not in allowed]


def identify(config: DistillConfig, examples: Examples | ShardedImages, num_processes: int) -> RunIdentity:
    """The run of these settings on these examples."""
    batch = config.train_batch_size * config.gradient_accumulation_steps * num_processes
    if isinstance(examples, ShardedImages):
        return RunIdentity(config, None, None, batch)
    return RunIdentity(config, len(examples), _digest(examples), batch)


def _digest(examples: Examples) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for number, caption in enumerate(examples.captions):
        digest.update(repr((caption, examples.buckets[number] if examples.buckets is not None else 0)).encode())
    return digest.hexdigest()


def _flat(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {**identity["config"], **{name: value for name, value in identity.items() if name != "config"}}
