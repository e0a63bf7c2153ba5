"""In what precision the passes are computed and the frozen weights are stored; loss scaling for float16."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from ..config import DistillConfig

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


class Precision:
    """Autocast of the student's and the teacher's passes, and the scaler that keeps float16 gradients in range."""

    def __init__(self, config: DistillConfig, device_type: str) -> None:
        self.device_type = device_type
        self._student = DTYPES.get(config.mixed_precision)
        teacher = config.mixed_precision if config.teacher_precision is None else config.teacher_precision
        self._teacher = DTYPES.get(teacher)
        self.scaler = torch.amp.GradScaler(device_type) if config.mixed_precision == "fp16" else None

    def student(self) -> AbstractContextManager:
        return self._autocast(self._student)

    def teacher(self) -> AbstractContextManager:
        return self._autocast(self._teacher)

    def scale(self, loss: torch.Tensor) -> torch.Tensor:
        return self.scaler.scale(loss) if self.scaler else loss

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Once, between the last backward pass of a step and what looks at its gradients."""
        if self.scaler:
            self.scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer, finite: bool) -> None:
        """Take the step unless it is not finite; the scale follows."""
        if finite:
            optimizer.step()
        if self.scaler:
            self.scaler.update()

    def _autocast(self, dtype: torch.dtype | None) -> AbstractContextManager:
        return nullcontext() if dtype is None else torch.autocast(self.device_type, dtype)
