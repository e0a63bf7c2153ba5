"""What a benchmark run measures, and what it prints at its end: tables with geometric means, targets met or missed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from compile_ahead import compile_ahead
from tables import Ratio, Share, Target, geometric_mean, render
from targets import TARGETS

ROWS = [
    {"shape": "small", "of sgemm": Share(0.5), "over eager": Ratio(2)},
    {"shape": "large", "of sgemm": Share(0.9), "over eager": Ratio(8)},
]


def test_only_ratios_get_a_geometric_mean():
    assert render(ROWS) == [
        "shape           of sgemm  over eager",
        "small                50%       2.00x",
        "large                90%       8.00x",
        "geometric mean                 4.00x",
    ]


def test_one_row_has_no_mean():
    assert len(render(ROWS[:1])) == 2


@pytest.mark.parametrize(
    ("target", "measured", "outcome"),
    [
        (Target("mean", "t", "over eager", geometric_mean, 4), "4.00", "met"),
        (Target("least", "t", "over eager", min, 3), "2.00", "missed"),
        (Target("most", "t", "over eager", max, 8.5, at_least=False), "8.00", "met"),
        (Target("large", "t", "of sgemm", min, 0.75, where=lambda row: row["shape"] == "large"), "0.90", "met"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_targets(target, measured, outcome):
    row = target.row({"t": ROWS})
    assert (row["measured"], row[""]) == (measured, outcome)


def test_what_was_not_measured_has_no_outcome():
    assert [target.row({}) for target in TARGETS] == [None] * len(TARGETS)


@pytest.mark.parametrize(("options", "of_threads"), [((), 0), (("--every-table",), 10)], ids=["default", "every table"])
def test_only_what_the_readme_quotes_is_measured_unless_asked(options, of_threads):
    files = ("bench/test_block.py", "bench/test_threads.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--collect-only", *options, *files]
    found = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2]).stdout
    assert found.count("test_block_against_self_attention[") == 9
    assert found.count("test_every_core_is_used[") == of_threads


def test_compilers_run_in_other_processes_with_as_many_threads(tmp_path):
    compile_ahead(note_process, [(tmp_path / "one",), (tmp_path / "two",)])
    for name in ("one", "two"):
        process, threads = map(int, (tmp_path / name).read_text().split())
        assert process != os.getpid()
        assert threads == torch.get_num_threads()


def test_what_a_compiler_raises_is_raised():
    with pytest.raises(FileNotFoundError):
        compile_ahead(note_process, [(Path("/nowhere/one"),)])


def note_process(path):
    return lambda: path.write_text(f"{os.getpid()} {torch.get_num_threads()}")
