"""The distillation loop: one denoiser runs as teacher with its attention and as student with the blocks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import DiffusionPipeline

from ...conversion import DeltaConvFusion
from ...conversion.teacher_record import record_teacher
from ..config import DistillConfig
from ..data.batches import Batch
from ..data.examples import Examples
from ..data.shards import ShardedImages
from ..data.training_stream import open_stream
from ..run.identity import identify
from ..run.interruption import Notice, TrainingInterrupted, noticed_signals
from ..run.outputs import Outputs
from ..run.parallel import Losses, LossModule, agreed, make_accelerator, prepare, refuse_unfit_settings
from ..run.progress import TrainingBar
from ..run.records import StepRecord
from ..run.resume import RunState, checkpoint_to_resume, collect_state, refuse_another_teacher, restore_state
from ..run.run_folder import RunFolder
from ..task import DenoisingTask
from .layer_local import attention_calls, fit_projections, local_loss
from .losses import LossTerms, distillation_losses
from .optimization import MovingAverage, make_lr_scheduler, make_optimizer
from .precision import Precision
from .weights import prepare_weights

logger = logging.getLogger(__name__)


class TrainingDiverged(RuntimeError):
    """Too many steps in a row had a loss or gradient that is not finite."""


class Distiller:
    """Trains the blocks of an attached fusion to stand in for the self-attention that they replace.

    Only the blocks have gradients and optimizer state; every other weight exists once and serves teacher and student.

    Args:
        pipe: the pipeline that `fusion` is attached to; training runs on the device of its denoiser.
        fusion: blocks in float32.
        examples: encoded training data, or streamed shards.
        config: settings.
        accelerator: how this process works together with others; unless given, as the launcher configured it.

    Raises:
        ValueError: the blocks are not float32, a setting does not fit the way of launching or the kind of teacher, or
            the scheduler is of another family than the denoiser.
        RunFolderError: the output directory holds what training would replace.
        CheckpointError: the checkpoint to resume from is damaged, or its run had another teacher.
    """

    def __init__(
        self,
        pipe: DiffusionPipeline,
        fusion: DeltaConvFusion,
        examples: Examples | ShardedImages,
        config: DistillConfig,
        accelerator: Accelerator | None = None,
    ) -> None:
        checkpoint = checkpoint_to_resume(config)
        run_folder = RunFolder(config, checkpoint)
        self.config = config
        self.fusion = fusion
        self.pipe = pipe
        self.task = DenoisingTask.configured(pipe, config)
        on_cpu = self.task.denoiser.device.type == "cpu"
        self.accelerator = accelerator or make_accelerator(config, cpu=on_cpu)
        refuse_unfit_settings(self.accelerator, config)
        if checkpoint:
            refuse_another_teacher(self.task.denoiser, checkpoint)
        record_teacher(fusion, self.task.denoiser)  # before its weights are stored in another type
        self.precision = Precision(config, self.accelerator.device.type)
        prepare_weights(pipe, fusion, config, self.accelerator.device)
        self.stream = open_stream(examples, config, self.task, self.accelerator)
        self.identity = identify(config, examples, self.accelerator.num_processes)
        self.outputs = Outputs(pipe, fusion, config, self.accelerator, run_folder)
        self._held_calls: dict[tuple[int, int], Any] = {}  # stage 1, by data step and batch of it
        if config.fit_batches and checkpoint is None:
            self._fit_projections(examples)
        self._prepare_training()
        if checkpoint:
            restore_state(self._state, self.identity, self.accelerator, checkpoint)
            self.outputs.log.rewind(self.step)

    @property
    def step(self) -> int:
        """Optimizer steps done, those of the run that this one resumes included."""
        return self._state.step

    @property
    def skipped(self) -> int:
        """Steps of these that were not finite."""
        return self._state.skipped

    def train(self, on_step: Callable[[StepRecord], None] | None = None) -> list[StepRecord]:
        """Run to the limit of steps or seconds and leave the trained blocks, or their average, in the fusion.

        Returns:
            One record for each step of this run and of the run that it resumes.

        Raises:
            TrainingDiverged: `max_skipped_steps` steps in a row were not finite.
            CheckpointError: a checkpoint, or another of the run's files, could not be written.
            RunFolderError: another process trains into the output directory.
            TrainingInterrupted: Ctrl-C or SIGTERM; a checkpoint of the last step is written.
        """
        with self.outputs.locked(), noticed_signals() as notice:
            stopped = self._run(notice, on_step)
            if stopped:
                raise TrainingInterrupted(stopped, self.step, self.outputs.folder)
        if self.ema:
            self.ema.copy_to(self.parameters)
        self.outputs.finish(self.identity.global_batch_size)
        return self.outputs.log.records

    def _run(self, notice: Notice, on_step: Callable[[StepRecord], None] | None) -> int:
        """Steps to the limit, and the checkpoint after the last; returns the signal that stopped them earlier, or 0."""
        saved_at, stopped = self.step, 0
        with TrainingBar(self.config, self.step, visible=self.accelerator.is_main_process) as bar:
            while self.step < self.config.max_train_steps:
                time_is_up, stopped = agreed(self.accelerator, bar.time_is_up(), notice.signal)
                if time_is_up or stopped:
                    break
                record = self.train_step()
                bar.show(record, self.skipped, len(self.stream.bad))
                if on_step:
                    on_step(record)
                if self.step % self.config.validation_steps == 0:
                    self.outputs.validate(self.step, self._drawing())
                if self.step % self.config.checkpointing_steps == 0:
                    saved_at = self.save_checkpoint()
        if saved_at != self.step:
            self.save_checkpoint()
        return stopped

    def train_step(self) -> StepRecord:
        """One optimizer step on the next batches; skipped, and counted, where loss or gradient is not finite."""
        started = time.perf_counter()
        terms, total = self._accumulate_gradients()
        self.precision.unscale(self.optimizer)
        grad_norm = self.accelerator.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        norm = float(grad_norm) if grad_norm is not None else 0.0
        finite = bool(torch.isfinite(torch.tensor([total, norm])).all())
        learning_rate = self._set_learning_rate()
        self.precision.step(self.optimizer, finite)
        if finite:
            self.lr_scheduler.step()
            if self.ema:
                self.ema.step(self.parameters)
        self.optimizer.zero_grad(set_to_none=True)
        self._state.count_step(finite)
        record = StepRecord(
            step=self.step,
            terms=terms,
            total=total,
            grad_norm=norm,
            learning_rate=learning_rate,
            seconds=time.perf_counter() - started,
            skipped=not finite,
        )
        if not finite:
            logger.warning("step %d skipped: loss %g, gradient norm %g", record.step, total, norm)
        self.outputs.record(record, self.skipped)
        if self._state.skipped_in_a_row >= self.config.max_skipped_steps:
            raise TrainingDiverged(
                f"{self._state.skipped_in_a_row} steps in a row had a loss or gradient that is not finite, "
                f"up to step {record.step}; lower learning_rate or train without mixed_precision"
            )
        return record

    def losses(self, batch: Batch) -> LossTerms:
        """Both passes over one noisy batch: the teacher's without a graph, then the student's."""
        return LossTerms(**self.loss_module(batch))

    def save_checkpoint(self) -> int:
        """Write a checkpoint, prune old ones, and return its step; without `output_dir` nothing is written."""
        if self.outputs.folder:
            state = collect_state(self._state, self.identity, self.accelerator)
            with self.averaged(), self.outputs.whole_fusion() as fusion:
                self.outputs.save_checkpoint(self.step, state, fusion)
            self.accelerator.wait_for_everyone()
        return self.step

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the blocks hold their moving average (under `use_ema`); the trained values come back afterwards."""
        with self.ema.swapped_in(self.parameters) if self.ema else nullcontext():
            yield

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        with self.averaged(), self.precision.student():
            yield

    def _prepare_training(self) -> None:
        """The optimizer and what goes with it; under FSDP the blocks' parameters are others from here on."""
        config, fusion = self.config, self.fusion
        optimizer = make_optimizer(list(fusion.parameters()), config)
        self.lr_scheduler = make_lr_scheduler(optimizer, config)
        prepared = prepare(self.accelerator, LossModule(self.task.denoiser, self._compute), optimizer)
        self.loss_module, self.optimizer = prepared.loss_module, prepared.optimizer
        self._synchronised = prepared.synchronised
        self.parameters = list(fusion.parameters())
        self.ema = MovingAverage(self.parameters, config.ema_decay, config.offload_ema) if config.use_ema else None
        self._state = RunState(fusion, self.stream, self.optimizer, self.lr_scheduler, self.precision.scaler, self.ema)

    def _accumulate_gradients(self) -> tuple[dict[str, float], float]:
        """The backward passes of one step; returns the terms and the weighted total, means over all processes."""
        count = self.config.gradient_accumulation_steps
        sums: Losses = {}
        for index in range(count):
            last = index == count - 1
            with nullcontext() if last else self.accelerator.no_sync(self._synchronised):
                terms, total = self._forward(index)
                self.accelerator.backward(self.precision.scale(total / count))
            for name, value in {**terms, "total": total}.items():
                value = value.detach() / count
                sums[name] = sums[name] + value if name in sums else value
        means = torch.stack([value.float() for value in sums.values()])
        if self.accelerator.num_processes > 1:
            means = self.accelerator.reduce(means, "mean")
        floats = dict(zip(sums, means.tolist(), strict=True))
        return floats, floats.pop("total")

    def _forward(self, index: int) -> tuple[Losses, torch.Tensor]:
        data_step = self.data_step(self.step)
        if self.step < self.config.stage1_steps:
            terms = self.loss_module(None, self._calls(data_step, index))
            return terms, terms["local"]
        self._held_calls.clear()
        terms = self.loss_module(self._batch(data_step, index))
        return terms, LossTerms(**terms).total(self.config.weight_schedule.at(self.step))

    def data_step(self, step: int) -> int:
        """Which group of batches a step works on; stage 1 goes through few of them several times, in turn."""
        stage1 = self.config.stage1_steps
        count = -(-stage1 // self.config.stage1_repeats)
        return step % count if step < stage1 else count + step - stage1

    def _batch(self, data_step: int, index: int) -> Batch:
        """This process's `index`-th batch of a data step; the one after it is announced to the stream."""
        batch = self.stream.batch(self._position(data_step, index))
        is_last = index == self.config.gradient_accumulation_steps - 1
        self.stream.prefetch(self._position(data_step + is_last, 0 if is_last else index + 1))
        return batch.to(self.accelerator.device)

    def _position(self, data_step: int, index: int) -> int:
        group = data_step * self.config.gradient_accumulation_steps + index
        return (group * self.accelerator.num_processes + self.accelerator.process_index) * self.config.train_batch_size

    def _calls(self, data_step: int, index: int) -> Any:
        """What the teacher's attentions took in and gave out; kept where later steps work on it again."""
        if (data_step, index) in self._held_calls:
            return self._held_calls[data_step, index]
        with self.precision.teacher():
            calls = attention_calls(self.fusion, self.task, self._batch(data_step, index))
        if self.config.stage1_repeats > 1:
            self._held_calls[data_step, index] = calls
        return calls

    def _compute(self, batch: Batch | None, calls: Any = None) -> Losses:
        """The forward of the loss module: layer-local where the teacher's calls are given, else end to end."""
        if calls is not None:
            with self.precision.student():
                return {"local": local_loss(self.fusion, calls)}
        assert batch is not None
        with torch.no_grad(), self.fusion.teacher(), self.precision.teacher():
            teacher, teacher_features = self._predict(batch)
        with self.precision.student():
            student, student_features = self._predict(batch)
        gamma = self.config.snr_gamma
        weights = self.task.snr_weights(batch.timesteps, gamma) if gamma else None
        terms = distillation_losses(
            student, teacher, self.task.target(batch), student_features, teacher_features, weights
        )
        return vars(terms)

    def _predict(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        with self.fusion.record_features() as features:
            return self.task.predict(batch), features

    def _set_learning_rate(self) -> float:
        """The schedule's, or in stage 1 that times the ratio of the two settings."""
        rate = self.lr_scheduler.get_last_lr()[0]
        if self.step < self.config.stage1_steps and self.config.stage1_learning_rate:
            rate *= self.config.stage1_learning_rate / self.config.learning_rate
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _fit_projections(self, examples: Examples | ShardedImages) -> None:
        stream = open_stream(examples, self.config, self.task, self.accelerator)
        size, device = self.config.train_batch_size, self.accelerator.device
        batches = (stream.batch(index * size).to(device) for index in range(self.config.fit_batches))
        with self.precision.teacher():
            fit_projections(self.fusion, self.task, batches)
