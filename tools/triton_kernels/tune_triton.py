"""Times the tiles of the triton backend's kernels on the GPU that is here, and keeps the fastest in the shipped table.

`python tools/triton_kernels/tune_triton.py --shapes sdxl-64-k9 --dtypes bfloat16` adds or replaces those entries of
deltaconv_kernels/triton/configurations.json; without arguments, the named shapes that fit in every dtype. A tile takes
some ten seconds to compile, so those of a kernel compile ahead, on all cores. `--from FILE` takes the entries that
`tools/gpu_check.sh` tuned on another machine out of its JSON instead.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from triton.runtime.errors import OutOfResources, PTXASError
from triton.testing import do_bench

from deltaconv_kernels import reference
from deltaconv_kernels.testing import (
    ERROR_BUDGET,
    GPU_ONLY_SHAPES,
    NAMED_SHAPES,
    Case,
    Shape,
    make_case,
    relative_error,
)
from deltaconv_kernels.triton import launch
from deltaconv_kernels.triton.configurations import (
    Configuration,
    Key,
    Tile,
    device_kind,
    lanes_of,
    rule,
    table,
    write_table,
)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
WARM_UP, REPETITIONS = 25, 100  # milliseconds


def convolution_tiles(lanes: int) -> list[Tile]:
    """Patches with 16 to 64 accumulators a lane and half of a pair, of one or two channels; a warp has `lanes`."""
    tiles = tiles_of(lanes, itertools.product((4, 8, 16), (16, 32, 64), (2, 4), (4, 8, 16)), (64, 128, 256))
    return [tile for tile in tiles if 16 <= tile.BP * tile.BC * tile.RH * tile.RW / (lanes * tile.warps) <= 64]


def weight_tiles(lanes: int) -> list[Tile]:
    return tiles_of(lanes, itertools.product((2, 4, 8), (16, 32, 64), (1, 2, 3), (8, 16)), (128, 256))


def tiles_of(lanes: int, sizes: Iterable[tuple[int, int, int, int]], threads: Sequence[int]) -> list[Tile]:
    """Each size on each number of threads that gives a lane one channel or two."""
    pairs = itertools.product(sizes, threads)
    return [Tile(*size, count // lanes) for size, count in pairs if size[0] * size[1] / count in (1, 2)]


def gradients(case: Case, output_mask: tuple[bool, bool, bool]) -> tuple[torch.Tensor, ...]:
    return launch.pyramid_backward(*case.backward_arguments, output_mask)


def tune(
    case: Case, key: Key, compile_ahead: Callable[[str, list[Configuration]], None] = lambda name, candidates: None
) -> Configuration:
    """The fastest tile for each kernel, one kernel after the other; a tile that is wrong or does not compile is out.

    `compile_ahead` gets a kernel's name and all its candidates before they are timed.
    """
    double = case.to(torch.float64)
    y = reference.pyramid_forward(*double.arguments)
    expected = reference.pyramid_backward(*double.backward_arguments, (True, True, True))
    wanted = {"forward": (y,), "backward": expected[:1], "weight": expected[1:]}
    best, lanes = rule(key), lanes_of(key.device)
    for name, tiles in (
        ("forward", convolution_tiles(lanes)),
        ("backward", convolution_tiles(lanes)),
        ("weight", weight_tiles(lanes)),
    ):
        candidates = [replace(best, **{name: tile}) for tile in dict.fromkeys([getattr(best, name), *tiles])]
        compile_ahead(name, candidates)
        run = partial(PASSES[name], case)
        times = {candidate: time_of(candidate, run, wanted[name]) for candidate in candidates}
        best = min(times, key=lambda candidate: times[candidate])
        print(f"{key} {name}: {getattr(best, name)}, {times[best] * 1000:.1f} µs", flush=True)
    return best


PASSES: dict[str, Callable[[Case], tuple[torch.Tensor, ...]]] = {
    "forward": lambda case: (launch.pyramid_forward(*case.arguments),),
    "backward": lambda case: gradients(case, (True, False, False))[:1],
    "weight": lambda case: gradients(case, (False, True, True))[1:],
}


@contextmanager
def tiles(candidate: Configuration) -> Iterator[None]:
    """Inside, the backend takes this configuration for every problem."""
    chosen = launch.tiles_for
    launch.tiles_for = lambda *problem: candidate
    try:
        yield
    finally:
        launch.tiles_for = chosen


def compile_one(shape: Shape, dtype: torch.dtype, device: str, name: str, candidate: Configuration) -> None:
    """In a process of its own: Triton keeps what it compiles on disk, for the process that times it."""
    try:
        with tiles(candidate):
            PASSES[name](make_case(shape, dtype, device))
    except (OutOfResources, PTXASError) as error:
        print(f"{candidate}: {error}")


def compile_on_all_cores(
    shape: Shape, dtype: torch.dtype, device: str, name: str, candidates: list[Configuration]
) -> None:
    workers = min(len(candidates), len(os.sched_getaffinity(0)))
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        problems = [(shape, dtype, device, name, candidate) for candidate in candidates]
        pool.starmap(compile_one, problems, chunksize=1)


def time_of(
    candidate: Configuration, run: Callable[[], tuple[torch.Tensor, ...]], wanted: tuple[torch.Tensor, ...]
) -> float:
    """Milliseconds of `run` with this configuration; infinite where its results are wrong or it does not compile."""
    try:
        with tiles(candidate):
            for result, exact in zip(run(), wanted, strict=True):
                error = relative_error(result, exact)
                if error > ERROR_BUDGET[result.dtype]:
                    print(f"{candidate}: WRONG, relative error {error:.1e}", flush=True)
                    return float("inf")
            return do_bench(run, warmup=WARM_UP, rep=REPETITIONS, return_mode="median")
    except (OutOfResources, PTXASError) as error:
        print(f"{candidate}: {error}")
        return float("inf")


def tune_named(name: str, dtype: torch.dtype) -> tuple[Key, Configuration]:
    """A named shape on this machine's GPU."""
    shape = NAMED_SHAPES[name]
    case = make_case(shape, dtype, "cuda")
    key = Key(shape.inter, shape.height, shape.width, shape.kernel_size, dtype, device_kind(case.x.device))
    return key, tune(case, key, partial(compile_on_all_cores, shape, dtype, "cuda"))


def recorded(path: Path) -> dict[str, Configuration]:
    """What a check on another machine tuned."""
    outcome = json.loads(path.read_text())["parts"].get("triton-tune", {"records": []})
    return {
        record["tuned"]: Configuration(**{kernel: Tile(**tile) for kernel, tile in record["configuration"].items()})
        for record in outcome["records"]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    named = [name for name in NAMED_SHAPES if name not in GPU_ONLY_SHAPES]
    parser.add_argument("--shapes", nargs="+", choices=NAMED_SHAPES, default=named)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--from", dest="file", type=Path, help="a JSON of tools/gpu_check.sh")
    arguments = parser.parse_args()
    if arguments.file:
        write_table(table() | recorded(arguments.file))
        return
    if not torch.cuda.is_available():
        parser.error("no GPU was found: tiles are measured, not guessed")
    for name, dtype_name in itertools.product(arguments.shapes, arguments.dtypes):
        key, best = tune_named(name, DTYPES[dtype_name])
        write_table(table() | {str(key): best})
        table.cache_clear()


if __name__ == "__main__":
    main()
