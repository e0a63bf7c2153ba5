"""Everything that a run needs to go on as if it had never stopped: collected from all processes, and restored."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from diffusers import ModelMixin
from diffusers.training_utils import EMAModel

from ...conversion import DeltaConvFusion
from ...conversion.side_car import CONFIG
from ...conversion.teacher_record import differences_from
from ..config import DistillConfig
from ..data.example_stream import ExampleStream
from ..data.shard_stream import ShardStream
from .checkpoint import FUSION_FOLDER, CheckpointError, find_checkpoint, load_state
from .identity import RunIdentity
from .parallel import gathered, random_state, restore_random_state, spread_like, spread_optimizer_state

logger = logging.getLogger(__name__)


@dataclass
class RunState:
    """What training changes: the parts that have a state of their own, and counts of steps.

    scaler: of float16's loss, None in other precisions; ema: the moving average, None without one.
    skipped, skipped_in_a_row: steps whose loss or gradient was not finite.
    """

    fusion: DeltaConvFusion
    stream: ExampleStream | ShardStream
    optimizer: torch.optim.Optimizer
    lr_scheduler: torch.optim.lr_scheduler.LRScheduler
    scaler: torch.amp.GradScaler | None
    ema: EMAModel | None
    step: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0

    def count_step(self, finite: bool) -> None:
        """One more step, which was skipped unless it was finite."""
        self.step += 1
        self.skipped += not finite
        self.skipped_in_a_row = 0 if finite else self.skipped_in_a_row + 1


def collect_state(state: RunState, identity: RunIdentity, accelerator: Accelerator) -> dict[str, Any]:
    """The state of all processes; each has to call it, and the main one to write it."""
    each = {"rng": random_state(), "data": state.stream.state()}
    return {
        "step": state.step,
        "skipped": state.skipped,
        "skipped_in_a_row": state.skipped_in_a_row,
        **asdict(identity),
        "blocks": gathered({name: value.clone() for name, value in state.fusion.state_dict().items()}),
        "optimizer": gathered(state.optimizer.state_dict()),
        "lr_scheduler": state.lr_scheduler.state_dict(),
        "scaler": state.scaler.state_dict() if state.scaler else None,
        "ema": gathered(state.ema.state_dict()) if state.ema else None,
        "processes": gather_object([each]) if accelerator.num_processes > 1 else [each],
    }


def checkpoint_to_resume(config: DistillConfig) -> Path | None:
    """The checkpoint that the settings ask for; None without one.

    Raises:
        CheckpointError: it is damaged.
    """
    if not config.resume_from_checkpoint:
        return None
    folder = Path(config.output_dir) if config.output_dir else None
    path = find_checkpoint(folder, config.resume_from_checkpoint)
    if path is None:
        logger.warning("no checkpoint in %s: starting from step 0", folder)
    return path


def refuse_another_teacher(denoiser: ModelMixin, path: Path) -> None:
    """Raises CheckpointError where the run that wrote the checkpoint at `path` had another teacher."""
    config = json.loads((path / FUSION_FOLDER / CONFIG).read_text(encoding="utf-8"))
    differences = differences_from(denoiser, config.get("teacher"))
    if differences.config or differences.weights:
        raise CheckpointError(
            f"{path}: was written with another teacher: {differences}; to train its blocks for this one, start a new "
            "run from its fusion"
        )


def restore_state(state: RunState, identity: RunIdentity, accelerator: Accelerator, path: Path) -> None:
    """Put the parts of `state` and this process's generators where the checkpoint was written.

    Raises:
        CheckpointError: it was written with settings, data or blocks that would make it another run.
    """
    saved = load_state(path)
    _refuse_another_run(state, identity, saved, path)
    parameters, own = list(state.fusion.parameters()), state.fusion.state_dict()
    state.fusion.load_state_dict({name: spread_like(value, own[name]) for name, value in saved["blocks"].items()})
    state.optimizer.load_state_dict(spread_optimizer_state(saved["optimizer"], parameters))
    state.lr_scheduler.load_state_dict(saved["lr_scheduler"])
    if state.scaler:
        state.scaler.load_state_dict(saved["scaler"])
    if state.ema:
        pairs = zip(saved["ema"]["shadow_params"], parameters, strict=True)
        shadow = [spread_like(value, parameter) for value, parameter in pairs]
        state.ema.load_state_dict({**saved["ema"], "shadow_params": shadow})
    mine = _of_this_process(saved["processes"], accelerator, path)
    state.stream.load_state(mine["data"])
    restore_random_state(mine["rng"])
    state.step, state.skipped, state.skipped_in_a_row = saved["step"], saved["skipped"], saved["skipped_in_a_row"]
    logger.info("resumed %s", path)


def _refuse_another_run(state: RunState, identity: RunIdentity, saved: dict[str, Any], path: Path) -> None:
    """An exact resume needs the same stream, optimizer and blocks; anything else is named, not guessed."""
    changes = identity.changes_from({name: saved[name] for name in asdict(identity) if name in saved})
    if changes:
        raise CheckpointError(f"{path}: was written with other settings: {', '.join(changes)}")
    shapes = {name: value.shape for name, value in state.fusion.state_dict().items()}
    if shapes != {name: value.shape for name, value in saved["blocks"].items()}:
        raise CheckpointError(f"{path}: its blocks have other layers or kernel sizes than this fusion")


def _of_this_process(processes: list[dict[str, Any]], accelerator: Accelerator, path: Path) -> dict[str, Any]:
    """The stream's and the generators' state that this process goes on from."""
    if len(processes) == accelerator.num_processes:
        return processes[accelerator.process_index]
    if not processes[0]["data"]:
        return processes[0]  # examples are dealt out by position, whatever the number of processes
    raise CheckpointError(
        f"{path}: shards were read by {len(processes)} processes, which {accelerator.num_processes} cannot take up"
    )
