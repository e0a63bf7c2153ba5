"""What a run leaves behind besides checkpoints: metrics, tracker, validation grids, the fusion and its card."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from accelerate.utils import DistributedType

from ...conversion import DeltaConvFusion
from .card import write_card
from .checkpoint import FUSION_FOLDER
from .parallel import gathered
from .records import StepLog, StepRecord
from .sample_grids import can_generate, difference, draw_pair, save_grid
from .trackers import Tracker

if TYPE_CHECKING:
    from ..training.trainer import Distiller

logger = logging.getLogger(__name__)


class Outputs:
    """Written by the main process alone, and only where there is an output directory."""

    def __init__(self, distiller: Distiller) -> None:
        self._distiller = distiller
        self._is_main = distiller.accelerator.is_main_process
        self.log = StepLog(distiller.output_dir if self._is_main else None)
        self._tracker = Tracker(distiller.accelerator, distiller.config)

    def record(self, record: StepRecord) -> None:
        self.log.append(record)
        self._tracker.log_step(record, self._distiller.skipped)

    def validate(self) -> None:
        """Draw the validation grid, with the averaged blocks where there are any."""
        distiller = self._distiller
        config, folder = distiller.config, distiller.output_dir
        if not config.validation_prompts or folder is None or not can_generate(distiller.pipe):
            return
        # under FSDP a forward needs every process
        if self._is_main or distiller.accelerator.distributed_type == DistributedType.FSDP:
            with distiller.averaged(), distiller.precision.student():
                teacher, student = draw_pair(distiller.pipe, distiller.fusion, config)
            if self._is_main:
                path = save_grid(teacher, student, folder, distiller.step)
                self._tracker.log_grid(path, config.validation_prompts, difference(teacher, student), distiller.step)
        distiller.accelerator.wait_for_everyone()

    def finish(self) -> None:
        """Write the fusion and its card, and close the tracker."""
        distiller = self._distiller
        with self.whole_fusion() as fusion:
            if distiller.output_dir and self._is_main:
                folder = distiller.output_dir / FUSION_FOLDER
                fusion.save_pretrained(folder)
                teacher = getattr(distiller.pipe.config, "_name_or_path", None)
                name = str(teacher) if teacher else None
                write_card(folder, fusion, distiller.config, self.log.records, name, distiller.global_batch_size)
        self._tracker.finish()

    @contextmanager
    def whole_fusion(self) -> Iterator[DeltaConvFusion]:
        """The fusion, or where its weights are spread over processes a copy that has them all."""
        distiller = self._distiller
        if distiller.accelerator.distributed_type != DistributedType.FSDP:
            yield distiller.fusion
            return
        state = gathered(dict(distiller.fusion.state_dict()))
        whole = DeltaConvFusion.from_config(distiller.fusion.config)
        whole.load_state_dict(state)
        yield whole
