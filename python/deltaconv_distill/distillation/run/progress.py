"""The progress bar of a run: in steps, or in seconds where time is what limits it."""

from __future__ import annotations

import time

from tqdm.auto import tqdm

from ..config import DistillConfig
from .records import StepRecord


class TrainingBar:
    """Shows every loss term; also the run's clock, which starts on entering the context."""

    def __init__(self, config: DistillConfig, first_step: int, visible: bool = True) -> None:
        self._limit = config.max_train_seconds
        if self._limit is None:
            self._bar = tqdm(
                total=config.max_train_steps, initial=first_step, desc="distil", unit="step", disable=not visible
            )
        else:
            layout = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s{postfix}"
            self._bar = tqdm(total=self._limit, desc="distil", bar_format=layout, disable=not visible)

    def __enter__(self) -> TrainingBar:
        self._started = time.monotonic()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def time_is_up(self) -> bool:
        return self._limit is not None and time.monotonic() - self._started >= self._limit

    def show(self, record: StepRecord, skipped: int, bad_pictures: int) -> None:
        counts = {"skipped": skipped, **({"bad_pictures": bad_pictures} if bad_pictures else {})}
        terms = {name: f"{value:.4g}" for name, value in {**record.terms, "grad_norm": record.grad_norm}.items()}
        if self._limit is None:
            self._bar.set_postfix({**terms, **counts}, refresh=False)
            self._bar.update()
        else:
            self._bar.set_postfix({"step": record.step, **terms, **counts}, refresh=False)
            self._bar.update(min(time.monotonic() - self._started, self._limit) - self._bar.n)
