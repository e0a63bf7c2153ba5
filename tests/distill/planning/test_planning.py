"""Measuring what layers save and lose, the plan that follows, and both as commands."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import pytest
import torch
from deltaconv_distill import DeltaConvFusion
from deltaconv_distill.analysis import Generation, Profile, ablate_windows, pictures, report_fragment
from deltaconv_distill.cli import analyze, main
from deltaconv_distill.cli.errors import UserError
from deltaconv_distill.planning import ConversionPlan, Goal, plan_conversion, plan_table
from deltaconv_distill.planning import losses as losses_module
from deltaconv_distill.planning.losses import LossMeasurement
from diffusers import StableDiffusionPipeline
from tiny_pipelines import predict, tiny_sd

GENERATION = Generation(["red cat"], (0,), (900, 100), 2, {"height": 16, "width": 24})


@pytest.fixture(scope="module")
def pipe() -> StableDiffusionPipeline:
    return tiny_sd()


@pytest.fixture(scope="module")
def plan(pipe: StableDiffusionPipeline) -> ConversionPlan:
    return plan_conversion(pipe, GENERATION, Goal(error=0.9), (64, 96), kernel_size=3, progress=False)


def test_a_plan_leaves_the_pipeline_as_it_was() -> None:
    pipe = tiny_sd()
    before = predict(pipe.unet)
    plan = plan_conversion(pipe, GENERATION, Goal(error=0.9), kernel_size=3, progress=False)
    assert (plan.model, plan.pixels, plan.latents, plan.unit) == ("UNet2DConditionModel", (16, 16), (8, 8), "FLOPs")
    assert list(plan.layers) == DeltaConvFusion.layers_of(pipe)
    assert DeltaConvFusion.attached_to(pipe) is None
    assert torch.equal(predict(pipe.unet), before)
    assert 0 < plan.error <= 0.9
    assert plan.settings["generation"]["prompts"] == ["red cat"]
    assert plan.machine["versions"]["torch"] == torch.__version__


def test_what_removing_attention_changes_is_what_the_ablation_finds(
    pipe: StableDiffusionPipeline, plan: ConversionPlan
) -> None:
    sizes = {name: layer.kernel_size for name, layer in plan.layers.items()}
    ablation = ablate_windows(pipe, GENERATION, sizes, progress=False)
    assert plan.removed == pytest.approx(ablation.removed, rel=1e-3)


@torch.no_grad()
def test_a_loss_is_what_the_prediction_changes_by(pipe: StableDiffusionPipeline, plan: ConversionPlan) -> None:
    """Of a conversion of that layer, on what the pipeline gave its denoiser; fitted on other noise."""
    fusion = DeltaConvFusion.convert(pipe, kernel_size=3)
    before = {name: block.out_proj.weight.clone() for name, block in fusion.blocks.items()}
    measured = LossMeasurement(pipe, fusion, GENERATION, progress=False)
    name = list(fusion.blocks)[1]
    loss = measured.loss([name])
    assert loss == pytest.approx(plan.layers[name].loss, rel=1e-4)
    assert all(not torch.equal(block.out_proj.weight, before[layer]) for layer, block in fusion.blocks.items())

    teacher = [pipe.unet(**given)[0] for given in measured.inputs]
    part = DeltaConvFusion.convert(pipe, kernel_size=3, only=[name])
    part.blocks[name].load_state_dict(fusion.blocks[name].state_dict())
    student = [pipe.unet(**given)[0] for given in measured.inputs]
    part.detach()
    change = sum((mine - theirs).square().sum() for mine, theirs in zip(student, teacher, strict=True))
    assert loss == pytest.approx((change / sum(values.square().sum() for values in teacher)).item(), rel=1e-4)


def test_the_fit_makes_losses_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = plan_conversion(tiny_sd(), GENERATION, Goal(error=9), kernel_size=3, progress=False)
    monkeypatch.setattr(losses_module, "fit_to_calls", lambda fusion, passes: list(passes))
    started = plan_conversion(tiny_sd(), GENERATION, Goal(error=9), kernel_size=3, progress=False)
    assert fitted.joint["all"] < started.joint["all"]


def test_an_attention_that_does_nothing_is_the_first_to_go() -> None:
    pipe = tiny_sd()
    layers = DeltaConvFusion.layers_of(pipe)
    idle = layers[2]
    output = pipe.unet.get_submodule(idle).to_out[0]
    torch.nn.init.zeros_(output.weight)
    torch.nn.init.zeros_(output.bias)
    plan = plan_conversion(pipe, GENERATION, Goal(error=1e-6), (64, 64), kernel_size=3, progress=False)
    assert list(plan.kernel_sizes) == [idle]
    assert plan.layers[idle].loss < 1e-8


def test_goals_out_of_reach_are_refused_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tiny_sd()
    monkeypatch.setattr(losses_module, "record_inputs", lambda *_: pytest.fail("it was"))
    for arguments, message in (
        ((Goal(speedup=50), (64, 64)), "goal_speedup: 50 cannot be reached at 64 x 64 pixels"),
        ((Goal(error=0.1), (64, 63)), r"pixels: expected positive multiples of 2, .* got \(64, 63\)"),
        ((Goal(error=0.1), (0, 64)), "pixels: expected positive multiples of 2"),
    ):
        with pytest.raises(ValueError, match=message):
            plan_conversion(pipe, GENERATION, *arguments, kernel_size=3)
        assert DeltaConvFusion.attached_to(pipe) is None
    with pytest.raises(ValueError, match=r"unit: expected one of \('FLOPs', 'ns'\), got 'hours'"):
        plan_conversion(pipe, GENERATION, Goal(error=0.1), kernel_size=3, unit="hours")


def test_layers_that_lose_more_together_are_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error goal is one for the planned layers together: here these lose three times what they lose alone."""
    together = LossMeasurement.loss
    monkeypatch.setattr(
        LossMeasurement, "loss", lambda self, layers: together(self, layers) * (3 if len(layers) > 1 else 1)
    )
    plan = plan_conversion(tiny_sd(), GENERATION, Goal(error=0.02), (64, 64), kernel_size=3, progress=False)
    assert plan.goal == Goal(error=0.02)
    assert plan.joint["planned"] <= 0.02 * plan.removed
    assert 0 < len(plan.kernel_sizes) < len(plan.for_goal(plan.goal).kernel_sizes)


def test_costs_by_the_clock(pipe: StableDiffusionPipeline) -> None:
    plan = plan_conversion(pipe, GENERATION, Goal(error=50), (64, 64), kernel_size=3, unit="ns", progress=False)
    assert plan.unit == "ns"
    assert "x by the clock, error" in str(plan)
    assert plan.cost > 10_000
    assert set(plan.kernel_sizes) == {name for name, layer in plan.layers.items() if layer.saving > 0}


def test_the_table_and_the_report_have_every_layer(plan: ConversionPlan, pipe: StableDiffusionPipeline) -> None:
    text = plan_table(plan)
    assert all(f"\n{name} " in text for name in plan.layers)
    assert text.count("  convert") == len(plan.kernel_sizes)
    assert f"{plan.speedup:.2f}x by FLOPs" in text.splitlines()[-1]
    assert "measured together" in text.splitlines()[-1]
    other = plan.for_goal(Goal(speedup=1.1))
    assert "measured together" not in plan_table(other)


def test_commands_from_a_goal_to_a_student(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "plot", lambda *_: "")  # the layers' curves, which take seconds
    model, images, analysis, run = (tmp_path / name for name in ("model", "images", "analysis", "run"))
    tiny_sd().save_pretrained(model)
    generate = ["--num_inference_steps", "1", "--timesteps", "900", "--prompt", "red cat"]
    generate += ["--height", "16", "--width", "16"]
    command = ["analyze", "--model", str(model), *generate, "--output", str(analysis)]
    assert main([*command, "--goal_speedup", "1.05", "--goal_size", "64"]) == 0
    plan = ConversionPlan.load(analysis / "plan.json")
    assert (plan.goal, plan.pixels) == (Goal(speedup=1.05), (64, 64))
    assert 0 < len(plan.kernel_sizes) < len(plan.layers)
    assert f"plan: {analysis}/plan.json" in capsys.readouterr().out
    profile = Profile.load(analysis / "profile.json")
    assert {name: layer.kernel_size for name, layer in plan.layers.items()} == profile.kernel_sizes
    page = (analysis / "report.html").read_text()
    assert "Which layers to convert" in page
    assert page.count("<b>convert</b>") == len(plan.kernel_sizes)
    assert "Which layers to convert" not in report_fragment(profile)

    images.mkdir()
    for name in ("red cat", "sun"):
        write_picture(images / f"{name}.png")
        (images / f"{name}.txt").write_text(name)
    distil = [
        "distill",
        "--pretrained_teacher_model",
        str(model),
        "--train_data_dir",
        str(images),
        "--resolution",
        "16",
    ]
    distil += ["--train_batch_size", "2", "--max_train_steps", "1", "--output_dir", str(run)]
    assert main([*distil, "--plan", str(analysis / "plan.json"), "--profile", str(analysis / "profile.json")]) == 0
    student = DeltaConvFusion.from_pretrained(run / "fusion")
    assert list(student.blocks) == list(plan.kernel_sizes)
    student.attach(StableDiffusionPipeline.from_pretrained(model))


def write_picture(path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (16, 16), (200, 30, 30)).save(path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--goal_speedup", "1"], "--goal_speedup: expected a number above 1, got 1.0"),
        (["--goal_error", "0%"], "--goal_error: expected a share above 0, got 0.0"),
        (["--goal_size", "64"], "--goal_size: expected --goal_speedup or --goal_error beside it"),
        (["--goal_cost", "time"], "--goal_cost: expected --goal_speedup or --goal_error beside it"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_analyze_explains_mistakes(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", "--model", "nowhere", *flags]) == 2
    assert message in capsys.readouterr().err


def test_analyze_explains_goals_out_of_reach(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "plot", lambda *_: "")
    tiny_sd().save_pretrained(tmp_path / "model")
    generate = ["--num_inference_steps", "1", "--timesteps", "500", "--prompt", "red cat"]
    command = ["analyze", "--model", str(tmp_path / "model"), *generate, "--output", str(tmp_path / "analysis")]
    assert main([*command, "--goal_speedup", "40", "--goal_size", "64"]) == 2
    assert "--goal_speedup: 40 cannot be reached at 64 x 64 pixels" in capsys.readouterr().err
    saved = tmp_path / "analysis" / "profile.json"
    assert saved.is_file()  # which took longest
    assert (tmp_path / "analysis" / "report.html").is_file()
    plan = argparse.Namespace(goal_size=65, goal_cost=None)
    for size, message in ((65, "expected positive multiples of 2"), (2, "1 x 1 tokens are too few")):
        plan.goal_size = size
        with pytest.raises(UserError, match=f"--goal_size: {message}"):
            analyze._plan(tiny_sd(), GENERATION, Goal(speedup=2), Profile.load(saved), plan)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--plan", "FOLDER/none.json"], "--plan: 'FOLDER/none.json' cannot be read"),
        (["--plan", "FOLDER/other.json"], "--plan: expected exactly the layers"),
        (["--plan", "FOLDER/plan.json", "--only", "mid*"], "--only: not with plan="),
        (["--plan", "FOLDER/plan.json", "--kernel_size", "5"], "--kernel_size 5: kernel_size: not with plan="),
        (["--plan", "FOLDER/plan.json", "--fusion", "x"], "--plan: not with --fusion"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_distill_explains_plans_that_do_not_fit(
    flags: list[str], message: str, plan: ConversionPlan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_sd().save_pretrained(tmp_path / "model")
    plan.save(tmp_path / "plan.json")
    renamed = {f"other.{name}": layer for name, layer in plan.layers.items()}
    dataclasses.replace(plan, layers=renamed).save(tmp_path / "other.json")
    write_picture(tmp_path / "red.png")
    (tmp_path / "red.txt").write_text("red")
    command = ["distill", "--pretrained_teacher_model", str(tmp_path / "model"), "--train_data_dir", str(tmp_path)]
    flags = [flag.replace("FOLDER", str(tmp_path)) for flag in flags]
    assert main([*command, "--output_dir", str(tmp_path / "run"), *flags]) == 2
    assert message.replace("FOLDER", str(tmp_path)) in capsys.readouterr().err
