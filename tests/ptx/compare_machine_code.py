"""How far the counts of PTX are from what a GPU issues: the main loops of the forward, in PTX and in machine code.

    python tests/ptx/compare_machine_code.py [--loops "CUDA cores, K = 3" ...] [--whole]

For each class of instructions, PTX → machine code of a turn of the loop, which both compilers may unroll: the products
say. "Under a predicate" are instructions of any class that a predicate may leave out, but for branches.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests" / "cuda"), str(ROOT / "tests" / "ptx"), str(ROOT)]

from cuda_launches import Executor, forward  # noqa: E402
from machine_code import (  # noqa: E402
    CLASSES,
    MULTIPLY_ADDS,
    PRODUCTS,
    PTX_CLASSES,
    SASS_CLASSES,
    assembled,
    classified,
    guarded,
    instructions_of_ptx,
    instructions_of_sass,
    main_loop,
)
from nvcc_ptx import ptx, storage_of  # noqa: E402
from ptx_executor import Module  # noqa: E402

from deltaconv_kernels.testing import Shape, make_case  # noqa: E402

ARCHITECTURE = 90
# K, and the rows and columns of a tile on tensor cores.
LOOPS = {
    "tensor cores, 16 × 16, K ≤ 9": (7, (16, 16)),
    "tensor cores, 32 × 16, K ≤ 9": (7, (32, 16)),
    "tensor cores, 32 × 32, K ≤ 9": (7, (32, 32)),
    "tensor cores, 32 × 32, K ≤ 17": (11, (32, 32)),
    "CUDA cores, K = 3": (3, None),
    "CUDA cores, K = 7": (7, None),
    "CUDA cores, K = 13": (13, None),
}
COLUMNS = ["loop", "instructions", *CLASSES, "under a predicate"]


def launched(kernel_size: int, tile: tuple[int, int] | None) -> tuple[str, Module, str]:
    """The PTX text of the forward that a problem launches, the same parsed, and the entry's name."""
    path, dtype = ("tensor_cores", torch.bfloat16) if tile else ("cuda_cores", torch.float32)
    case = make_case(Shape(1, 35, 38, 32, kernel_size, (1,)), dtype)
    cta = (*tile, 512) if tile else None
    seen = []

    def look(ptx_module: Module, entry: str) -> Module:
        seen.append(ptx_module)
        return ptx_module

    executor = Executor(ARCHITECTURE, path=path, cta=cta, change=look, only_blocks=lambda blocks, launch: [0])
    forward(case, executor)
    (run,), (ptx_module,) = executor.executed, seen
    return ptx(f"{path}/forward.cu", storage_of(run.kernel), ARCHITECTURE), ptx_module, run.entry


def row(name: str, whole: bool) -> str:
    text, ptx_module, entry = launched(*LOOPS[name])
    sides = [
        (instructions_of_ptx(ptx_module.entry(entry)), PTX_CLASSES),
        (instructions_of_sass(assembled(text, entry, ARCHITECTURE)), SASS_CLASSES),
    ]
    if not whole:
        most = PRODUCTS if LOOPS[name][1] else MULTIPLY_ADDS
        sides = [(main_loop(instructions, classes, most), classes) for instructions, classes in sides]
    counts = [classified(instructions, classes) for instructions, classes in sides]
    pairs = [[sum(count[name] for name in CLASSES) for count in counts]]
    pairs += [[count[name] for count in counts] for name in CLASSES]
    pairs.append([guarded(instructions, classes) for instructions, classes in sides])
    return "| " + " | ".join([name, *(f"{before} → {after}" for before, after in pairs)]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loops", nargs="+", choices=LOOPS, default=list(LOOPS))
    parser.add_argument("--whole", action="store_true", help="the whole kernels, each instruction counted once")
    options = parser.parse_args()
    print("| " + " | ".join(COLUMNS) + " |")
    print("| --- |" + " ---: |" * (len(COLUMNS) - 1))
    for name in options.loops:
        print(row(name, options.whole), flush=True)


if __name__ == "__main__":
    main()
