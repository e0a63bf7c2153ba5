"""From a pipeline and a goal to a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timezone

from diffusers import DiffusionPipeline

from ..analysis.generate import Generation
from ..conversion import ConversionPlan, DeltaConvFusion, Goal
from ..conversion.costs import FLOPS, UNITS, StepCosts, counted_costs, timed_costs
from ..conversion.kernel_sizes import MeasuredProfile
from ..conversion.plan import PlannedLayer
from ..conversion.report import sample_size_of
from ..conversion.sites import denoiser_of
from ..machine import describe_machine
from .losses import LossMeasurement

LOSS = "relative squared change of the prediction with blocks that are fitted, not trained"


def plan_conversion(
    pipe: DiffusionPipeline,
    generation: Generation,
    goal: Goal,
    pixels: tuple[int, int] | None = None,
    kernel_size: int | str | Mapping[str, int] | MeasuredProfile = "auto",
    profile: MeasuredProfile | None = None,
    unit: str = FLOPS,
    factors: Sequence[int] = (1, 2),
    expansion: float = 0.5,
    gate: str | None = None,
    progress: bool = True,
) -> ConversionPlan:
    """Measure what converting each self-attention saves and loses, and choose the layers for a goal.

    The pipeline is left as it was. `ConversionPlan.for_goal` answers other goals from the same measurements.

    Args:
        pipe: as for `analyze`, without a fusion attached.
        generation: what is generated while losses are measured; twice, with two sets of seeds.
        goal: a speedup of the whole denoising step; or an error, which the planned layers keep to together.
        pixels: height and width that the speedup is about; the model's own unless given. Losses are measured at the
            size of `generation`.
        kernel_size, profile, factors, expansion, gate: of the blocks, as `DeltaConvFusion.convert` takes them.
        unit: of costs: "FLOPs", counted; or "ns", the time on this machine, for which steps run at `pixels`.
        progress: show a bar.

    Raises:
        ValueError: the goal cannot be reached, the message says what can; sizes that the model cannot have; another
            unit; otherwise as `convert`.
        TypeError, RuntimeError: as `convert`.
    """
    if unit not in UNITS:
        raise ValueError(f"unit: expected one of {UNITS}, got {unit!r}")
    if isinstance(kernel_size, MeasuredProfile):  # without its advice which layers to keep: that is the plan's
        profile = kernel_size
        kernel_size = dict(profile.kernel_sizes)
    denoiser = denoiser_of(pipe)
    scale = getattr(pipe, "vae_scale_factor", 1)  # some generate pixels
    latents = sample_size_of(denoiser) if pixels is None else _latents(pixels, scale)
    fusion = DeltaConvFusion.convert(pipe, kernel_size, profile, factors=factors, expansion=expansion, gate=gate)
    try:
        costs = (counted_costs if unit == FLOPS else timed_costs)(denoiser, *latents)
        plan = plan_of_costs(fusion, costs, goal, latents, scale)
        if goal.speedup is not None:
            plan.for_goal(goal)  # before anything that takes time
        measured = LossMeasurement(pipe, fusion, generation, progress)
        layers = {name: replace(layer, loss=measured.loss([name])) for name, layer in plan.layers.items()}
        plan = replace(
            plan,
            layers=layers,
            removed=measured.removed,
            joint={"all": measured.loss(list(layers))},
            settings={"loss": LOSS, "generation": asdict(generation)},
            machine={"date": datetime.now(timezone.utc).isoformat(timespec="seconds"), **describe_machine()},
        )
        plan = _chosen(plan, measured)
        measured.bar.close()
        return plan
    finally:
        attached = DeltaConvFusion.attached_to(pipe)
        if attached is not None:
            attached.detach()


def _chosen(plan: ConversionPlan, measured: LossMeasurement) -> ConversionPlan:
    """The plan for its goal, with the loss of its layers together.

    Losses add up approximately. Where those of an error goal's layers come to more together than the goal, the sum is
    allowed less by that ratio, until they do not: a layer alone always keeps to what it has lost alone.
    """
    least = min((layer.loss for layer in plan.layers.values() if layer.saving > 0), default=0.0) / plan.removed
    goal = plan.goal
    for _ in plan.layers:
        chosen = plan.for_goal(goal)
        together = measured.loss(list(chosen.kernel_sizes))
        if plan.goal.error is None or together <= plan.goal.error * plan.removed:
            break
        allowed = chosen.error * plan.goal.error * plan.removed / together
        goal = Goal(error=max(allowed, least * (1 + 1e-6)))
    return replace(chosen, goal=plan.goal, joint=plan.joint | {"planned": together})


def plan_of_costs(
    fusion: DeltaConvFusion, costs: StepCosts, goal: Goal, latents: tuple[int, int], scale: int
) -> ConversionPlan:
    """A plan that knows costs alone, as if all layers lost the same: for a speed it converts the fewest layers.

    It converts none before `for_goal` is asked.

    Args:
        fusion: with blocks for all layers.
        costs: for `latents`.
        goal: what the plan will be for.
        latents: height and width in latent pixels.
        scale: image pixels along each side of a latent one.
    """
    options = next(iter(fusion.config.layers.values()))
    layers = {
        name: PlannedLayer(fusion.blocks[name].kernel_size, cost.attention, cost.block, 1.0, False)
        for name, cost in costs.layers.items()
    }
    return ConversionPlan(
        model=fusion.config.denoiser,
        goal=goal,
        pixels=(latents[0] * scale, latents[1] * scale),
        latents=latents,
        unit=costs.unit,
        rest=costs.rest,
        factors=tuple(options["factors"]),
        expansion=options["expansion"],
        layers=layers,
        removed=float(len(layers)),
    )


def _latents(pixels: tuple[int, int], scale: int) -> tuple[int, int]:
    if any(side < scale or side % scale for side in pixels):
        raise ValueError(f"pixels: expected positive multiples of {scale}, the pixels of a latent one, got {pixels}")
    return pixels[0] // scale, pixels[1] // scale
