"""Compiles kernels before they are launched, several at once: Triton's passes let go of Python's lock."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch


class Collected:
    """The launches of calls that are not to run, each kernel with what it compiles for once, for one device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._launches: dict[tuple, Callable[[], object]] = {}

    def add(self, kernel: Any, grid: tuple[int, ...], arguments: tuple, keywords: dict[str, Any]) -> None:
        key = kernel, tuple(map(_compiled_for, arguments)), tuple(sorted(keywords.items()))
        self._launches[key] = lambda: kernel.run(*arguments, grid=grid, warmup=True, **keywords)

    def compile(self, threads: int | None = None) -> None:
        """Returns when all are compiled; a failure is raised as the launch would have raised it."""
        threads = threads or len(os.sched_getaffinity(0))

        def in_thread(launch: Callable[[], object]) -> None:
            with current_device(self.device):  # torch's current device is each thread's own
                launch()

        with ThreadPoolExecutor(min(threads, max(len(self._launches), 1))) as executor:
            for _ in executor.map(in_thread, self._launches.values()):
                pass


_collecting: ContextVar[Collected | None] = ContextVar("collecting", default=None)


def collecting() -> Collected | None:
    """Where launches go instead of to the GPU; None if they are to run."""
    return _collecting.get()


def collect(device: torch.device, calls: Iterable[Callable[[], object]]) -> Collected:
    """The launches of `calls`, which get tensors on torch's meta device: nothing is allocated."""
    collected = Collected(device)
    token = _collecting.set(collected)
    try:
        for call in calls:
            call()
    finally:
        _collecting.reset(token)
    return collected


def current_device(device: torch.device) -> AbstractContextManager:
    """Triton launches on the current device, and compiles for it."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _compiled_for(argument: Any) -> Any:
    """What of an argument a kernel compiles for: a tensor's type; whether an integer takes 32 bits."""
    if isinstance(argument, torch.Tensor):
        return argument.dtype
    if isinstance(argument, int):
        return argument < 2**31
    return argument
