"""Ctrl-C and SIGTERM end a run at the end of a step, after a checkpoint."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

logger = logging.getLogger(__name__)

STOPPING = (signal.SIGINT, signal.SIGTERM)


class TrainingInterrupted(KeyboardInterrupt):
    """A run was told to stop, and did; the message says where it was saved.

    exit_code: of a process that ends for this reason, 130 after Ctrl-C and 143 after SIGTERM.
    """

    def __init__(self, number: int, step: int, folder: Path | None) -> None:
        saved = "nothing is saved without output_dir"
        if folder:
            saved = f"saved {folder}/checkpoint-{step}; resume_from_checkpoint latest goes on from there"
        super().__init__(f"{signal.Signals(number).name} after step {step}: {saved}")
        self.exit_code = 128 + number


@dataclass
class Notice:
    """signal: that has come, or 0."""

    signal: int = 0


@contextmanager
def noticed_signals() -> Iterator[Notice]:
    """Inside, the first signal to stop is only noticed; a second one acts as it would without."""
    notice = Notice()
    if threading.current_thread() is not threading.main_thread():  # where Python lets nobody handle signals
        yield notice
        return
    previous = {number: signal.getsignal(number) for number in STOPPING}

    def take_note(number: int, frame: FrameType | None) -> None:
        notice.signal = number
        logger.warning("%s: stopping after this step; once more stops at once", signal.Signals(number).name)
        restore()

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    for number in STOPPING:
        signal.signal(number, take_note)
    try:
        yield notice
    finally:
        restore()
