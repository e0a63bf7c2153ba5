"""The parts of the demo, in order: each is announced with the time that it should take, and timed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

LOAD = "load the teacher, encode the emoji"
ANALYSE = "look at its self-attention"
CONVERT = "replace self-attention by ΔConvBlocks"
MEASURE = "time what comes, choose the faster precision"
DISTIL = "distil"
PREDICT = "predict noise never seen in training"
TIME_STEPS = "time denoising steps"
DRAW = "generate the images to look at"
COMPARE = "generate images to compare by their statistics"
WRITE = "draw the figures, write the report"
TOLERANCE = 1.05  # of the minutes that were given
STAGES = (LOAD, ANALYSE, CONVERT, MEASURE, DISTIL, PREDICT, TIME_STEPS, DRAW, COMPARE, WRITE)


@dataclass(frozen=True)
class StageTime:
    """One part of a run: seconds on the clock, of the processor (all threads together), and those expected."""

    title: str
    seconds: float
    processor_seconds: float
    expected_seconds: float | None


class Stages:
    """Announces and times each part of a run.

    Args:
        titles: of STAGES, those that this run has.
        began: when the run began, by time.perf_counter(); now, unless given.
    """

    def __init__(self, titles: tuple[str, ...] = STAGES, began: float | None = None) -> None:
        self.titles = titles
        self.began = time.perf_counter() if began is None else began
        self.expected: dict[str, float] = {}
        self.times: list[StageTime] = []

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return time.perf_counter() - self.began

    def expect(self, seconds: Mapping[str, float], minutes: float) -> None:
        """Take up what the parts to come should take, by title, and say so; `minutes` is what the run was given."""
        self.expected.update(seconds)
        print(f"    {spoken(self.elapsed)} gone; to come:")
        for title, expected in seconds.items():
            print(f"      {title + ' ':.<50} {spoken(expected)}")
        whole = (self.elapsed + sum(seconds.values())) / 60
        too_long = whole > TOLERANCE * minutes
        because = f", not {minutes:g}: at least half of them train, and the rest is slow here" if too_long else ""
        skip = "; --skip-distances leaves one part out" if too_long and COMPARE in seconds else ""
        print(f"      {'in all ':.<50} {whole:.1f} minutes{because}{skip}", flush=True)

    @contextmanager
    def __call__(self, title: str) -> Iterator[None]:
        expected = self.expected.get(title)
        about = "" if expected is None else f": about {spoken(expected)}"
        print(f"[{self.titles.index(title) + 1}/{len(self.titles)}] {title}{about}", flush=True)
        started, processor = time.perf_counter(), time.process_time()
        yield
        seconds, processor_seconds = time.perf_counter() - started, time.process_time() - processor
        self.times.append(StageTime(title, seconds, processor_seconds, expected))


def spoken(seconds: float) -> str:
    """Seconds below two minutes, minutes from there."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} minutes"
