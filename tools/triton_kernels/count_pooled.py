"""What pooling while loading costs the triton backend's forward kernel, by the machine code.

Prints the instructions a thread executes for one row of inputs, in full and pooled by 2, and how much a reduced stage
executes of what the full one does, pooled while loading and if its inputs came pooled. Nothing runs on a GPU.
"""

from __future__ import annotations

import argparse
from collections import Counter

from compare_banded import disassembled, loops
from compile_triton import DTYPES, compile_launch, launches_of

from deltaconv_kernels.testing import Shape

ARCHITECTURE = 90
FACTOR = 2
HEADER = (
    "K", "dtype", "a row in full", "of these multiply-adds", "loads", "pooled", "of these loads",
    "reduced stage over full", "with pooled inputs",
)  # fmt: skip


def row_of_inputs(shape: Shape, dtype: str) -> tuple[Counter[str], dict[str, int]]:
    """The opcodes of one turn of the loop over rows of inputs, and the tile it is for."""
    forward = launches_of(shape, DTYPES[dtype], ARCHITECTURE)[0]
    tile = {name: forward.arguments[name] for name in ("RH", "RW", "K")}
    found = loops(disassembled(compile_launch(forward, ARCHITECTURE)))
    lines, row = max(found, key=lambda loop: (loop[1]["FFMA"], -loop[1].total()))
    pooling = [body for inner, body in found if inner.start > lines.start and inner.stop < lines.stop and body["LDG"]]
    for body in pooling:  # what of a window's loads is not unrolled runs again
        turns = (tile["RW"] + tile["K"] - 1) * FACTOR**2 // body["LDG"]
        row += Counter({name: number * (turns - 1) for name, number in body.items()})
    return row, tile


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernel_sizes", nargs="+", type=int, default=[7, 13])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["float32", "bfloat16"])
    options = parser.parse_args()
    print("| " + " | ".join(HEADER) + " |\n" + "| ---: " * len(HEADER) + "|")
    for kernel_size in options.kernel_sizes:
        for dtype in options.dtypes:
            full, tile = row_of_inputs(Shape(1, 64, 64, 320, kernel_size, (1,)), dtype)
            pooled, _ = row_of_inputs(Shape(1, 64, 64, 320, kernel_size, (FACTOR,)), dtype)
            # A patch of a reduced stage shares a row and a column of its outputs with its neighbours.
            reduced = tile["RH"] * tile["RW"] / ((tile["RH"] - 1) * (tile["RW"] - 1) * FACTOR**2)
            cells = (
                kernel_size, dtype, full.total(), full["FFMA"], full["LDG"], pooled.total(), pooled["LDG"],
                f"{reduced * pooled.total() / full.total():.2f}", f"{reduced:.2f}",
            )  # fmt: skip
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    main()
