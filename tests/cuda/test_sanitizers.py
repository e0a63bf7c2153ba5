"""The CUDA kernels under AddressSanitizer and ThreadSanitizer, on the CPU; and that these notice what they should."""

import re
import subprocess

import pytest
from host_build import build

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
}


def run(folder, problem, *more):
    sizes, factors, kind, gate, residual, shared = PROBLEMS[problem]
    command = [folder / "sanitized", *sizes.split(), factors, str(kind), str(gate), str(residual), str(shared)]
    environment = {"TSAN_OPTIONS": "halt_on_error=1", "ASAN_OPTIONS": "detect_leaks=0"}
    return subprocess.run([*command, *map(str, more)], capture_output=True, text=True, env=environment)


@pytest.fixture(scope="session", params=["address", "thread"])
def sanitized(request):
    return build(f"cuda-host-{request.param}", f"-DDELTACONV_SANITIZER={request.param}")


@pytest.fixture(scope="session")
def thread_sanitized():
    return build("cuda-host-thread", "-DDELTACONV_SANITIZER=thread")


@pytest.mark.parametrize("problem", PROBLEMS)
def test_no_races_and_nothing_out_of_bounds(sanitized, problem):
    result = run(sanitized, problem)
    assert result.returncode == 0, result.stderr[:4000]


@pytest.mark.parametrize("problem", ["float32-aligned", "float16-large-kernel"])
def test_a_removed_barrier_is_noticed(thread_sanitized, problem):
    barriers = int(re.search(r"barriers (\d+)", run(thread_sanitized, problem).stdout).group(1))
    assert barriers >= 3
    for dropped in range(barriers):
        result = run(thread_sanitized, problem, dropped)
        assert result.returncode != 0, f"without barrier {dropped} of {barriers}"
        assert "ThreadSanitizer: data race" in result.stderr, f"without barrier {dropped}: {result.stderr[:2000]}"
