"""Microseconds on a GPU: by the device's own clock, or what the host spends."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

WARM_UP, REPETITIONS = 20, 80  # milliseconds
HOST_CALLS = 500


def cold_microseconds(function: Callable[[], object]) -> float:
    """Median of runs that find nothing of theirs in the L2 cache; gaps where the GPU waits for the host count too."""
    from triton.testing import do_bench

    return 1e3 * do_bench(function, warmup=WARM_UP, rep=REPETITIONS, return_mode="median")


def graph_microseconds(function: Callable[[], object]) -> float | None:
    """Median of a captured graph's replays: the kernels alone. None where the function cannot be captured."""
    from triton.testing import do_bench_cudagraph

    try:
        return 1e3 * do_bench_cudagraph(function, rep=REPETITIONS, return_mode="median")
    except RuntimeError as error:
        print(f"no CUDA graph: {error}")
        return None


def host_microseconds(function: Callable[[], object]) -> float:
    """What a call takes the host, the GPU kept waiting or not: the mean over many calls in a row."""
    function()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(HOST_CALLS):
        function()
    elapsed = time.perf_counter() - start
    torch.cuda.synchronize()
    return 1e6 * elapsed / HOST_CALLS
