"""Losses, rates and validation grids to TensorBoard or Weights & Biases, through Accelerate."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from PIL import Image

from ..config import DistillConfig
from .records import StepRecord


class Tracker:
    """Does nothing where the settings name no tracker."""

    def __init__(self, accelerator: Accelerator, config: DistillConfig) -> None:
        self._accelerator = accelerator if config.report_to else None
        if self._accelerator:
            flat = {name: _scalar(value) for name, value in asdict(config).items()}
            accelerator.init_trackers(config.tracker_project_name, config=flat)

    def log_step(self, record: StepRecord, skipped: int) -> None:
        if self._accelerator:
            terms = {f"loss/{name}": value for name, value in {**record.terms, "total": record.total}.items()}
            others = {
                "grad_norm": record.grad_norm,
                "learning_rate": record.learning_rate,
                "seconds": record.seconds,
                "skipped": skipped,
            }
            self._accelerator.log({**terms, **others}, step=record.step)

    def log_grid(self, path: Path, prompts: tuple[str, ...], difference: float, step: int) -> None:
        """A validation grid, and how much teacher and student differ in it."""
        if not self._accelerator:
            return
        self._accelerator.log({"validation/pixel_difference": difference}, step=step)
        for tracker in self._accelerator.trackers:
            with Image.open(path) as picture:
                pixels = np.asarray(picture)
            if tracker.name == "tensorboard":
                tracker.writer.add_image("validation/teacher_above_student", pixels, step, dataformats="HWC")
            else:
                import wandb

                grid = wandb.Image(pixels, caption=" | ".join(prompts))
                tracker.log({"validation/teacher_above_student": grid}, step=step)

    def finish(self) -> None:
        if self._accelerator:
            self._accelerator.end_training()


def _scalar(value: object) -> object:
    return value if isinstance(value, (int, float, str, bool)) else str(value)
