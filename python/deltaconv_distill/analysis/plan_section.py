"""A conversion plan in the report: the goal, the curve of the best choices, and every layer's cost and loss."""

from __future__ import annotations

import html

from matplotlib.figure import Figure

from ..conversion.plan import ConversionPlan, Point
from .theme import Theme, plain, plot


def plan_section(plan: ConversionPlan) -> str:
    """HTML for the body of a page, as `report_fragment`."""
    curve = plan.curve()
    rows = "\n".join(_row(plan, name) for name in plan.layers)
    height, width = plan.pixels
    return (
        "<h2>Which layers to convert</h2>"
        f"<p>The goal is a step {html.escape(str(plan.goal))}, at {height}×{width} pixels. The plan converts "
        f"<b>{len(plan.kernel_sizes)} of {len(plan.layers)}</b> self-attentions: a whole step of the denoiser is "
        f"<b>{plan.speedup:.2f}×</b> as fast by {plan.measure}, and the expected error is "
        f"<b>{percent(plan.error)}</b> of what removing all self-attention would do.{_together(plan)} Blocks are "
        "fitted here, not trained: distillation takes most of the error away.</p>"
        f"{_picture(plan, curve)}"
        '<div class="scroll"><table class="layers"><thead><tr><th>layer</th><th>K</th><th>of a step</th>'
        "<th>a block saves</th><th>expected error</th><th>planned</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
        '<p class="note">Of a step: the self-attention’s share of what a step of the teacher costs. Expected error: '
        "squared change of the prediction with this layer alone in a fitted block, over that with all self-attention "
        "removed. The curve has every choice that no other choice beats in both; it ends where every layer that saves "
        "something is converted.</p>"
    )


def _together(plan: ConversionPlan) -> str:
    planned = plan.joint.get("planned")
    return "" if planned is None else f" Measured with all of them converted it is {percent(planned / plan.removed)}."


def _row(plan: ConversionPlan, name: str) -> str:
    layer = plan.layers[name]
    cells = [
        str(layer.kernel_size),
        percent(layer.attention / plan.cost),
        percent(layer.saving / plan.cost),
        percent(layer.loss / plan.removed),
        "<b>convert</b>" if layer.convert else "keep",
    ]
    code = f"<code>{html.escape(name).replace('.', '.<wbr>')}</code>"
    return f'<tr><th scope="row">{code}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def percent(share: float) -> str:
    """Two digits, three from 10 % on."""
    return f"{100 * share:.3g} %" if share >= 0.1 else f"{100 * share:.2g} %"


def _picture(plan: ConversionPlan, curve: list[Point]) -> str:
    def draw(figure: Figure, theme: Theme) -> None:
        axis = figure.subplots()
        speeds, errors = [point.speedup for point in curve], [100 * point.error for point in curve]
        axis.step(speeds, errors, where="pre", color=theme.first, linewidth=1.5)
        axis.plot(speeds, errors, linestyle="", color=theme.first, marker="o", markersize=3.5, label="best choices")
        alone = [
            (plan.cost / (plan.cost - layer.saving), 100 * layer.loss / plan.removed) for layer in plan.layers.values()
        ]
        axis.plot(*zip(*alone, strict=True), linestyle="", color=theme.text, marker="x", markersize=5, alpha=0.6,
                  label="one layer alone")  # fmt: skip
        axis.plot(plan.speedup, 100 * plan.error, linestyle="", color=theme.second, marker="D", markersize=8,
                  label=f"the plan: {len(plan.kernel_sizes)} layers, {plan.speedup:.2f}×")  # fmt: skip
        if plan.goal.speedup is not None:
            axis.axvline(plan.goal.speedup, color=theme.second, linewidth=1, linestyle="--", label="goal")
        else:
            axis.axhline(100 * (plan.goal.error or 0), color=theme.second, linewidth=1, linestyle="--", label="goal")
        axis.set_ylim(bottom=0)
        axis.set_xlabel("a whole step, times as fast", fontsize=9, color=theme.text)
        axis.set_title("expected error, % of the removed attention’s", fontsize=10, color=theme.text, loc="left")
        plain(axis, theme)
        axis.legend(fontsize=8, labelcolor=theme.text, frameon=False, loc="upper left")

    return plot(draw, (7.2, 3.4), "Expected error against speed, of every choice that no other beats")
