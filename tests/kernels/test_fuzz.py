"""Random problems: any shape, type and memory layout within the contract, on every instruction set of this machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from problems import problems

from deltaconv_kernels.testing import assert_matches_oracle

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
