"""A plan as text, for a terminal."""

from __future__ import annotations

from ..analysis.plan_section import percent
from ..conversion import ConversionPlan


def plan_table(plan: ConversionPlan) -> str:
    """Every layer with its share of a step, what a block takes off it, and its expected error; and the choice."""
    width = max(map(len, plan.layers))
    lines = [f"{'layer':<{width}}  {'K':>3} {'of a step':>10} {'saved':>7} {'error':>8}"]
    for name, layer in plan.layers.items():
        cells = (
            f"{percent(layer.attention / plan.cost):>10} {percent(layer.saving / plan.cost):>7} "
            f"{percent(layer.loss / plan.removed):>8}"
        )
        lines.append(f"{name:<{width}}  {layer.kernel_size:>3} {cells}{'  convert' if layer.convert else ''}")
    lines.append(f"{plan}{_together(plan)}")
    return "\n".join(lines)


def _together(plan: ConversionPlan) -> str:
    planned = plan.joint.get("planned")
    return "" if planned is None else f", {percent(planned / plan.removed)} measured together"
