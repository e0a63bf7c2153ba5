"""Counts what Triton's PTX executes, on the executor: no GPU is needed and none is timed.

`python tests/ptx/count_triton.py` prints a table of every launch at the named shapes. Cycles are of an sm_90 of 132
multiprocessors, each busy evenly: a scheduler issues one instruction, four of them share 32 load/store units, and L1
delivers four sectors of 32 bytes. With --rows it compares the forward's loop over rows in PTX and in machine code.
"""

import argparse
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

if __name__ == "__main__":
    import sys

    sys.path.append(str(Path(__file__).parents[2] / "tools" / "triton_kernels"))

from count_pooled import row_of_inputs
from triton_on_executor import Gpu, Launched, triton_backend

from deltaconv_kernels.testing import GPU_ONLY_SHAPES, NAMED_SHAPES, Shape, make_case

ARCHITECTURE = 90
MULTIPROCESSORS, SCHEDULERS, SECTORS_A_CYCLE = 132, 4, 4
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
COLUMNS = (
    "shape", "launch", "blocks", "issue slots", "of these multiply-adds", "loads and stores", "L1 cycles",
    "sectors a request", "ceiling",
)  # fmt: skip
ROW_COLUMNS = "K", "dtype", "PTX", "multiply-adds", "machine code", "multiply-adds"


@dataclass(frozen=True)
class Cycles:
    """Of a launch: a scheduler's issue slots, all and for multiply-adds; a multiprocessor's other cycles."""

    issue: float
    multiply_adds: float
    load_store: float
    sectors: float
    sectors_a_request: float

    @property
    def ceiling(self) -> float:
        """The share of the peak of multiply-adds that what is busiest allows."""
        return self.multiply_adds / max(self.issue, self.load_store, self.sectors)


def cycles(launched: Launched) -> Cycles:
    counts = launched.counts
    issued = Counter()
    for opcode, number in zip(counts.opcodes, counts.issued.tolist(), strict=True):
        issued[".".join(opcode.split(".")[:2])] += number
    requests = issued["ld.global"] + issued["st.global"]
    wavefronts, sectors = int(counts.wavefronts.sum()), int(counts.sectors.sum())
    return Cycles(
        issue=issued.total() / MULTIPROCESSORS / SCHEDULERS,
        multiply_adds=issued["fma.rn"] / MULTIPROCESSORS / SCHEDULERS,
        load_store=(requests + wavefronts) / MULTIPROCESSORS,
        sectors=(sectors / SECTORS_A_CYCLE + wavefronts) / MULTIPROCESSORS,
        sectors_a_request=sectors / requests,
    )


def launches_of(shape: Shape, dtype: torch.dtype, backward: bool) -> list[Launched]:
    case = make_case(shape, dtype, residual=True)
    with triton_backend(Gpu(ARCHITECTURE)) as launches:
        torch.ops.deltaconv.pyramid(*case.arguments)
        if backward:
            torch.ops.deltaconv.pyramid_backward(*case.backward_arguments, (True, True, True))
    return launches


def cells(name: str, launched: Launched) -> list[str]:
    of = cycles(launched)
    kernel = launched.name.removeprefix("pyramid_").removesuffix("_kernel").removeprefix("backward_")
    numbers = [of.issue, of.multiply_adds, of.load_store, of.sectors]
    rounded = [f"{number:,.0f}".replace(",", " ") for number in numbers]
    return [name, kernel, str(math.prod(launched.grid)), *rounded, f"{of.sectors_a_request:.1f}", f"{of.ceiling:.0%}"]


def row_loop(kernel_size: int, dtype: str) -> list[int]:
    """Instructions of the forward's loop over rows of inputs, in full resolution: PTX, then machine code."""
    (launched,) = launches_of(Shape(1, 8, 16, 32, kernel_size, (1,)), DTYPES[dtype], backward=False)
    counts = launched.counts
    once_a_half = 2 * 4 * math.prod(launched.grid)  # a pass over the rows for each half of a pair, on 4 warps
    loop = [o for o, number in zip(counts.opcodes, counts.issued, strict=True) if number > once_a_half]
    machine_code, _ = row_of_inputs(Shape(1, 64, 64, 320, kernel_size, (1,)), dtype)
    return [len(loop), sum(o.startswith("fma") for o in loop), machine_code.total(), machine_code["FFMA"]]


def print_line(columns) -> None:
    print("| " + " | ".join(map(str, columns)) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    named = [name for name in NAMED_SHAPES if name not in GPU_ONLY_SHAPES]
    parser.add_argument("--shapes", nargs="+", choices=named, default=named)
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--backward", action="store_true", help="the launches of the gradients as well")
    parser.add_argument("--rows", nargs="*", type=int, metavar="K", help="the loop over rows instead, for each K")
    options = parser.parse_args()
    print_line(COLUMNS if options.rows is None else ROW_COLUMNS)
    print_line(["---:"] * len(COLUMNS if options.rows is None else ROW_COLUMNS))
    if options.rows is not None:
        for kernel_size in options.rows or (7, 13):
            for dtype in ("float32", "bfloat16"):
                print_line([kernel_size, dtype, *row_loop(kernel_size, dtype)])
        return
    for name in options.shapes:
        for launched in launches_of(NAMED_SHAPES[name], DTYPES[options.dtype], options.backward):
            print_line(cells(name, launched))


if __name__ == "__main__":
    main()
