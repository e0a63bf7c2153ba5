"""Interleaved timing: machines are noisy, so peers take turns and medians of the same run are compared."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping

import torch


def interleaved_medians(
    functions: Mapping[str, Callable[[], object]], seconds: float = 0.6, least_rounds: int = 3
) -> dict[str, float]:
    """Median seconds of each function over rounds in which every one runs once, after one warm-up each.

    The order changes from round to round: what runs before leaves its own data in the caches.

    ``seconds`` bounds the whole measurement, but never to fewer than ``least_rounds`` rounds.
    """
    for function in functions.values():
        function()
    samples: dict[str, list[float]] = {name: [] for name in functions}
    end = time.perf_counter() + seconds
    turns, shuffle = list(functions.items()), random.Random(0).shuffle
    rounds = 0
    while rounds < least_rounds or time.perf_counter() < end:
        shuffle(turns)
        for name, function in turns:
            samples[name].append(_timed(function))
        rounds += 1
    return {name: statistics.median(times) for name, times in samples.items()}


def _timed(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start
