"""The demo in miniature: seconds instead of minutes, a teacher with random weights, every artefact."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from deltaconv_distill import DeltaConvFusion
from deltaconv_distill.analysis import Generation, Profile
from deltaconv_distill.demo import DemoSettings, report, run, run_demo, summarise
from deltaconv_distill.demo.evaluate import spread
from deltaconv_distill.demo.experiment import Outcome, experiment
from deltaconv_distill.demo.settings import TRAINING
from deltaconv_distill.demo.stages import COMPARE, DISTIL, MEASURE, STAGES
from deltaconv_distill.demo.variants import VARIANTS
from distilling import CAPTIONS, RandomImages
from PIL import Image
from tiny_flow_pipelines import stable_diffusion_3
from tiny_pipelines import tiny_sd

SETTINGS = DemoSettings(
    minutes=1.0,
    kernel_size=3,
    analysis=Generation(["red cat"], timesteps=(500,), num_inference_steps=2),
    prompts=("red cat", "sun"),
    num_inference_steps=2,
    distance_samples=4,
    held_batches=1,
    timing_sizes=(16, 32),
    timing_repeats=2,
    training=replace(TRAINING, train_batch_size=2, fit_batches=2, stage1_steps=4, stage1_repeats=2, max_train_steps=7),
)
PICTURES = ("grid", "losses", "times")


class PicturedImages(RandomImages):
    """RandomImages that also offers all of its pixels, as the embedded emoji do."""

    @property
    def pixels(self) -> np.ndarray:
        return np.stack([self.image(index).permute(1, 2, 0).numpy() for index in range(len(self))])


@pytest.fixture(scope="module")
def first_run(tmp_path_factory) -> tuple[Path, Outcome]:
    """The folder, and what was written into it."""
    path = tmp_path_factory.mktemp("demo") / "report"
    outcomes = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # conftest's fixture comes too late for one of module scope
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "experiment", lambda *arguments: outcomes.append(experiment(*arguments)) or outcomes[0])
        run_demo(path, SETTINGS, tiny_sd(), PicturedImages())
    torch.set_num_threads(threads)
    return path, outcomes[0]


@pytest.fixture(scope="module")
def folder(first_run) -> Path:
    return first_run[0]


@pytest.fixture(scope="module")
def figures(folder) -> dict:
    return json.loads((folder / "figures.json").read_text())


def test_every_artefact_is_there_and_nothing_else(folder):
    pictures = [f"{name}{suffix}.png" for name in PICTURES for suffix in ("", "-dark")]
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [*pictures, "figures.json", "profile.json", "report.html", "fusion"]
    )
    assert [path.name for path in folder.parent.iterdir()] == ["report"]
    for name in pictures:
        with Image.open(folder / name) as image:
            assert min(image.size) > 200


def test_figures_are_whole_and_plausible(figures):
    assert list(figures["quality"]) == [variant.key for variant in VARIANTS]
    assert figures["predicted"] == "epsilon"
    assert {"torch", "python"} <= figures["machine"]["versions"].keys()
    quality = figures["quality"]
    assert quality["teacher"]["teacher_mse"] == quality["teacher"]["pixel_difference"] == 0
    assert quality["teacher"]["fd_teacher"] == pytest.approx(0, abs=1e-6)
    for key in ("removed", "pool", "student"):
        assert quality[key]["teacher_mse"] > 0
        assert quality[key]["fd_teacher"] > 0
    assert [time["size"] for time in figures["timing"]] == [16, 32]
    for time in figures["timing"]:
        assert time["tokens"] == (time["size"] // 2) ** 2
        assert time["speedup"] == pytest.approx(time["teacher_ms"] / time["student_ms"])
    assert figures["training"]["steps"] == 7
    assert figures["training"]["stage1"]["steps"] == 4
    assert figures["conversion"]["parameters_trained"] < figures["conversion"]["parameters_teacher"]
    assert figures["settings"]["distance_samples"] == 4


def test_every_part_is_timed_and_what_follows_the_training_is_expected(figures):
    stages = figures["stages"]
    assert tuple(stage["title"] for stage in stages) == STAGES
    known = STAGES.index(MEASURE) + 1
    assert all(stage["expected_seconds"] is None for stage in stages[:known])
    assert all(stage["expected_seconds"] > 0 for stage in stages[known:])
    assert all(stage["seconds"] > 0 and stage["processor_seconds"] > 0 for stage in stages)
    assert sum(stage["seconds"] for stage in stages) <= figures["seconds"]


def test_training_gets_the_minutes_that_the_other_parts_leave(figures):
    gone = sum(stage["seconds"] for stage in figures["stages"][: STAGES.index(DISTIL)])
    to_come = sum(stage["expected_seconds"] for stage in figures["stages"][STAGES.index(DISTIL) :])
    limit = figures["training"]["config"]["max_train_seconds"]
    assert limit == figures["stages"][STAGES.index(DISTIL)]["expected_seconds"] >= 30 * SETTINGS.minutes
    assert limit == 30 * SETTINGS.minutes or gone + to_come == pytest.approx(60 * SETTINGS.minutes, abs=3)


def test_the_profile_is_of_the_layers_that_were_replaced(folder, figures):
    profile = Profile.load(folder / "profile.json")
    assert list(profile.layers) == [layer["name"] for layer in figures["conversion"]["layers"]]


def test_the_fusion_is_the_student_that_was_measured(folder, figures):
    fusion = DeltaConvFusion.from_pretrained(folder / "fusion").attach(tiny_sd())
    assert list(fusion.blocks) == [layer["name"] for layer in figures["conversion"]["layers"]]


def test_the_report_needs_nothing_from_outside(folder):
    report = _Report()
    report.feed((folder / "report.html").read_text())
    assert report.pictures > 2 * len(PICTURES)  # light and dark, and the analysis's
    assert report.unclosed == []
    assert report.outside == ["https://arxiv.org/abs/2504.21292"]


def test_the_report_tells_the_figures(folder, figures):
    text = re.sub(r"data:image[^\"]*", "", (folder / "report.html").read_text())
    assert "$" not in text  # no placeholder left
    assert f"{figures['training']['steps']:,} training steps" in text
    assert "Its attention is joint" not in text
    assert "--model embedded --fusion" in text
    assert f"{figures['quality']['student']['noise_mse']:.3g}" in text
    for layer in figures["conversion"]["layers"]:
        assert layer["name"] in text


def test_the_summary_for_a_terminal(figures):
    text = summarise(figures)
    assert all(f"\n{variant.key} " in text for variant in VARIANTS)
    assert "noise error" in text
    assert "FD-EffNet" in text
    assert "32x32 pixels" in text


@pytest.mark.parametrize("is_loaded", [True, False])
def test_a_busy_machine_is_told(figures, folder, is_loaded, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "report_fragment", lambda profile: "")
    load = {"cores": 0.7, "threads": 2, "steps": 201, "expected_steps": 684, "is_loaded": is_loaded}
    told = {**figures, "training": {**figures["training"], "load": load}}
    for picture in folder.glob("*.png"):
        shutil.copy(picture, tmp_path)
    page = report.write_report(told, Profile.load(folder / "profile.json"), tmp_path).read_text()
    assert ("A busy machine." in page) == is_loaded
    assert "0.7 of 2 cores" in page
    assert ("This machine was busy" in summarise(told)) == is_loaded


def test_a_teacher_with_joint_attention_and_flow_matching_goes_the_same_road(tmp_path):
    settings = replace(SETTINGS, distance_samples=0)
    figures = run_demo(tmp_path / "report", settings, stable_diffusion_3(), PicturedImages())
    assert figures["predicted"] == "velocity"
    assert [layer["name"] for layer in figures["conversion"]["layers"]] == [
        "transformer_blocks.0.attn",
        "transformer_blocks.0.attn2",
        "transformer_blocks.1.attn",
    ]
    assert all(figures["quality"][key]["teacher_mse"] > 0 for key in ("removed", "pool", "student"))
    assert [time["tokens"] for time in figures["timing"]] == [(size // 4) ** 2 for size in (16, 32)]
    page = (tmp_path / "report" / "report.html").read_text()
    assert "error in predicting velocity" in page
    assert "Its attention is joint" in page
    assert "velocity error" in summarise(figures)
    assert tuple(stage["title"] for stage in figures["stages"]) == tuple(t for t in STAGES if t != COMPARE)
    assert "Distances between pictures were skipped" in page
    for text in (page, summarise(figures)):
        assert "FD-EffNet" not in text
    weights = DeltaConvFusion.from_pretrained(tmp_path / "report" / "fusion").state_dict()
    shares = [value for name, value in weights.items() if name.endswith("text_share.weight")]
    assert len(shares) == 2
    assert all((share > 0).all() and (share < 1).all() for share in shares)


def test_a_second_run_replaces_the_first(first_run, monkeypatch):
    folder, outcome = first_run
    before = (folder / "figures.json").stat().st_ino
    monkeypatch.setattr(run, "experiment", lambda *_: outcome)
    run_demo(folder, SETTINGS)
    assert (folder / "figures.json").stat().st_ino != before
    assert [path.name for path in folder.parent.iterdir()] == ["report"]


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"output: expected a new folder or an earlier demo's, got .*"):
        run_demo(tmp_path, SETTINGS)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_an_error_leaves_no_half_report(first_run, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "experiment", lambda *_: first_run[1])
    monkeypatch.setattr(run, "write_report", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_demo(tmp_path / "report", SETTINGS)
    assert list(tmp_path.iterdir()) == []


def test_spread():
    assert spread(10, 5) == [0, 2, 4, 6, 8]
    assert spread(len(CAPTIONS), 100) == [0, 1, 2, 3, 4]


class _Report(HTMLParser):
    """Counts inline pictures, notes references to elsewhere and tags that are never closed."""

    VOID = frozenset({"meta", "img", "source", "path", "rect", "wbr"})

    def __init__(self) -> None:
        super().__init__()
        self.pictures, self.outside, self.unclosed = 0, [], []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.unclosed.append(tag)
        for name, value in attrs:
            if name in ("src", "srcset", "href"):
                if value.startswith(("data:image/png;base64,", "data:image/jpeg;base64,")):
                    self.pictures += 1
                else:
                    self.outside.append(value)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.unclosed.pop() == tag
