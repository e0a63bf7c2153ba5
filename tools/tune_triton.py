"""Times the tiles of the triton backend's kernels on the GPU that is here, and keeps the fastest in the shipped table.

`python tools/tune_triton.py --shapes sdxl-64-k9 --dtypes bfloat16` adds or replaces those entries of
deltaconv_kernels/triton/configurations.json; without arguments, the named shapes that fit in every dtype.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from dataclasses import replace

import torch
import triton
from triton.testing import do_bench

from deltaconv_kernels import reference
from deltaconv_kernels.testing import ERROR_BUDGET, GPU_ONLY_SHAPES, NAMED_SHAPES, Case, make_case, relative_error
from deltaconv_kernels.triton import launch
from deltaconv_kernels.triton.configurations import Configuration, Key, Tile, device_kind, rule, table, write_table

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
WARM_UP, REPETITIONS = 25, 100  # milliseconds


def convolution_tiles() -> list[Tile]:
    """Patches with at most 64 accumulators a lane and channel of a pair, one or two of them a lane."""
    sizes = itertools.product((4, 8, 16), (16, 32, 64), (2, 4), (4, 8), (2, 4, 8))
    return [Tile(*size) for size in sizes if _elements_a_lane(*size) in (1, 2)]


def weight_tiles() -> list[Tile]:
    sizes = itertools.product((2, 4, 8), (16, 32, 64), (1, 2, 3), (8, 16), (4, 8))
    return [Tile(*size) for size in sizes if _elements_a_lane(*size) in (1, 2)]


def _elements_a_lane(BP: int, BC: int, RH: int, RW: int, warps: int) -> float:
    return BP * BC / (32 * warps)


def gradients(case: Case, output_mask: tuple[bool, bool, bool]) -> tuple[torch.Tensor, ...]:
    return launch.pyramid_backward(*case.backward_arguments, output_mask)


def tune(case: Case, key: Key) -> Configuration:
    """The fastest tile for each kernel, one kernel after the other; a tile that is wrong or does not compile is out."""
    double = case.to(torch.float64)
    y = reference.pyramid_forward(*double.arguments)
    expected = reference.pyramid_backward(*double.backward_arguments, (True, True, True))
    passes: dict[str, tuple[list[Tile], Callable[[], tuple[torch.Tensor, ...]], tuple[torch.Tensor, ...]]] = {
        "forward": (convolution_tiles(), lambda: (launch.pyramid_forward(*case.arguments),), (y,)),
        "backward": (convolution_tiles(), lambda: gradients(case, (True, False, False))[:1], expected[:1]),
        "weight": (weight_tiles(), lambda: gradients(case, (False, True, True))[1:], expected[1:]),
    }
    best = rule(key)
    for name, (tiles, run, wanted) in passes.items():
        times: dict[Configuration, float] = {}
        for tile in [getattr(best, name), *tiles]:
            candidate = replace(best, **{name: tile})
            times[candidate] = time_of(candidate, run, wanted)
        best = min(times, key=lambda candidate: times[candidate])
        print(f"{key} {name}: {getattr(best, name)}, {times[best] * 1000:.1f} µs", flush=True)
    return best


def time_of(
    candidate: Configuration, run: Callable[[], tuple[torch.Tensor, ...]], wanted: tuple[torch.Tensor, ...]
) -> float:
    """Milliseconds of `run` with this configuration, asserted right first; infinite where it does not compile."""
    chosen = launch.configuration
    launch.configuration = lambda key: candidate
    try:
        for result, exact in zip(run(), wanted, strict=True):
            error = relative_error(result, exact)
            assert error <= ERROR_BUDGET[result.dtype], f"{candidate}: relative error {error:.1e}"
        return do_bench(run, warmup=WARM_UP, rep=REPETITIONS, return_mode="median")
    except triton.runtime.errors.OutOfResources as error:
        print(f"{candidate}: {error}")
        return float("inf")
    finally:
        launch.configuration = chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    named = [name for name in NAMED_SHAPES if name not in GPU_ONLY_SHAPES]
    parser.add_argument("--shapes", nargs="+", choices=NAMED_SHAPES, default=named)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("no GPU was found: tiles are measured, not guessed")
    for name, dtype_name in itertools.product(arguments.shapes, arguments.dtypes):
        shape, dtype = NAMED_SHAPES[name], DTYPES[dtype_name]
        case = make_case(shape, dtype, "cuda")
        key = Key(shape.inter, shape.height, shape.width, shape.kernel_size, dtype, device_kind(case.x.device))
        write_table(table() | {str(key): tune(case, key)})
        table.cache_clear()


if __name__ == "__main__":
    main()
