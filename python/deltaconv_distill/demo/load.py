"""Whether the machine was the demo's own while it trained: what it got of the processor, the steps that it lost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..distillation import StepRecord

QUIET = 0.75  # of the expected steps; less than this, and others had a good part of the processor
CHEAPEST = 0.1  # share of the steps that says what a step costs undisturbed


@dataclass(frozen=True)
class Load:
    """What the training got of the machine.

    cores: processor seconds of this process in a second on the clock; threads: those that it computes with.
    steps, expected_steps: done, and those that the same seconds hold where every thread has a core of its own.
    """

    cores: float
    threads: int
    steps: int
    expected_steps: int

    @property
    def is_loaded(self) -> bool:
        return self.steps < QUIET * self.expected_steps


class StepClock:
    """Notes the processor's time after each training step."""

    def __init__(self) -> None:
        self.processor = [time.process_time()]

    def __call__(self, record: StepRecord) -> None:
        self.processor.append(time.process_time())

    @property
    def step_seconds(self) -> list[float]:
        """Processor seconds of each step, all threads together."""
        return [after - before for before, after in zip(self.processor, self.processor[1:], strict=False)]


def measure_load(
    seconds: Sequence[float], processor_seconds: Sequence[float], stage1_steps: int, threads: int | None = None
) -> Load:
    """From each step's seconds on the clock and of the processor; those of stage 1, which are cheap, come first.

    A step that nobody disturbs takes its processor seconds spread over the threads, so a step that waits for a core
    takes longer. The cheapest steps count, because a thread that waits for another one burns processor time too.
    """
    threads = threads or torch.get_num_threads()
    late = sorted(processor_seconds[stage1_steps:] or processor_seconds)
    undisturbed = late[int(CHEAPEST * len(late))] / threads
    left = sum(seconds) - sum(processor_seconds[:stage1_steps]) / threads
    stage1 = len(processor_seconds[:stage1_steps])
    return Load(
        cores=sum(processor_seconds) / sum(seconds),
        threads=threads,
        steps=len(seconds),
        expected_steps=stage1 + round(left / undisturbed),
    )
