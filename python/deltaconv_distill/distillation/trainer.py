"""The distillation loop: one denoiser runs as teacher with its attention and as student with the blocks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel

from ..conversion import DeltaConvFusion
from .checkpoint import FUSION_FOLDER, CheckpointError, find_checkpoint, load_state, prune_checkpoints, save_checkpoint
from .config import DistillConfig
from .data import Examples
from .losses import LossTerms, distillation_losses
from .progress import TrainingBar
from .records import StepLog, StepRecord
from .stream import Batch, ExampleStream
from .task import DenoisingTask

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
    }
)


class TrainingDiverged(RuntimeError):
    """Too many steps in a row had a loss or gradient that is not finite."""


class Distiller:
    """Trains the blocks of an attached fusion to stand in for the self-attention that they replace.

    Only the blocks have gradients and optimizer state; every other weight exists once and serves teacher and student.

    Args:
        pipe: the pipeline that `fusion` is attached to.
        fusion: blocks in float32.
        examples: encoded training data.
        config: settings.

    Raises:
        ValueError: the blocks are not float32, or the scheduler's prediction type is neither epsilon nor v_prediction.
        CheckpointError: the checkpoint to resume from is damaged.
    """

    def __init__(
        self, pipe: DiffusionPipeline, fusion: DeltaConvFusion, examples: Examples, config: DistillConfig
    ) -> None:
        self.config = config
        self.fusion = fusion
        self.task = DenoisingTask(pipe)
        self.parameters = _only_blocks_train(pipe, fusion)
        self.stream = ExampleStream(
            examples,
            config.seed,
            config.train_batch_size,
            self.task.num_timesteps,
            config.proportion_empty_prompts,
        )
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=config.learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
            weight_decay=config.adam_weight_decay,
            eps=config.adam_epsilon,
        )
        self.lr_scheduler = get_scheduler(
            config.lr_scheduler,
            self.optimizer,
            num_warmup_steps=config.lr_warmup_steps,
            num_training_steps=config.max_train_steps,
        )
        self.ema = EMAModel(self.parameters, decay=config.ema_decay) if config.use_ema else None
        self.step = 0
        self.skipped = 0
        self.skipped_in_a_row = 0
        self.output_dir = Path(config.output_dir) if config.output_dir else None
        self.log = StepLog(self.output_dir)
        if config.resume_from_checkpoint:
            self._resume(config.resume_from_checkpoint)

    def train(self, on_step: Callable[[StepRecord], None] | None = None) -> list[StepRecord]:
        """Run to the limit of steps or seconds and leave the trained blocks, or their average, in the fusion.

        Returns:
            One record for each step of this run and of the run that it resumes.

        Raises:
            TrainingDiverged: `max_skipped_steps` steps in a row were not finite.
            CheckpointError: a checkpoint could not be written.
        """
        saved_at = self.step
        with TrainingBar(self.config, self.step) as bar:
            while self.step < self.config.max_train_steps and not bar.time_is_up():
                record = self.train_step()
                bar.show(record, self.skipped)
                if on_step:
                    on_step(record)
                if self.step % self.config.checkpointing_steps == 0:
                    saved_at = self.save_checkpoint()
        if saved_at != self.step:
            self.save_checkpoint()
        self._finish()
        return self.log.records

    def train_step(self) -> StepRecord:
        """One optimizer step on the next batch; skipped, and counted, where the loss or the gradient is not finite."""
        started = time.perf_counter()
        batch = self.stream.batch(self.step * self.config.train_batch_size).to(self.task.denoiser.device)
        terms = self.losses(batch)
        total = terms.total(self.config.weights)
        total.backward()
        grad_norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        finite = bool(torch.isfinite(total) and torch.isfinite(grad_norm))
        learning_rate = self.lr_scheduler.get_last_lr()[0]
        if finite:
            self.optimizer.step()
            self.lr_scheduler.step()
            if self.ema:
                self.ema.step(self.parameters)
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        record = StepRecord(
            step=self.step,
            terms=terms.as_floats(),
            total=total.item(),
            grad_norm=grad_norm.item(),
            learning_rate=learning_rate,
            seconds=time.perf_counter() - started,
            skipped=not finite,
        )
        self.log.append(record)
        self._guard(record)
        return record

    def losses(self, batch: Batch) -> LossTerms:
        """Both passes over one noisy batch: the teacher's without a graph, then the student's."""
        with torch.no_grad(), self.fusion.teacher():
            teacher, teacher_features = self._predict(batch)
        student, student_features = self._predict(batch)
        return distillation_losses(student, teacher, self.task.target(batch), student_features, teacher_features)

    def save_checkpoint(self) -> int:
        """Write a checkpoint, prune old ones, and return its step; without `output_dir` nothing is written."""
        if self.output_dir:
            state = self._state()
            with self.averaged():
                save_checkpoint(self.output_dir, self.step, state, self.fusion)
            prune_checkpoints(self.output_dir, self.config.checkpoints_total_limit)
        return self.step

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the blocks hold their moving average (under `use_ema`); the trained values come back afterwards."""
        if not self.ema:
            yield
            return
        self.ema.store(self.parameters)
        self.ema.copy_to(self.parameters)
        try:
            yield
        finally:
            self.ema.restore(self.parameters)

    def _finish(self) -> None:
        if self.ema:
            self.ema.copy_to(self.parameters)
        if self.output_dir:
            self.fusion.save_pretrained(self.output_dir / FUSION_FOLDER)

    def _predict(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        bf16 = self.config.mixed_precision == "bf16"
        with (
            torch.autocast(batch.latents.device.type, torch.bfloat16, enabled=bf16),
            self.fusion.record_features() as features,
        ):
            return self.task.predict(batch), features

    def _guard(self, record: StepRecord) -> None:
        if not record.skipped:
            self.skipped_in_a_row = 0
            return
        self.skipped += 1
        self.skipped_in_a_row += 1
        logger.warning("step %d skipped: loss %g, gradient norm %g", record.step, record.total, record.grad_norm)
        if self.skipped_in_a_row >= self.config.max_skipped_steps:
            raise TrainingDiverged(
                f"{self.skipped_in_a_row} steps in a row had a loss or gradient that is not finite, "
                f"up to step {record.step}; lower learning_rate or train without mixed_precision"
            )

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
            "config": asdict(self.config),
            "num_examples": len(self.stream.examples),
            "blocks": {name: value.clone() for name, value in self.fusion.state_dict().items()},
            "optimizer": self.optimizer.state_dict(),
            "lr_scheduler": self.lr_scheduler.state_dict(),
            "ema": self.ema.state_dict() if self.ema else None,
            "rng": torch.get_rng_state(),
        }

    def _resume(self, requested: str) -> None:
        path = find_checkpoint(self.output_dir, requested)
        if path is None:
            logger.warning("no checkpoint in %s: starting from step 0", self.output_dir)
            return
        state = load_state(path)
        self._check_compatible(path, state)
        self.fusion.load_state_dict(state["blocks"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.lr_scheduler.load_state_dict(state["lr_scheduler"])
        if self.ema:
            self.ema.load_state_dict(state["ema"])
        torch.set_rng_state(state["rng"])
        self.step, self.skipped, self.skipped_in_a_row = state["step"], state["skipped"], state["skipped_in_a_row"]
        self.log.rewind(self.step)
        logger.info("resumed %s", path)

    def _check_compatible(self, path: Path, state: dict[str, Any]) -> None:
        """An exact resume needs the same stream, optimizer and blocks; anything else is named, not guessed."""
        theirs = {**state["config"], "num_examples": state["num_examples"]}
        ours = {**asdict(self.config), "num_examples": len(self.stream.examples)}
        changed = [f"{name} {theirs.get(name)} -> {ours[name]}" for name in ours if theirs.get(name) != ours[name]]
        harmful = [change for change in changed if change.split()[0] not in RESUMABLE_CHANGES]
        if harmful:
            raise CheckpointError(f"{path}: was written with other settings: {', '.join(harmful)}")
        shapes = {name: value.shape for name, value in self.fusion.state_dict().items()}
        if shapes != {name: value.shape for name, value in state["blocks"].items()}:
            raise CheckpointError(f"{path}: its blocks have other layers or kernel sizes than this fusion")


def _only_blocks_train(pipe: DiffusionPipeline, fusion: DeltaConvFusion) -> list[torch.nn.Parameter]:
    for component in pipe.components.values():
        if isinstance(component, torch.nn.Module):
            component.requires_grad_(False).eval()
    parameters = list(fusion.requires_grad_(True).parameters())
    unfit = {parameter.dtype for parameter in parameters} - {torch.float32}
    if unfit:
        raise ValueError(f"fusion: expected blocks in torch.float32, got {', '.join(map(str, unfit))}")
    return parameters
