"""The CUDA kernels under AddressSanitizer and ThreadSanitizer, on the CPU; and that these notice what they should."""

import os
import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="runs the sanitizers as on Linux")

FLOAT32, FLOAT16, BFLOAT16 = range(3)
ROOMY, TIGHT = 232448, 24000  # bytes of shared memory: a tile as a whole, or in bands

# B H W C K, factors, type, gate, residual, bytes of shared memory. Tails in C, H, W; pooled, upsampled; two tiles.
PROBLEMS = {
    "float32": ("1 17 19 34 5", "1,2", FLOAT32, 0, 1, ROOMY),
    "float32-aligned": ("1 20 17 32 7", "1,2", FLOAT32, 1, 1, ROOMY),
    "float32-bands": ("1 20 17 32 7", "1,3", FLOAT32, 0, 0, TIGHT),
    "bfloat16-small-kernel": ("2 9 18 32 3", "2,1", BFLOAT16, 1, 1, ROOMY),
    "float16-large-kernel": ("1 18 17 32 7", "1,2", FLOAT16, 0, 1, ROOMY),
    "run-time-kernel": ("1 10 9 32 15", "1,2", FLOAT32, 0, 1, ROOMY),
    "float32-small": ("1 12 10 32 7", "1,2", FLOAT32, 1, 1, ROOMY),
    "float16-small": ("1 10 12 32 7", "1,2", FLOAT16, 0, 1, ROOMY),
}


def run(folder, problem, *more):
    sizes, factors, kind, gate, residual, shared = PROBLEMS[problem]
    # ThreadSanitizer's shadow memory wants addresses where it expects them.
    command = [
        "setarch",
        "-R",
        folder / "sanitized",
        *sizes.split(),
        factors,
        str(kind),
        str(gate),
        str(residual),
        str(shared),
    ]
    environment = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1"}
    return subprocess.run([*command, *map(str, more)], capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_no_races_and_nothing_out_of_bounds(sanitized, problem):
    result = run(sanitized, problem)
    assert result.returncode == 0, result.stderr[:4000]


@pytest.mark.parametrize("problem", ["float32-small", "float16-small"])
def test_a_removed_barrier_is_noticed(thread_sanitized, problem):
    """Every barrier of every kernel is one that ThreadSanitizer misses when it is gone."""
    printed = re.search(r"barriers((?: \d+)+)", run(thread_sanitized, problem).stdout).group(1)
    launches = [int(count) for count in printed.split()]
    assert sum(launches) >= 10
    for launch, barriers in enumerate(launches):
        for barrier in range(barriers):
            result = run(thread_sanitized, problem, launch, barrier)
            where = f"without barrier {barrier} of {barriers} in launch {launch}"
            assert result.returncode != 0, where
            assert "ThreadSanitizer: data race" in result.stderr, f"{where}: {result.stderr[:2000]}"
