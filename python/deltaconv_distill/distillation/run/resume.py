"""Everything that a run needs to go on as if it had never stopped: collected from all processes, and restored."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import gather_object

from .checkpoint import CheckpointError, find_checkpoint, load_state
from .parallel import gathered, random_state, restore_random_state, spread_like, spread_optimizer_state

if TYPE_CHECKING:
    from ..training.trainer import Distiller

logger = logging.getLogger(__name__)

# Settings that a run may change when it resumes; any other would make it another run.
RESUMABLE_CHANGES = frozenset(
    {
        "output_dir",
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


def collect_state(distiller: Distiller) -> dict[str, Any]:
    """The state of all processes; each has to call it, and the main one to write it."""
    scaler = distiller.precision.scaler
    each = {"rng": random_state(), "data": distiller.stream.state()}
    return {
        "step": distiller.step,
        "skipped": distiller.skipped,
        "skipped_in_a_row": distiller.skipped_in_a_row,
        **_identity(distiller),
        "blocks": gathered({name: value.clone() for name, value in distiller.fusion.state_dict().items()}),
        "optimizer": gathered(distiller.optimizer.state_dict()),
        "lr_scheduler": distiller.lr_scheduler.state_dict(),
        "scaler": scaler.state_dict() if scaler else None,
        "ema": gathered(distiller.ema.state_dict()) if distiller.ema else None,
        "processes": gather_object([each]) if distiller.accelerator.num_processes > 1 else [each],
    }


def checkpoint_to_resume(distiller: Distiller) -> Path | None:
    """The checkpoint that the settings ask for; None without one."""
    requested = distiller.config.resume_from_checkpoint
    if not requested:
        return None
    path = find_checkpoint(distiller.output_dir, requested)
    if path is None:
        logger.warning("no checkpoint in %s: starting from step 0", distiller.output_dir)
    return path


def restore_state(distiller: Distiller, path: Path) -> None:
    """Put a distiller where the checkpoint was written.

    Raises:
        CheckpointError: it was written with settings, data or blocks that would make it another run.
    """
    state = load_state(path)
    _check_compatible(distiller, path, state)
    parameters = distiller.parameters
    own = distiller.fusion.state_dict()
    blocks = {name: spread_like(value, own[name]) for name, value in state["blocks"].items()}
    distiller.fusion.load_state_dict(blocks)
    distiller.optimizer.load_state_dict(spread_optimizer_state(state["optimizer"], parameters))
    distiller.lr_scheduler.load_state_dict(state["lr_scheduler"])
    if distiller.precision.scaler:
        distiller.precision.scaler.load_state_dict(state["scaler"])
    if distiller.ema:
        pairs = zip(state["ema"]["shadow_params"], parameters, strict=True)
        shadow = [spread_like(value, parameter) for value, parameter in pairs]
        distiller.ema.load_state_dict({**state["ema"], "shadow_params": shadow})
    _restore_process(distiller, path, state["processes"])
    distiller.step = state["step"]
    distiller.skipped, distiller.skipped_in_a_row = state["skipped"], state["skipped_in_a_row"]
    distiller.outputs.log.rewind(distiller.step)
    logger.info("resumed %s", path)


def _restore_process(distiller: Distiller, path: Path, processes: list[dict[str, Any]]) -> None:
    accelerator = distiller.accelerator
    if len(processes) == accelerator.num_processes:
        mine = processes[accelerator.process_index]
    elif not processes[0]["data"]:
        mine = processes[0]  # examples are dealt out by position, whatever the number of processes
    else:
        raise CheckpointError(
            f"{path}: shards were read by {len(processes)} processes, which {accelerator.num_processes} cannot take up"
        )
    distiller.stream.load_state(mine["data"])
    restore_random_state(mine["rng"])


def _identity(distiller: Distiller) -> dict[str, Any]:
    examples = getattr(distiller.stream, "examples", None)
    return {
        "config": asdict(distiller.config),
        "num_examples": None if examples is None else len(examples),
        "global_batch_size": distiller.global_batch_size,
    }


def _check_compatible(distiller: Distiller, path: Path, state: dict[str, Any]) -> None:
    """An exact resume needs the same stream, optimizer and blocks; anything else is named, not guessed."""
    identity = _identity(distiller)
    ours = {**identity.pop("config"), **identity}
    theirs = {**state["config"], **{name: state[name] for name in identity}}
    allowed = set(RESUMABLE_CHANGES)
    if distiller.config.lr_scheduler in LR_SCHEDULERS_WITH_END:
        allowed -= {"max_train_steps"}
    changed = [name for name in ours if name in theirs and theirs[name] != ours[name]]
    harmful = [f"{name} {theirs[name]} -> {ours[name]}" for name in changed if name not in allowed]
    if harmful:
        raise CheckpointError(f"{path}: was written with other settings: {', '.join(harmful)}")
    shapes = {name: value.shape for name, value in distiller.fusion.state_dict().items()}
    if shapes != {name: value.shape for name, value in state["blocks"].items()}:
        raise CheckpointError(f"{path}: its blocks have other layers or kernel sizes than this fusion")
