"""`deltaconv analyze`: what each self-attention of a pipeline looks at, and the kernel sizes that follow."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UserError
from .pipelines import EMBEDDED, EMBEDDED_MODELS, add_model_flags, load_pipeline
from .places import add_device_flag, chosen_device, require_folder

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from ..analysis import Generation, Profile
    from ..conversion import ConversionPlan, Goal

PROFILE_FILE, REPORT_FILE, PLAN_FILE = "profile.json", "report.html", "plan.json"
PROMPTS = ("a red fox in the snow, photograph", "a busy street at night in the rain")
COSTS = {"flops": "FLOPs", "time": "ns"}  # by the units of a plan
EMBEDDED_PROMPTS = ("animal face", "fruit")


def configure(parser: argparse.ArgumentParser) -> None:
    from ..analysis import Generation, Rule, Sampling

    timesteps = ",".join(f"{timestep:g}" for timestep in Generation.timesteps)
    parser.add_argument(
        "--model",
        default=EMBEDDED,
        help="a diffusers pipeline directory or id, a checkpoint file, 'embedded' or 'embedded-mmdit'",
    )
    add_model_flags(parser)
    parser.add_argument("--prompt", action="append", help="what to generate meanwhile; may be given several times")
    parser.add_argument("--seeds", default="0", help="of the noise, separated by commas; each prompt gets each")
    parser.add_argument("--timesteps", default=timesteps, help="where to look, 1000 is noise, 0 the image")
    parser.add_argument(
        "--num_inference_steps", type=int, default=Generation.num_inference_steps, help="denoising steps of each image"
    )
    parser.add_argument(
        "--guidance_scale", type=float, help="classifier-free guidance; the pipeline's own if not given"
    )
    parser.add_argument("--height", type=int, help="in pixels; the model's own size where not given")
    parser.add_argument("--width", type=int, help="in pixels; the model's own size where not given")
    parser.add_argument(
        "--max_queries", type=int, default=Sampling.max_queries, help="of each image, layer and step; 0 for all of them"
    )
    parser.add_argument(
        "--share", type=float, default=Rule.share, help="of the local part that a K x K window is to hold"
    )
    parser.add_argument("--max_kernel_size", type=int, default=Rule.max_kernel_size, help="the largest K to propose")
    parser.add_argument("--ablate", action="store_true", help="also replace attention by windows, and see what changes")
    _add_plan_flags(parser)
    add_device_flag(parser)
    parser.add_argument(
        "--output", type=Path, default=Path("analysis"), help=f"folder for {PROFILE_FILE}, {REPORT_FILE}, {PLAN_FILE}"
    )


def _add_plan_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("plan", f"choose which layers to convert; writes {PLAN_FILE}")
    goals = group.add_mutually_exclusive_group()
    goals.add_argument(
        "--goal_speedup", type=float, help="the least loss with which a whole step is so many times as fast"
    )
    goals.add_argument(
        "--goal_error",
        type=share,
        help="the fastest step with at most this share of the removed attention's error, such as 5%% or 0.05",
    )
    group.add_argument("--goal_size", type=int, help="pixels a side that a step is to be fast at; the model's own size")
    group.add_argument("--goal_cost", choices=tuple(COSTS), help="count FLOPs (the default), or time this machine")


def run(options: argparse.Namespace) -> None:
    from ..analysis import Generation, Rule, Sampling, ablate_windows, analyze, write_report

    goal = _goal(options)
    if (options.height is None) != (options.width is None):
        raise UserError("--height, --width: expected both or neither")
    prompts = options.prompt or (EMBEDDED_PROMPTS if options.model in EMBEDDED_MODELS else PROMPTS)
    given = {name: getattr(options, name) for name in ("guidance_scale", "height", "width")}
    try:
        generation = Generation(
            prompts,
            seeds=_numbers(options.seeds, "--seeds", int),
            timesteps=_numbers(options.timesteps, "--timesteps", float),
            num_inference_steps=options.num_inference_steps,
            options={name: value for name, value in given.items() if value is not None},
        )
        sampling = Sampling(max_queries=options.max_queries or None)
        rule = Rule(share=options.share, max_kernel_size=options.max_kernel_size)
    except ValueError as error:
        raise UserError(f"--{error}") from error
    require_folder("--output", options.output)
    device = chosen_device(options)
    pipe = load_pipeline(options.model, "--model", options).to(device)
    try:
        profile = analyze(pipe, generation, sampling, rule)
        if options.ablate:
            profile.ablation = ablate_windows(pipe, generation, profile.kernel_sizes)
    except (TypeError, ValueError) as error:  # the pipeline checks sizes and prompts itself
        raise UserError(str(error)) from error
    print(summarise(profile))  # first: it is there also where the disk is full
    profile.save(options.output / PROFILE_FILE)
    print(f"\nprofile: {options.output / PROFILE_FILE}")
    plan = None
    try:
        if goal is not None:
            plan = _plan(pipe, generation, goal, profile, options)
            plan.save(options.output / PLAN_FILE)
            print(f"plan: {options.output / PLAN_FILE}")
    except UserError:  # a goal out of reach takes nothing from the analysis
        write_report(profile, options.output / REPORT_FILE)
        raise
    write_report(profile, options.output / REPORT_FILE, plan)
    print(f"report: {options.output / REPORT_FILE}")


def _goal(options: argparse.Namespace) -> Goal | None:
    from ..conversion import Goal

    if options.goal_speedup is None and options.goal_error is None:
        for flag in ("goal_size", "goal_cost"):
            if getattr(options, flag) is not None:
                raise UserError(f"--{flag}: expected --goal_speedup or --goal_error beside it")
        return None
    try:
        return Goal(options.goal_speedup, options.goal_error)
    except ValueError as error:
        raise UserError(f"--{error}") from error


def _plan(
    pipe: DiffusionPipeline, generation: Generation, goal: Goal, profile: Profile, options: argparse.Namespace
) -> ConversionPlan:
    from ..planning import plan_conversion, plan_table

    pixels = None if options.goal_size is None else (options.goal_size, options.goal_size)
    try:
        plan = plan_conversion(pipe, generation, goal, pixels, profile, unit=COSTS[options.goal_cost or "flops"])
    except ValueError as error:
        text = str(error)
        if text.startswith(("pixels: ", "hidden_states: ")):  # of the size that costs are for
            text = f"--goal_size: {text.partition(': ')[2]}"
        raise UserError(text) from error
    print(f"\n{plan_table(plan)}\n")
    return plan


def summarise(profile: Profile) -> str:
    """The table of layers, for a terminal."""
    width = max(map(len, profile.layers))
    lines = [f"\n{'layer':<{width}}  {'tokens':>8} {'K':>3} {'half width':>11} {'R²':>6} {'explained':>10}"]
    for name, layer in profile.layers.items():
        height, columns = layer.grid
        lines.append(
            f"{name:<{width}}  {f'{height}x{columns}':>8} {layer.kernel_size:>3} {layer.fit.half_width:>11.1f} "
            f"{layer.fit.r2:>6.2f} {100 * layer.explained:>8.0f} %{'  not local' if layer.not_local else ''}"
        )
    if profile.ablation is not None:
        ablation = profile.ablation
        changes = {"windows": ablation.prediction, "the mean alone": ablation.mean, "nothing": ablation.removed}
        lines.append("change of the prediction with " + ", ".join(f"{k}: {100 * v:.2g} %" for k, v in changes.items()))
    return "\n".join(lines)


def share(text: str) -> float:
    """A share as a number or, with a percent sign, in hundredths."""
    return float(text[:-1]) / 100 if text.endswith("%") else float(text)


def _numbers(text: str, flag: str, kind: type) -> list[Any]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError as error:
        raise UserError(f"{flag}: expected numbers separated by commas, got {text!r}") from error
