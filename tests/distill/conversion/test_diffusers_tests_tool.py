"""tools/distill/compare_diffusers_tests.py: what it converts, and how it tells differences from what fails anyway."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from compare_diffusers_tests import report
from deltaconv_distill import DeltaConvFusion
from diffusers import ControlNetModel, UNet2DConditionModel, UNetMotionModel
from diffusers_tests.conversion import Construction
from tiny_pipelines import tiny_pixart_transformer, tiny_sd_unet


def test_whatever_is_made_or_loaded_is_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    construction = Construction()
    construction.install(monkeypatch.setattr)
    state = torch.get_rng_state()
    unet = tiny_sd_unet()
    drawn = torch.rand(1)
    fusion = DeltaConvFusion.attached_to(unet)
    assert fusion is not None
    with torch.no_grad():
        next(fusion.parameters()).fill_(7)
    unet.save_pretrained(tmp_path)
    loaded = DeltaConvFusion.attached_to(UNet2DConditionModel.from_pretrained(tmp_path))
    assert loaded is not None
    assert (next(loaded.parameters()) == 7).all()  # its own blocks, not new ones
    assert DeltaConvFusion.attached_to(UNet2DConditionModel.from_config(unet.config)) is not None
    assert DeltaConvFusion.attached_to(ControlNetModel.from_unet(unet)) is not None
    assert DeltaConvFusion.attached_to(tiny_pixart_transformer()) is not None
    assert construction.converted == 5
    UNetMotionModel.from_unet2d(unet)
    assert construction.converted == 5
    monkeypatch.undo()
    torch.set_rng_state(state)
    assert DeltaConvFusion.attached_to(tiny_sd_unet()) is None
    assert torch.equal(torch.rand(1), drawn)  # a test's random numbers are those that it has unconverted


def test_differences_are_told_from_what_fails_anyway() -> None:
    def result(outcome: str, converted: int = 1, reason: str = "") -> dict[str, object]:
        return {"outcome": outcome, "converted": converted, "reason": reason}

    converted = {
        "tests/a.py::passes": result("passed"),
        "tests/a.py::counts": result("failed", reason="assert 4 == 8 |\n x"),
        "tests/a.py::offline": result("failed", reason="no hub"),
        "tests/a.py::of_something_else": result("failed", converted=0),
        "tests/a.py::needs_a_gpu": result("skipped"),
    }
    plain = {"tests/a.py::counts": result("passed", 0), "tests/a.py::offline": result("failed", 0)}
    assert report(converted, plain).splitlines() == [
        "3 tests converted a denoiser; 1 of them fail unconverted too and are set aside.",
        "Of the 2 others 1 pass.",
        "",
        "| test | what it says |",
        "| --- | --- |",
        "| a.py::counts | assert 4 == 8 \\| x |",
    ]
