"""Plans: costs against torch's counter, goals, the file, what `convert` does with one, and plans for other models."""

from __future__ import annotations

import dataclasses
import functools
import json
from itertools import product
from pathlib import Path

import jsonschema
import pytest
import torch
from cost_shares import table
from deltaconv_distill import DeltaConvFusion
from deltaconv_distill.conversion import ConversionPlan, Goal
from deltaconv_distill.conversion.costs import FLOPS, LayerCost, counted_costs, timed_costs
from deltaconv_distill.conversion.known_models import build_denoiser
from deltaconv_distill.conversion.model_inputs import random_inputs
from deltaconv_distill.conversion.parts import part_of
from deltaconv_distill.conversion.plan import PlannedLayer, schema
from diffusers import ModelMixin
from diffusers.models.attention_processor import AttnProcessor
from tiny_denoisers import make_tiny
from tiny_pipelines import predict, tiny_pixart_transformer, tiny_sd_unet
from torch.utils.flop_counter import FlopCounterMode


@functools.cache
def sd_plan() -> ConversionPlan:
    """Of the tiny Stable Diffusion; `for_goal` gives those for other goals."""
    return plan_of(tiny_sd_unet(), Goal(speedup=1.2))


def plan_of(denoiser: ModelMixin, goal: Goal) -> ConversionPlan:
    """A plan for latents of 32 x 32 with losses that rise with the layers' order."""
    fusion = DeltaConvFusion.convert(denoiser, kernel_size=3)
    costs = counted_costs(denoiser, 32, 32)
    fusion.detach()
    layers = {
        name: PlannedLayer(3 + 2 * (index % 2), cost.attention, cost.block, 0.01 * (index + 1), False)
        for index, (name, cost) in enumerate(costs.layers.items())
    }
    plan = ConversionPlan(
        model=type(denoiser).__name__,
        goal=goal,
        pixels=(64, 64),
        latents=(32, 32),
        unit=costs.unit,
        rest=costs.rest,
        factors=(1, 2),
        expansion=0.5,
        layers=layers,
        removed=0.5,
        joint={"all": 0.2},
        settings={"by": "this test"},
        machine={"date": "today"},
    )
    return plan.for_goal(goal)


@torch.no_grad()
@pytest.mark.parametrize("name", ["sd15", "pixart-sigma"])
def test_costs_of_any_mix_are_what_torch_counts(name: str) -> None:
    """At full size, of every second layer."""
    denoiser = build_denoiser(name)
    fusion = DeltaConvFusion.convert(denoiser)
    costs = counted_costs(denoiser, 64, 48)
    fusion.detach()
    some = list(costs.layers)[::2]
    DeltaConvFusion.convert(denoiser, only=some)
    with FlopCounterMode(display=False) as counter:
        denoiser(**random_inputs(denoiser, 64, 48))
    saved = sum(costs.layers[layer].saving for layer in some)
    assert costs.unit == FLOPS
    assert counter.get_total_flops() == costs.teacher - saved


@torch.no_grad()
def test_costs_on_a_cpu_are_what_torch_counts_there() -> None:
    denoiser = tiny_pixart_transformer()
    denoiser.set_attn_processor(AttnProcessor())  # whose products torch counts on a CPU too
    fusion = DeltaConvFusion.convert(denoiser, kernel_size=5)
    costs = counted_costs(denoiser, 12, 8)
    with FlopCounterMode(display=False) as counter, fusion.teacher():
        denoiser(**random_inputs(denoiser, 12, 8))
    assert costs.teacher == counter.get_total_flops()
    for layer in fusion.report.layers:
        flops = layer.flops(12, 8)
        assert costs.layers[layer.name] == LayerCost(flops.attention, flops.block)


def test_times_are_those_of_the_parts_of_a_step() -> None:
    denoiser = tiny_sd_unet()
    fusion = DeltaConvFusion.convert(denoiser, kernel_size=3)
    costs = timed_costs(denoiser, 16, 16, repeats=3)
    assert costs.unit == "ns"
    assert list(costs.layers) == list(fusion.blocks)
    assert all(cost.attention > 0 and cost.block > 0 for cost in costs.layers.values())
    assert costs.rest > sum(cost.attention for cost in costs.layers.values()) / 100
    hooks = [len(fusion.attention(name)._forward_hooks) for name in fusion.blocks]
    timed_costs(denoiser, 16, 16, repeats=1)
    assert [len(fusion.attention(name)._forward_hooks) for name in fusion.blocks] == hooks
    with pytest.raises(ValueError, match="repeats: expected at least 1, got 0"):
        timed_costs(denoiser, 16, 16, repeats=0)
    fusion.detach()
    for costs_of in (counted_costs, timed_costs):
        with pytest.raises(RuntimeError, match="denoiser: expected a converted UNet2DConditionModel"):
            costs_of(denoiser, 16, 16)


@pytest.mark.parametrize("speedup", [1.05, 1.3, 1.6])
def test_a_speed_goal_has_the_smallest_loss(speedup: float) -> None:
    plan = sd_plan().for_goal(Goal(speedup=speedup))
    assert plan.speedup >= speedup
    assert plan.error == min(error for speed, error in every_mix(plan) if speed >= speedup)


@pytest.mark.parametrize("error", [0.021, 0.1, 0.25, 0.31])
def test_an_error_goal_has_the_largest_speedup(error: float) -> None:
    plan = sd_plan().for_goal(Goal(error=error))
    assert plan.error <= error
    assert plan.speedup == max(speed for speed, lost in every_mix(plan) if lost <= error)


def every_mix(plan: ConversionPlan) -> list[tuple[float, float]]:
    """Speedup and error of each subset of the layers."""
    mixes = []
    for subset in product((False, True), repeat=len(plan.layers)):
        chosen = zip(plan.layers.items(), subset, strict=True)
        layers = {name: dataclasses.replace(layer, convert=taken) for (name, layer), taken in chosen}
        mix = dataclasses.replace(plan, layers=layers)
        mixes.append((mix.speedup, mix.error))
    return mixes


def test_the_curve_rises_from_nothing_to_everything() -> None:
    plan = sd_plan()
    curve = plan.curve()
    assert (curve[0].speedup, curve[0].error, curve[0].layers) == (1, 0, ())
    assert set(curve[-1].layers) == set(plan.layers)
    assert [point.speedup for point in curve] == sorted({point.speedup for point in curve})
    assert [point.error for point in curve] == sorted({point.error for point in curve})
    assert any(set(point.layers) == set(plan.kernel_sizes) for point in curve)


def test_goals_out_of_reach_say_what_is_in_reach() -> None:
    plan = sd_plan()
    best = plan.curve()[-1].speedup
    with pytest.raises(ValueError, match=r"goal_speedup: 99 cannot be reached at 64 x 64 pixels; .* 7 of 7") as error:
        plan.for_goal(Goal(speedup=99))
    told = float(str(error.value).rsplit(" ", 1)[1])
    assert best - 0.001 <= told <= best
    assert plan.for_goal(Goal(speedup=told)).speedup == best  # what it tells can be asked for
    with pytest.raises(
        ValueError, match=r"goal_error: 0.019 leaves no layer .* smallest expected error of one is 0.02"
    ):
        plan.for_goal(Goal(error=0.019))
    costly = {
        name: dataclasses.replace(layer, block=layer.attention, convert=False) for name, layer in plan.layers.items()
    }
    with pytest.raises(ValueError, match="goal_error: nothing can be gained at 64 x 64 pixels"):
        dataclasses.replace(plan, layers=costly).for_goal(Goal(error=0.5))


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        ({}, "goal: expected a speedup or an error"),
        ({"speedup": 2, "error": 0.1}, "goal: expected a speedup or an error"),
        ({"speedup": 1}, "goal_speedup: expected a number above 1, got 1"),
        ({"speedup": float("nan")}, "goal_speedup: expected a number above 1, got nan"),
        ({"error": 0}, "goal_error: expected a share above 0, got 0"),
    ],
)
def test_goals_that_are_none(goal: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Goal(**goal)


def test_the_file(tmp_path: Path) -> None:
    plan = sd_plan().for_goal(Goal(error=0.1))
    path = plan.save(tmp_path / "plan.json")
    assert ConversionPlan.load(path) == plan
    assert ConversionPlan.load(path).save(tmp_path / "again.json").read_bytes() == path.read_bytes()
    jsonschema.Draft202012Validator.check_schema(schema())


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda record: record.update(version=2), r"\$\.version"),
        (lambda record: record["layers"].clear(), r"\$\.layers"),
        (lambda record: next(iter(record["layers"].values())).update(loss=-1), "loss"),
        (lambda record: record.update(unit="hours"), r"\$\.unit"),
        (lambda record: record.pop("rest"), "'rest' is a required property"),
        (lambda record: record.update(goal={"speedup": None, "error": None}), "goal: expected a speedup or an error"),
    ],
    ids=["version", "empty", "loss", "unit", "missing", "goal"],
)
def test_files_that_are_none(change, where: str, tmp_path: Path) -> None:
    path = sd_plan().for_goal(Goal(error=0.1)).save(tmp_path / "plan.json")
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=where):
        ConversionPlan.load(path)
    path.write_text("no")
    with pytest.raises(ValueError, match=r"path: .*plan.json is no JSON file"):
        ConversionPlan.load(path)


@torch.no_grad()
def test_convert_replaces_the_planned_layers_and_detaches_bit_for_bit(
    denoiser: torch.nn.Module, tmp_path: Path
) -> None:
    plan = plan_of(denoiser, Goal(error=0.1))
    assert 0 < len(plan.kernel_sizes) <= len(plan.layers)
    before = predict(denoiser)
    fusion = DeltaConvFusion.convert(denoiser, plan=plan)
    assert {name: block.kernel_size for name, block in fusion.blocks.items()} == plan.kernel_sizes
    assert fusion.config.excluded == [name for name in plan.layers if name not in plan.kernel_sizes]
    assert "of a plan: " in fusion.report.kernel_sizes_from
    student = predict(denoiser)
    assert not torch.equal(student, before)
    with fusion.teacher():
        assert torch.equal(predict(denoiser), before)
    fusion.save_pretrained(tmp_path)
    fusion.detach()
    assert torch.equal(predict(denoiser), before)
    DeltaConvFusion.from_pretrained(tmp_path).attach(denoiser)
    assert torch.equal(predict(denoiser), student)


def test_a_plan_of_a_joint_attention() -> None:
    denoiser = make_tiny("sd3")
    plan = plan_of(denoiser, Goal(error=0.05))
    assert 0 < len(plan.kernel_sizes) < len(plan.layers)
    assert list(DeltaConvFusion.convert(denoiser, plan=plan).blocks) == list(plan.kernel_sizes)


def test_plans_for_something_else() -> None:
    plan = sd_plan()
    with pytest.raises(ValueError, match="plan: expected one for a PixArtTransformer2DModel, got one for a UNet2DCond"):
        DeltaConvFusion.convert(tiny_pixart_transformer(), plan=plan)
    renamed = {f"other.{name}": layer for name, layer in plan.layers.items()}
    with pytest.raises(ValueError, match=r"plan: expected exactly the layers .* unknown \['other\."):
        DeltaConvFusion.convert(tiny_sd_unet(), plan=dataclasses.replace(plan, layers=renamed))
    nothing = {name: dataclasses.replace(layer, convert=False) for name, layer in plan.layers.items()}
    with pytest.raises(ValueError, match="plan: expected one that converts a layer, got one that converts none"):
        DeltaConvFusion.convert(tiny_sd_unet(), plan=dataclasses.replace(plan, layers=nothing))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_size": 5}, "kernel_size: not with plan="),
        ({"only": ["mid_block.*"]}, "only: not with plan="),
        ({"exclude": ["mid_block.*"]}, "exclude: not with plan="),
        ({"factors": (1, 2, 4)}, r"factors: expected \(1, 2\), as the plan has them, got \(1, 2, 4\)"),
        ({"expansion": 1.0}, "expansion: expected 0.5, as the plan has it, got 1.0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_arguments_that_a_plan_decides(arguments: dict, message: str) -> None:
    denoiser = tiny_sd_unet()
    plan = sd_plan()
    with pytest.raises(ValueError, match=message):
        DeltaConvFusion.convert(denoiser, plan=plan, **arguments)
    assert DeltaConvFusion.attached_to(denoiser) is None


@torch.no_grad()
def test_a_part_of_a_fusion_computes_what_its_blocks_do() -> None:
    denoiser = tiny_sd_unet()
    fusion = DeltaConvFusion.convert(denoiser, kernel_size=3)
    names = list(fusion.blocks)
    fusion.detach()
    part = part_of(fusion, names[1:3]).attach(denoiser)
    assert list(part.blocks) == names[1:3]
    for name, block in part.blocks.items():
        assert block is not fusion.blocks[name]
        for mine, theirs in zip(block.parameters(), fusion.blocks[name].parameters(), strict=True):
            assert torch.equal(mine, theirs)
    with_part = predict(denoiser)
    part.detach()
    part_of(fusion, names).attach(denoiser)
    assert not torch.equal(predict(denoiser), with_part)
    for layers in ([], ["mid"]):
        with pytest.raises(ValueError, match="layers: expected some of"):
            part_of(fusion, layers)


def test_the_page_has_the_tools_table() -> None:
    """The row of Stable Diffusion 1.5 at 512 pixels, whose step no five layers make half as fast again."""
    page = (Path(__file__).parents[3] / "docs" / "planning.md").read_text(encoding="utf-8")
    *_, head, _, row = table("sd15", [512]).splitlines()
    assert f"{head}\n" in page
    assert f"{row}\n" in page
    assert row.endswith("| 4 of 8 | – | – | – |")
