"""What share of a denoising step each level's self-attention is, and how few layers make it how fast: Markdown tables.

    python tools/distill/cost_shares.py [--models sd15 sdxl] [--sizes 512 1024 2048 4096]

FLOPs of published denoisers from their configurations, on the meta device: no weights, and so no losses. Which of two
layers that cost alike should be converted first is what a plan of `deltaconv analyze` measures; here they are alike.
"""

from __future__ import annotations

import argparse
from collections import Counter

from deltaconv_distill import DeltaConvFusion
from deltaconv_distill.analysis.plan_section import percent
from deltaconv_distill.conversion.costs import counted_costs
from deltaconv_distill.conversion.known_models import KNOWN_MODELS, VAE_SCALE, build_denoiser
from deltaconv_distill.planning import ConversionPlan, Goal, plan_of_costs

GOALS = (1.1, 1.5, 2.0, 4.0)


def table(model: str, sizes: list[int]) -> str:
    """A row for each size: the share of a step at each level, the step's ratio, and the fewest layers for each goal."""
    denoiser = build_denoiser(model)
    fusion = DeltaConvFusion.convert(denoiser)
    levels = {layer.name: VAE_SCALE * layer.stride for layer in fusion.report.layers}
    counts = Counter(levels.values())
    head = [
        "pixels",
        *(f"{pixels} pixels a token ({count} layer{'s' * (count > 1)})" for pixels, count in sorted(counts.items())),
    ]
    head += ["all in blocks", *(f"{goal:g}×" for goal in GOALS)]
    rows = [head, ["---:"] * len(head)]
    for size in sizes:
        latents = (size // VAE_SCALE, size // VAE_SCALE)
        costs = counted_costs(denoiser, *latents)
        plan = plan_of_costs(fusion, costs, Goal(speedup=GOALS[0]), latents, VAE_SCALE)
        shares = [
            percent(sum(cost.attention for name, cost in costs.layers.items() if levels[name] == level) / plan.cost)
            for level in sorted(counts)
        ]
        fastest = plan.curve()[-1].speedup
        rows.append([str(size), *shares, f"{fastest:.2f}×", *(fewest(plan, goal, levels) for goal in GOALS)])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([f"{KNOWN_MODELS[model].title}:", "", *lines])


def fewest(plan: ConversionPlan, goal: float, levels: dict[str, int]) -> str:
    """How many layers of which levels, by pixels a token."""
    try:
        chosen = plan.for_goal(Goal(speedup=goal)).kernel_sizes
    except ValueError:  # out of reach
        return "–"
    counts = Counter(levels[name] for name in chosen)
    return " + ".join(f"{count} of {level}" for level, count in sorted(counts.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=tuple(KNOWN_MODELS), default=["sd15", "sdxl"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[512, 1024, 2048, 4096], help="in pixels")
    options = parser.parse_args()
    print("\n\n".join(table(model, options.sizes) for model in options.models))


if __name__ == "__main__":
    main()
