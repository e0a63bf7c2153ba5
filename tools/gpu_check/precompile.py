"""Compiles the Triton kernels of the named shapes on all cores at once; Triton keeps them on disk for later parts."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import time

import torch
from recording import record

import deltaconv_kernels as dk
from deltaconv_kernels.testing import GPU_ONLY_SHAPES, NAMED_SHAPES, make_case, run_with_gradients

from .workload import refuse_unless_available

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}


def compile_one(problem: tuple[str, str]) -> None:
    dtype, name = problem
    start = time.monotonic()
    with dk.use_backend("triton"):
        run_with_gradients(dk.pyramid, make_case(NAMED_SHAPES[name], DTYPES[dtype], "cuda"))
    torch.cuda.synchronize()
    record(shape=name, dtype=dtype, seconds=round(time.monotonic() - start, 1))


def main() -> None:
    refuse_unless_available("triton")
    names = [name for name in NAMED_SHAPES if name not in GPU_ONLY_SHAPES]
    workers = max(1, len(os.sched_getaffinity(0)) - 1)
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for _ in pool.imap_unordered(compile_one, itertools.product(DTYPES, names), chunksize=1):
            pass


if __name__ == "__main__":
    main()
