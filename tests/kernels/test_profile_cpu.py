"""The CPU profile's parts, and what it says where it cannot sample."""

import re
import sys

import pytest
from profile_cpu import PARTS, main


def part_of(*functions):
    return next(part for part, pattern in PARTS.items() if re.search(pattern, "\n".join(functions)))


@pytest.mark.parametrize(
    ("part", "functions"),
    [
        ("products", ("add_chunks<8, 2, 2, float>", "sum_products<8, 2, 2, float>", "convolve_rows<4, 2, 2, float>")),
        ("output transformation", ("load", "transform_outputs<4, float>", "convolve_tiles<4, 8, 2, 2, float>")),
        ("x read, pooled, transformed", ("transform_inputs<5, float>", "cpu::Convolution<float>::read_averaged<S>")),
        ("weight gradient: products", ("add_slopes<4, 3, 3, float>", "accumulate_points<3, float>")),
        ("weight gradient: transformations", ("transform_outputs<4, float>", "WeightGradient<float>::write_plane")),
        ("gradient read, gate's slopes, transformed", ("gate_gradient", "BackwardStage<float>::compute_slope_row<0>")),
        ("gate, upsampling, result written", ("store", "(anonymous namespace)::Forward<float>::gate_row<0>")),
        ("the kernels' remaining code", ("useful_threads",)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_part_of_an_inlined_function(part, functions):
    assert part_of(*functions) == part


def test_without_perf(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "argv", ["profile_cpu.py", "sd15-8-k3"])
    with pytest.raises(SystemExit, match="perf: not found"):
        main()
