"""Interleaved timing: machines are noisy, so peers take turns and medians of the same run are compared."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Mapping

import torch


def interleaved_medians(
    functions: Mapping[str, Callable[[], object]],
    seconds: float = 0.6,
    least_rounds: int = 3,
    once_above: float = math.inf,
) -> dict[str, float]:
    """Median seconds of each function over rounds in which every one runs once, after one warm-up each.

    The order changes from round to round: what runs before leaves its own data in the caches.

    ``seconds`` bounds the whole measurement, but never to fewer than ``least_rounds`` rounds. A function whose warm-up
    takes more than ``once_above`` seconds does not run again: that time is its median.
    """
    warm_ups = {name: timed(function) for name, function in functions.items()}
    turns = [(name, function) for name, function in functions.items() if warm_ups[name] <= once_above]
    samples: dict[str, list[float]] = {name: [] for name, _ in turns}
    end = time.perf_counter() + seconds
    shuffle = random.Random(0).shuffle
    rounds = 0
    while turns and (rounds < least_rounds or time.perf_counter() < end):
        shuffle(turns)
        for name, function in turns:
            samples[name].append(timed(function))
        rounds += 1
    return warm_ups | {name: statistics.median(times) for name, times in samples.items()}


def timed(function: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start
