"""The operator, forward and backward, on named shapes with one backend: what sanitizers and profilers watch."""

from __future__ import annotations

import argparse
import os
import sys

import torch

import deltaconv_kernels as dk
from deltaconv_kernels.testing import NAMED_SHAPES, make_case, run_with_gradients

from .parts import NOT_RUN

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", required=True)
    parser.add_argument("--shapes", nargs="+", choices=NAMED_SHAPES, required=True)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--unpooled", action="store_true", help="every tensor in an allocation of its own")
    return parser.parse_args()


def refuse_unless_available(backend: str) -> None:
    status = dk.backends()[backend]
    if not status.available:
        print(f"{backend} cannot run: {status.reason}")
        sys.exit(NOT_RUN)


def main() -> None:
    options = arguments()
    refuse_unless_available(options.backend)
    if options.unpooled:  # an access beyond one tensor would else fall into the next
        os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
    cases = [make_case(NAMED_SHAPES[name], DTYPES[t], "cuda") for name in options.shapes for t in options.dtypes]
    with dk.use_backend(options.backend):
        for case in cases:  # compiles; what follows is what a profiler sees
            run_with_gradients(dk.pyramid, case)
        torch.cuda.synchronize()
        torch.cuda.profiler.start()
        for case in cases:
            run_with_gradients(dk.pyramid, case)
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()


if __name__ == "__main__":
    main()
