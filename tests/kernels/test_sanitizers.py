"""AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer on the operator's grid.

`make test` builds and runs one instruction set; DELTACONV_SANITIZE=all (`make sanitize`) every one, and fuzzes.
"""

import sys

import pytest
from sanitized import EVERY_INSTRUCTION_SET, INSTRUCTION_SETS, RUNTIMES, SHORT, sanitized

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sanitizers' runtimes are preloaded as on Linux")

GRIDS = {"asan-ubsan": "grid", "tsan": "threads"}  # in one thread there is no race
WHICH = INSTRUCTION_SETS if EVERY_INSTRUCTION_SET else (SHORT,)


def assert_clean(result, instruction_set):
    if "this machine lacks these instructions" in result.stderr or "expected one of" in result.stderr:
        pytest.skip(result.stderr.strip().splitlines()[-1])
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.split() == [instruction_set]


@pytest.mark.parametrize("instruction_set", WHICH)
@pytest.mark.parametrize("preset", RUNTIMES)
def test_the_grid_is_clean(preset, instruction_set):
    assert_clean(sanitized(preset).run(GRIDS[preset], instruction_set), instruction_set)


@pytest.mark.skipif(not EVERY_INSTRUCTION_SET, reason="takes minutes: `make sanitize`")
@pytest.mark.parametrize("instruction_set", WHICH)
@pytest.mark.parametrize("preset", RUNTIMES)
def test_random_problems_are_clean(preset, instruction_set):
    assert_clean(sanitized(preset).run("fuzz", instruction_set), instruction_set)


@pytest.mark.parametrize(
    ("task", "report"),
    [("overrun", "AddressSanitizer: heap-buffer-overflow"), ("misaligned", "misaligned address")],
)
def test_bad_memory_is_reported(task, report):
    result = sanitized("asan-ubsan").run(task, SHORT)
    assert result.returncode != 0
    assert report in result.stderr, result.stderr


def test_a_race_is_reported():
    """Two threads with the same part of the work share its scratch memory and results."""
    result = sanitized("tsan").run("threads", SHORT, DELTACONV_SEEDED_RACE="1")
    assert result.returncode != 0
    assert "ThreadSanitizer: data race" in result.stderr, result.stderr
