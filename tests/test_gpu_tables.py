"""tools/gpu_results/draw_gpu_tables.py: Markdown from what tools/gpu_check.sh left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from draw_gpu_tables import draw, main, read

MACHINE = {
    "commit": "abc",
    "gpus": [{"name": "Some GPU"}],
    "versions": {"torch": "2.11.0", "triton": "3.6.0", "python": "3.12.3"},
}


def part(*records: dict[str, Any], status: str = "done", **fields: Any) -> dict[str, Any]:
    return {"status": status, "records": list(records), **fields}


def content() -> dict[str, Any]:
    times = {"cuda": {"cold": 8.0, "graph": 5.0}, "channels_last": {"cold": 80.0, "graph": None}}
    operator = {"kind": "operator", "pass": "forward", "shape": "sd15-64-k7", "dtype": "bfloat16", "flops": 160_000_000}
    sides = {"blocks": {"cold": 10.0, "graph": 9.0}, "attention": {"cold": 25.0, "graph": 24.0}}
    block = {"kind": "block", "tokens": 4096, "times": sides, "peak_bytes": {"blocks": 3e6, "attention": 5e6}}
    block |= {"break_even_tokens": {"eager": "900", "graph": "below 256"}}
    step = {"seconds": {"blocks": 0.5, "attention": 1.0}, "peak_bytes": {"blocks": 2e9, "attention": None}}
    step |= {"kind": "denoising", "model": "sd15", "pixels": 512, "ratio_to_attention": 2.0, "planned_bytes": 1e9}
    kernel = {"backend": "cuda", "shape": "sd15-64-k7", "dtype": "float32", "kernel": "void deltaconv::forward(int)"}
    parts = {
        "ceilings": part(
            {"ceiling": "copy", "bytes_per_second": 3e12}, {"ceiling": "matmul", "flops_per_second": 8e14}
        ),
        "operator": part(operator | {"times": times}, status="timed out", seconds=180, reason="its time limit"),
        "block": part(block),
        "denoising-sd15": part(step | {"break_even_pixels": "below 512"}),
        "host": part({"kind": "host", "backend": "cuda", "microseconds": {"forward": 9.0, "forward-backward": 50.0}}),
        "profile-cuda": part(kernel | {"metrics": {"Duration [us]": "5.12"}}),
        "cuda-tests": part({"counts": {"passed": 7, "skipped": 1}}),
        "racecheck-cuda": part(status="not run", reason="compute-sanitizer is not on the PATH"),
    }
    return {"started": "2026-11-22T13:00:00+00:00", "machine": MACHINE, "cuda": {"gpu": "driver 1"}, "parts": parts}


def test_every_table() -> None:
    page = draw(content())
    for line in (
        "Some GPU (driver 1), torch 2.11.0, triton 3.6.0, python 3.12.3, commit abc, 2026-11-22.",
        "| copy | 3.00 TB/s |",
        "| matmul | 800 TFLOP/s |",
        "| sd15-64-k7 | bfloat16 | 8.0 / 5.0 | 80.0 / - | 20.0 | 10.0× |",
        "| 4096 | 10.0 / 9.0 | - | - | 25.0 / 24.0 | - | 2.5× | 3 | 5 | eager 900, graph below 256 |",
        "| sd15 | 512 | 500.0 | 1000.0 | 2.00× | 2.00 | - | 1.00 | below 512 |",
        "| cuda | 9.0 | 50.0 |",
        "| cuda | sd15-64-k7 | float32 | forward | 5.12 | - | - | - | - |",
        "| cuda-tests | 7 | 0 | 1 |",
        "| racecheck-cuda | not run | - | compute-sanitizer is not on the PATH |",
        "| operator | timed out | 180 | its time limit |",
    ):
        assert line in page
    assert "forward-backward" not in page


def test_two_files_of_one_machine(tmp_path: Path) -> None:
    first, second = content(), content()
    first["parts"] = {"block": part(status="not run", reason="no time left"), "host": first["parts"]["host"]}
    second["parts"] = {"block": second["parts"]["block"], "host": part(status="failed", reason="x")}
    paths = [tmp_path / "first.json", tmp_path / "second.json"]
    for path, one in zip(paths, (first, second), strict=True):
        path.write_text(json.dumps(one))
    parts = read(paths)["parts"]
    assert [outcome["status"] for outcome in parts.values()] == ["done", "done"]
    second["machine"] = MACHINE | {"commit": "def"}
    paths[1].write_text(json.dumps(second))
    with pytest.raises(ValueError, match=r"second\.json is of another machine or commit than"):
        read(paths)


def test_into_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    results, page = tmp_path / "results.json", tmp_path / "page.md"
    results.write_text(json.dumps(content()))
    page.write_text("before\n<!-- gpu -->\nold\n<!-- /gpu -->\nafter\n")
    monkeypatch.setattr("sys.argv", ["draw_gpu_tables.py", str(results), "--into", str(page)])
    main()
    assert page.read_text() == f"before\n<!-- gpu -->\n{draw(content())}<!-- /gpu -->\nafter\n"
    page.write_text("no markers\n")
    with pytest.raises(SystemExit):
        main()
    assert "has no lines <!-- gpu --> and <!-- /gpu -->" in capsys.readouterr().err
    assert page.read_text() == "no markers\n"
