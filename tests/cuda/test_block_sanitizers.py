"""The whole block's kernels under AddressSanitizer and ThreadSanitizer, on the CPU; and that a lost barrier shows."""

import os
import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="runs the sanitizers as on Linux")

FLOAT16, BFLOAT16 = 1, 2
FEW, MANY = 1, 132  # multiprocessors: for large tiles, or small ones
PYRAMID = 2  # the launch that test_cuda_sanitizers.py watches

# B H W dim inter K factor, type, residual, multiprocessors. Tails in pixels and channels; several steps of channels.
PROBLEMS = {
    "small-tiles": ("2 9 8 328 80 3 2", FLOAT16, 1, MANY),
    "one-step": ("1 5 3 16 16 1 1", BFLOAT16, 0, MANY),
    "large-tiles": ("1 12 11 136 136 3 2", BFLOAT16, 1, FEW),
    "wide-tiles": ("1 12 11 160 160 3 1", FLOAT16, 1, FEW),
    "planes": ("1 12 20 72 40 7 2", BFLOAT16, 1, MANY),
    "wide-planes": ("1 6 10 24 160 9 2", FLOAT16, 0, FEW),
}


def run(folder, problem, *more):
    sizes, kind, residual, multiprocessors = PROBLEMS[problem]
    # ThreadSanitizer's shadow memory wants addresses where it expects them.
    command = ["setarch", "-R", folder / "sanitized_block", *sizes.split()]
    numbers = map(str, (kind, residual, multiprocessors, *more))
    environment = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1"}
    return subprocess.run([*command, *numbers], capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_no_races_and_nothing_out_of_bounds(sanitized, problem):
    result = run(sanitized, problem)
    assert result.returncode == 0, result.stderr[:4000]


@pytest.mark.parametrize("problem", ["small-tiles", "large-tiles"])
def test_a_removed_barrier_is_noticed(thread_sanitized, problem):
    printed = re.search(r"barriers((?: \d+)+)", run(thread_sanitized, problem).stdout).group(1)
    launches = [int(count) for count in printed.split()]
    assert len(launches) == 4
    assert sum(launches) - launches[PYRAMID] >= 8
    for launch, barriers in enumerate(launches):
        for barrier in range(barriers if launch != PYRAMID else 0):
            result = run(thread_sanitized, problem, launch, barrier)
            where = f"without barrier {barrier} of {barriers} in launch {launch}"
            assert result.returncode != 0, where
            assert "ThreadSanitizer: data race" in result.stderr, f"{where}: {result.stderr[:2000]}"
