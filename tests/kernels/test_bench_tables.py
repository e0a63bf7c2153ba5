"""What a benchmark run prints at its end: tables with geometric means, and targets met or missed."""

import pytest
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
