"""Compiles the Triton kernels of the named shapes and of the tests on all cores at once; Triton keeps them on disk."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import time
from collections.abc import Iterator

import torch
from recording import record

import deltaconv_kernels as dk
from deltaconv_kernels import reference
from deltaconv_kernels.testing import (
    GPU_ONLY_SHAPES,
    GPU_TEST_SHAPES,
    NAMED_SHAPES,
    Shape,
    make_case,
    run_with_gradients,
)

from .workload import refuse_unless_available

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}
Problem = tuple[Shape, str, str, bool]


def problems() -> Iterator[Problem]:
    """Shape, dtype, gate and whether there is a residual: what is timed, then the tests' grid."""
    for dtype, name in itertools.product(DTYPES, NAMED_SHAPES):
        if name not in GPU_ONLY_SHAPES:
            yield NAMED_SHAPES[name], dtype, "scaled", False
    for shape, dtype, gate in itertools.product(GPU_TEST_SHAPES, DTYPES, reference.GATES):
        yield shape, dtype, gate, True


def compile_one(problem: Problem) -> None:
    shape, dtype, gate, residual = problem
    start = time.monotonic()
    with dk.use_backend("triton"):
        run_with_gradients(dk.pyramid, make_case(shape, DTYPES[dtype], "cuda", gate=gate, residual=residual))
    torch.cuda.synchronize()
    record(shape=str(shape), dtype=dtype, gate=gate, seconds=round(time.monotonic() - start, 1))


def main() -> None:
    refuse_unless_available("triton")
    workers = max(1, len(os.sched_getaffinity(0)) - 1)
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for _ in pool.imap_unordered(compile_one, problems(), chunksize=1):
            pass


if __name__ == "__main__":
    main()
