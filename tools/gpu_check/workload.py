"""The operator, forward and backward, on named shapes with one backend: what sanitizers and profilers watch.

Of the `cuda` backend the whole block at inference too.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial

import torch

import deltaconv_kernels as dk
from deltaconv_kernels.testing import NAMED_SHAPES, Shape, make_case, run_with_gradients

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
    problems = [(NAMED_SHAPES[name], DTYPES[t]) for name in options.shapes for t in options.dtypes]
    runs = [partial(run_with_gradients, dk.pyramid, make_case(shape, dtype, "cuda")) for shape, dtype in problems]
    if options.backend == "cuda":
        runs += [block(shape) for shape, dtype in problems if dtype == torch.bfloat16]
    with dk.use_backend(options.backend):
        for run in runs:  # compiles; what follows is what a profiler sees
            run()
        torch.cuda.synchronize()
        torch.cuda.profiler.start()
        for run in runs:
            run()
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()


def block(shape: Shape) -> Callable[[], object]:
    """A whole block around a pyramid of this shape, at inference: the `cuda` backend's four launches."""
    width = 2 * shape.inter
    module = dk.DeltaConvBlock(width, shape.kernel_size, shape.factors, device="cuda", dtype=torch.bfloat16)
    x = torch.randn(shape.batch, shape.height, shape.width, width, device="cuda", dtype=torch.bfloat16)
    return torch.no_grad()(partial(module, x, x))


if __name__ == "__main__":
    main()
