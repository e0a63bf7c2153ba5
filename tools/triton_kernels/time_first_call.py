"""How long the first call of a problem compiles, without a GPU: for one that need not be here, into an empty cache.

Seconds of a processor, which other work on the machine hardly changes: of the forward's kernel, of all seven one after
another, and of the longest, which is what all seven take where as many cores are free (`precompile`). With --wall also
the seconds that passed while they were compiled one after another and by as many threads as there are cores.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
import triton
from compile_triton import Launch, compile_launch, launches_of, processor_seconds

from deltaconv_kernels.testing import Shape

ARCHITECTURE = 90
CORES = len(os.sched_getaffinity(0))
PROBLEMS = [(K, (1, 2)) for K in (3, 7, 13, 21, 31)] + [(7, (1, 2, 4, 8)), (13, (1, 2, 4, 8))]


def seconds(clock: Callable[[], float], work: Callable[[], object]) -> float:
    start = clock()
    work()
    return clock() - start


def compile_all(launches: Iterable[Launch], threads: int) -> None:
    with ThreadPoolExecutor(threads) as executor:
        list(executor.map(partial(compile_launch, architecture=ARCHITECTURE), launches))


def row(K: int, factors: tuple[int, ...], wall: bool) -> list[float]:
    launches = launches_of(Shape(1, 64, 64, 320, K, factors), torch.bfloat16, ARCHITECTURE)
    times = [seconds(processor_seconds, partial(compile_launch, launched, ARCHITECTURE)) for launched in launches]
    passed = [seconds(time.perf_counter, partial(compile_all, launches, n)) for n in (1, CORES)] if wall else []
    return [times[0], sum(times), max(times), *passed]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wall", action="store_true", help="the time that passes too; wants a machine of its own")
    wall = parser.parse_args().wall
    triton.knobs.compilation.always_compile = True
    compile_all(launches_of(Shape(1, 8, 8, 32, 1, (1,)), torch.bfloat16, ARCHITECTURE), 1)  # what a process does once
    print("| K | factors | forward | all seven | the longest |" + " one by one | at once |" * wall)
    print("| ---: | --- " + "| ---: " * (5 if wall else 3) + "|", flush=True)
    for K, factors in PROBLEMS:
        cells = [f"{figure:.1f}" for figure in row(K, factors, wall)]
        print(f"| {K} | {', '.join(map(str, factors))} | " + " | ".join(cells) + " |", flush=True)
    print(
        f"Triton {triton.__version__}, Python {platform.python_version()}, {CORES} cores; sm_{ARCHITECTURE}, bfloat16"
    )


if __name__ == "__main__":
    main()
