"""torch.compile's own work, done before the measurements and on all cores: on two it takes longer than they do."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch


def compile_ahead(compiled: Callable[..., Callable[[], object]], problems: Sequence[tuple[Any, ...]]) -> None:
    """Leave machine code for `compiled(*problem)` in Inductor's cache on the disk, where this process will find it."""
    # what Inductor writes depends on the number of threads, and a forked process cannot use those of its parent
    threads, spawn = torch.get_num_threads(), multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(len(os.sched_getaffinity(0)), len(problems)), spawn) as processes:
        for result in [processes.submit(_run_once, threads, compiled, problem) for problem in problems]:
            result.result()


def _run_once(threads: int, compiled: Callable[..., Callable[[], object]], problem: tuple[Any, ...]) -> None:
    torch.set_num_threads(threads)
    compiled(*problem)()
