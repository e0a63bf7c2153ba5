"""The demo's minutes: how they are shared, what is said of them, and what a machine that others use does to them."""

import time

import pytest
from deltaconv_distill import demo as demo_package
from deltaconv_distill.cli import main
from deltaconv_distill.demo import DemoSettings
from deltaconv_distill.demo.budget import training_seconds
from deltaconv_distill.demo.load import measure_load
from deltaconv_distill.demo.stages import COMPARE, DISTIL, LOAD, STAGES, WRITE, Stages


@pytest.mark.parametrize(
    ("elapsed", "rest", "expected"),
    [(20, 130, 240), (60, 134, 196), (60, 136, 195), (300, 600, 195)],
    ids=["quiet", "just-fits", "half", "slow"],
)
def test_training_gets_what_is_left_and_at_least_half(elapsed, rest, expected):
    assert training_seconds(6.5, elapsed, rest) == expected


def test_each_part_is_announced_with_its_expected_time(capsys):
    stage = Stages(began=time.perf_counter() - 20)
    with stage(LOAD):
        pass
    stage.expect({DISTIL: 240.0, COMPARE: 90.0, WRITE: 6.0}, minutes=6.5)
    with stage(DISTIL):
        pass
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"[1/{len(STAGES)}] {LOAD}"
    assert "20 s gone" in lines[1]
    assert [line.split()[-2:] for line in lines[2:5]] == [["4.0", "minutes"], ["90", "s"], ["6", "s"]]
    assert lines[5].endswith(" 5.9 minutes")
    assert lines[6] == f"[{STAGES.index(DISTIL) + 1}/{len(STAGES)}] {DISTIL}: about 4.0 minutes"
    assert [(time.title, time.expected_seconds) for time in stage.times] == [(LOAD, None), (DISTIL, 240.0)]


@pytest.mark.parametrize("part", [COMPARE, WRITE])
def test_it_says_that_the_minutes_are_not_enough_and_how_to_save_some(part, capsys):
    stage = Stages(began=time.perf_counter() - 100)
    stage.expect({DISTIL: 195.0, part: 300.0}, minutes=6.5)
    last = capsys.readouterr().out.splitlines()[-1]
    assert "9.9 minutes, not 6.5: at least half of them train" in last
    assert ("--skip-distances" in last) == (part == COMPARE)


@pytest.mark.parametrize("stage1", [0, 10])
def test_steps_that_nobody_disturbed_are_the_steps_expected(stage1):
    """Two threads, each with a core: a step of a second is two seconds of the processor's."""
    seconds = [0.1] * stage1 + [1.0] * 20
    load = measure_load(seconds, [2 * s for s in seconds], stage1, threads=2)
    assert (load.steps, load.expected_steps, load.is_loaded) == (stage1 + 20, stage1 + 20, False)
    assert load.cores == pytest.approx(2)


@pytest.mark.parametrize("stage1", [0, 10])
def test_waiting_for_a_core_shows(stage1):
    """Half of the time, in both stages, somebody else has the cores."""
    seconds = [0.2] * stage1 + [2.0] * 20
    load = measure_load(seconds, seconds, stage1, threads=2)
    assert load.is_loaded
    assert load.expected_steps == stage1 + 40 + (1 if stage1 else 0)  # stage 1 waited for a second, which is a step
    assert load.cores == pytest.approx(1)


def test_threads_that_wait_and_burn_the_processor_are_seen_through():
    """A thread whose partner waits for a core may spin: most steps cost more of the processor, a few tell the truth."""
    load = measure_load([1.0] * 3 + [2.0] * 17, [2.0] * 3 + [4.0] * 17, stage1_steps=0, threads=2)
    assert (load.steps, load.expected_steps, load.is_loaded) == (20, 37, True)


def test_a_training_that_ended_in_stage_1_has_a_load_too():
    load = measure_load([0.4] * 3, [0.2] * 3, stage1_steps=160, threads=1)
    assert load.is_loaded
    assert load.steps == 3


def test_the_commands_options_reach_the_settings(tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(demo_package, "run_demo", lambda *args, **options: calls.append((*args, options)) or {})
    monkeypatch.setattr(demo_package, "summarise", str)
    before = time.perf_counter()
    output = ["--output", str(tmp_path / "demo")]
    assert main(["demo", *output]) == 0
    assert main(["demo", *output, "--minutes", "3", "--skip-distances", "--teacher", "mmdit"]) == 0
    (_, usual, options), (_, asked, _) = calls
    assert usual == DemoSettings()  # the command's default minutes are the library's
    assert before <= options["began"] <= time.perf_counter()
    assert (asked.minutes, asked.distance_samples, asked.teacher) == (3.0, 0, "mmdit")
    assert "report: " in capsys.readouterr().out
