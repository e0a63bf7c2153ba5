"""The table of compiled kernels in docs/triton.md: how tools/compile_triton.py extends it, and that it holds."""

import pytest

pytest.importorskip("triton", reason="triton is not installed")

import compile_triton
from compile_triton import ARCHITECTURES, DOCUMENT, kept_rows, line, merged


def test_rows_are_merged_in_order():
    first, second = ("sd15-64-k7", "float32", "sm_90"), ("sd15-64-k7", "float32", "sm_80")
    old = [(*first, "forward", "100"), (*first, "backward_pool", "9")]
    new = [(*second, "forward", "99"), (*first, "forward", "101")]
    assert merged(old, new) == [new[0], new[1], old[1]]


def test_rows_of_other_kernels_are_dropped(monkeypatch):
    page = DOCUMENT.read_text(encoding="utf-8")
    assert kept_rows(page)
    monkeypatch.setattr(compile_triton, "made_by", lambda: "Triton 0.0, kernels deadbeef")
    assert kept_rows(page) == []


def test_the_table_is_of_these_kernels_and_none_spills():
    """A change of the kernels makes the table stale: compile again with --write."""
    page = DOCUMENT.read_text(encoding="utf-8")
    if compile_triton.made_by().split(",")[0] not in page:
        pytest.skip("the page's table was made by another version of Triton")
    rows = kept_rows(page)
    assert rows, "docs/triton.md: the kernels have changed since its table was made"
    assert {row[2] for row in rows} == {f"sm_{number}" for number in ARCHITECTURES}
    for row in rows:
        assert int(row[4]) < 255, line(row)
        assert row[5] == "0", line(row)
