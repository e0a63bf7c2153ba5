"""Prints how far the CPU forward pass is from what its own algorithm allows on this machine, by shape.

Reads bench/results/cpu.json, which plot_cpu.py writes. The arithmetic bound counts the multiply-adds that are left of
a convolution (csrc/cpu/tiles.h), those of its transformations included, at the rate of the machine's matrix product;
the memory bound moves x, the weights and the result once, at the rate of a copy. Both are in the direct method's
FLOPs, as all tables are. "One after the other" is what a pass reaches that does not overlap the two.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

import deltaconv_kernels as dk
from deltaconv_kernels.testing import NAMED_SHAPES, Shape

RESULTS = Path(__file__).parents[2] / "bench" / "results" / "cpu.json"


def multiply_adds(kernel_size: int, height: int, width: int) -> int:
    """For one channel of one image, in whole tiles; an addition counts as a multiply-add."""
    m = torch.ops.deltaconv.cpu_convolution_tile(kernel_size)
    if m == 1:
        return kernel_size**2 * height * width
    points, chunks, tiles = 2 * m - 1, -(-kernel_size // m), -(-width // m)
    products = points * chunks * kernel_size
    # Per pair of points: two polynomials of degree m - 2 and their sum and difference; at infinity, one of m - 1.
    inputs = (m - 1) * (2 * (m - 2) + 2) + (m - 1)
    outputs = (m - 1) * (2 + m) + m  # sum and difference of a pair, m powers of its point; the bias
    return height * (tiles * (products + outputs) + (tiles + chunks - 1) * inputs)


def bound_gflops(shape: Shape, sgemm: float, copy: float) -> tuple[float, float, float]:
    """By arithmetic, by memory, and one after the other."""
    per_channel = sum(multiply_adds(shape.kernel_size, shape.height // f, shape.width // f) for f in shape.factors)
    arithmetic = 2e-9 * shape.batch * shape.inter * per_channel / sgemm
    memory = 1e-9 * shape.bytes(torch.float32) / copy
    work = 1e-9 * shape.flops
    return work / arithmetic, work / memory, work / (arithmetic + memory)


def main() -> None:
    assert dk.backends()["cpu"].available  # loads the library that knows the tile of a convolution
    results = json.loads(RESULTS.read_text())
    sgemm, copy = results["sgemm_gflops"], results["copy_gigabytes_per_second"]
    print("| shape | arithmetic | memory | one after the other | measured | of it |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, point in results["roofline"].items():
        *bounds, serial = bound_gflops(NAMED_SHAPES[name], sgemm, copy)
        cells = [f"{value:.0f}" for value in (*bounds, serial, point["gflops"])]
        print(f"| {name} | {' | '.join(cells)} | {point['gflops'] / serial:.0%} |")
    print(f"\nGFLOP/s; matrix product {sgemm:.0f} GFLOP/s, copy {copy:.1f} GB/s; measured {results['date']}.")


if __name__ == "__main__":
    main()
