"""The least time of each named shape's forward on an H200, and what the plan expects, computed: no measurement.

`python tools/cuda_kernels/cuda_floors.py` prints the table of docs/cuda/floors.md; with --write it puts it into that
page.
"""

from __future__ import annotations

import argparse
import re

import torch
from cuda_resources import write_table

from deltaconv_kernels.cuda_plan import explain_cuda_plan
from deltaconv_kernels.testing import NAMED_SHAPES, Shape

# Rates of an H200: float32 by the data sheet; what mma.sync and a copy reach as others measured it.
FLOAT32_FLOPS, MATRIX_FLOPS, BYTES = 67e12, 620e12, 4.3e12
BAND_STEP = 8  # columns of results of one product, and rows of a fragment of the band


def band_density(kernel_size: int) -> float:
    """The part of the banded matrix that is not zero: K of the K + 7 rows rounded up to whole fragments."""
    fragments = -(-(kernel_size + BAND_STEP - 1) // BAND_STEP)
    return kernel_size / (BAND_STEP * fragments)


def floors(shape: Shape) -> dict[str, float]:
    """Microseconds, by what limits; computed, not measured."""
    return {
        "memory": 1e6 * shape.bytes(torch.float16) / BYTES,
        "CUDA cores": 1e6 * shape.flops / FLOAT32_FLOPS,
        "tensor cores": 1e6 * shape.flops / (MATRIX_FLOPS * band_density(shape.kernel_size)),
    }


def expected(shape: Shape) -> dict[str, float]:
    """Model cycles of the forward by the plan, by type."""
    cycles_by_type = {}
    for dtype in (torch.bfloat16, torch.float32):
        sizes = (shape.batch, shape.height, shape.width, shape.inter)
        plan = explain_cuda_plan(sizes, shape.kernel_size, shape.factors, dtype)
        cycles = re.findall(r"^forward.*about (\d+) model cycles", plan, re.MULTILINE)
        cycles_by_type[f"plan, {str(dtype).removeprefix('torch.')}"] = float(sum(map(int, cycles)))
    return cycles_by_type


def table() -> str:
    rows = {
        name: [f"{time:.1f}" for time in floors(shape).values()]
        + [f"{cycles:,.0f}".replace(",", " ") for cycles in expected(shape).values()]
        for name, shape in NAMED_SHAPES.items()
    }
    some = next(iter(NAMED_SHAPES.values()))
    columns = [*floors(some), *expected(some)]
    lines = [f"| shape | density | {' | '.join(columns)} |", "| --- |" + " ---: |" * (1 + len(columns))]
    for name, row in rows.items():
        lines.append(f"| {name} | {band_density(NAMED_SHAPES[name].kernel_size):.2f} | {' | '.join(row)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the table into docs/cuda/floors.md")
    made = table()
    print(made)
    if parser.parse_args().write:
        write_table("cuda_floors", made)


if __name__ == "__main__":
    main()
