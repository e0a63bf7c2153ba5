"""What a run leaves behind besides checkpoints: metrics, tracker, validation grids, the fusion and its card."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedType

from ...conversion import DeltaConvFusion
from ..config import DistillConfig
from ..evaluation.generated_images import pixel_difference
from .card import write_card
from .checkpoint import FUSION_FOLDER, prune_checkpoints, save_checkpoint, writing
from .parallel import gathered
from .records import StepLog, StepRecord
from .run_folder import RunFolder
from .sample_grids import can_generate, draw_pair, save_grid
from .trackers import Tracker

logger = logging.getLogger(__name__)


class Outputs:
    """Written by the main process alone, and only where the settings name an output directory."""

    def __init__(
        self,
        pipe: Any,
        fusion: DeltaConvFusion,
        config: DistillConfig,
        accelerator: Accelerator,
        run_folder: RunFolder,
    ) -> None:
        self.folder = run_folder.path
        self._run_folder = run_folder
        self._pipe = pipe
        self._fusion = fusion
        self._config = config
        self._accelerator = accelerator
        self._is_main = accelerator.is_main_process
        self._spreads_weights = accelerator.distributed_type == DistributedType.FSDP
        self.log = StepLog(self.folder if self._is_main else None)
        self._tracker = Tracker(accelerator, config)

    def record(self, record: StepRecord, skipped: int) -> None:
        """Keep the record of a step; `skipped` counts the run's steps so far that were not finite."""
        with writing(self.folder):
            if self._is_main:
                self._run_folder.claim()
            self.log.append(record)
        self._tracker.log_step(record, skipped)

    def validate(self, step: int, drawing: AbstractContextManager) -> None:
        """Draw the validation grid inside `drawing`, the context that has the weights and precision to draw with."""
        prompts = self._config.validation_prompts
        if not prompts or self.folder is None or not can_generate(self._pipe):
            return
        if self._is_main or self._spreads_weights:  # spread weights: a forward needs every process
            with drawing:
                teacher, student = draw_pair(self._pipe, self._fusion, self._config)
            if self._is_main:
                with writing(self.folder):
                    path = save_grid(teacher, student, self.folder, step)
                self._tracker.log_grid(path, prompts, pixel_difference(student, teacher), step)
        self._accelerator.wait_for_everyone()

    def finish(self, global_batch_size: int) -> None:
        """Write the fusion and its card, and close the tracker."""
        with self.whole_fusion() as fusion:
            if self.folder and self._is_main:
                folder = self.folder / FUSION_FOLDER
                teacher = getattr(self._pipe.config, "_name_or_path", None)
                name = str(teacher) if teacher else None
                with writing(self.folder):
                    fusion.save_pretrained(folder)
                    write_card(folder, fusion, self._config, self.log.records, name, global_batch_size)
        self._tracker.finish()

    def locked(self) -> AbstractContextManager[None]:
        """Inside, no other process trains into the folder, which is this run's.

        Raises:
            RunFolderError: one does.
        """
        return self._run_folder.locked() if self._is_main else nullcontext()

    def save_checkpoint(self, step: int, state: dict[str, Any], fusion: DeltaConvFusion) -> None:
        """Write one and remove those that are one too many.

        Raises:
            CheckpointError: the disk is full or not writable.
        """
        if self.folder and self._is_main:
            with writing(self.folder):
                self._run_folder.claim()
            save_checkpoint(self.folder, step, self._run_folder.run, state, fusion)
            prune_checkpoints(self.folder, self._config.checkpoints_total_limit, step)

    @contextmanager
    def whole_fusion(self) -> Iterator[DeltaConvFusion]:
        """The fusion, or where its weights are spread over processes a copy that has them all."""
        if not self._spreads_weights:
            yield self._fusion
            return
        whole = DeltaConvFusion.from_config(self._fusion.config)
        whole.load_state_dict(gathered(dict(self._fusion.state_dict())))
        yield whole
