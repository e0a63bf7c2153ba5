"""Random problems: any shape, type and memory layout within the contract, on every instruction set of this machine."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from problems import problems

from deltaconv_kernels import reference, use_backend
from deltaconv_kernels.testing import Shape, assert_matches_oracle, make_case

EXAMPLES = 100
FUZZING = Path(__file__).with_name("fuzzing.py")


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(case=problems())
def test_any_problem(backend, case):
    assert_matches_oracle(case)


@pytest.mark.parametrize("instruction_set", ["baseline", "avx2", "avx512"])
def test_any_problem_on_every_instruction_set(instruction_set):
    environment = {**os.environ, "DELTACONV_CPU_ISA": instruction_set}
    command = [sys.executable, str(FUZZING), str(EXAMPLES)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if "this machine lacks these instructions" in result.stderr or "expected one of" in result.stderr:
        pytest.skip(result.stderr.strip().splitlines()[-1])
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [instruction_set]


@pytest.mark.parametrize("gate", reference.GATES)
@pytest.mark.parametrize("kernel_size", [1, 7, 9, 13, 21, 31])
def test_results_of_few_numbers_that_cancel(kernel_size, gate):
    """Of 60 gradients of two biases, half of them of one pixel, some nearly cancel: float32 sums exceed the budget."""
    for height, width, seed in ((h, w, seed) for h, w in ((1, 1), (14, 30)) for seed in range(30)):
        case = make_case(Shape(1, height, width, 2, kernel_size, (1,)), gate=gate, seed=seed)
        with use_backend("cpu"):
            assert_matches_oracle(replace(case, gate_scale=20.0))
