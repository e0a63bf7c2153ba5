"""The table of compiled kernels in docs: how tools/triton_kernels/compile_triton.py extends it, and that it holds."""

import re

import pytest

pytest.importorskip("triton", reason="triton is not installed")

import compile_triton
from compile_triton import COLUMNS, DOCUMENT, KERNELS, compiled_alike, kept_rows, line, merged, problems

from deltaconv_kernels.testing import NAMED_SHAPES

FIRST_KERNEL = COLUMNS.index(KERNELS[0])
COMPILED = "float32", "bfloat16"


def row_of(name, dtype, target, registers="100"):
    return (", ".join(compiled_alike(name)), "160", "7", dtype, target, f"{registers} / 1000")


def test_shapes_that_compile_alike_share_a_row():
    assert compiled_alike("hires-256-k11") == ["sd15-64-k11", "hires-256-k11"]
    assert compiled_alike("sd15-64-k7") == ["sd15-64-k7"]
    assert problems(["hires-256-k11", "sd15-64-k7"]) == ["sd15-64-k7", "sd15-64-k11"]
    assert {other for name in problems(NAMED_SHAPES) for other in compiled_alike(name)} == set(NAMED_SHAPES)


def test_rows_are_merged_in_order():
    old = [row_of("sd15-64-k7", "float32", "sm_90"), row_of("sd15-64-k11", "float32", "sm_90")]
    new = [row_of("sdxl-64-k9", "bfloat16", "sm_80"), row_of("sd15-64-k7", "float32", "sm_90", "101")]
    assert merged(old, new) == [new[0], new[1], old[1]]


def test_rows_of_other_kernels_are_dropped(monkeypatch):
    page = DOCUMENT.read_text(encoding="utf-8")
    made_by = re.search(r"Triton \S+, kernels [0-9a-f]{8}", page).group()
    monkeypatch.setattr(compile_triton, "made_by", lambda: made_by)
    assert kept_rows(page)
    monkeypatch.setattr(compile_triton, "made_by", lambda: "Triton 0.0, kernels deadbeef")
    assert kept_rows(page) == []


def test_the_table_is_of_these_kernels_and_none_spills():
    """A change of the kernels makes the table stale: compile again with --write."""
    page = DOCUMENT.read_text(encoding="utf-8")
    if compile_triton.made_by().split(",")[0] not in page:
        pytest.skip("the page's table was made by another version of Triton")
    rows = kept_rows(page)
    assert rows, f"{DOCUMENT.name}: the kernels have changed since its table was made"
    for row in rows:
        cells = dict(zip(COLUMNS, row, strict=True))
        assert cells["spilled"] == "0", line(row)
        assert all(int(cells[kernel].split(" / ")[0]) < 255 for kernel in KERNELS), line(row)
