"""Draws docs/images/flops.png: FLOPs of all self-attention layers and of what can stand in their places."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from deltaconv_distill import DeltaConvFusion
from deltaconv_distill.conversion.known_models import KNOWN_MODELS, VAE_SCALE, build_denoiser

MODELS = ("sd15", "sdxl", "pixart-sigma")
SIZES = (512, 1024, 2048, 4096, 8192, 16384)
CURVES = {
    "attention": ("self-attention", "tab:red"),
    "linfusion": ("LinFusion", "tab:orange"),
    "block": ("ΔConvBlocks", "tab:blue"),
}
TARGET = Path(__file__).parents[2] / "docs" / "images" / "flops.png"


def main() -> None:
    figure, panels = plt.subplots(1, len(MODELS), figsize=(12, 4.2), sharey=True, layout="constrained")
    for panel, name in zip(panels, MODELS, strict=True):
        report = DeltaConvFusion.convert(build_denoiser(name)).report
        totals = [report.flops(size // VAE_SCALE, size // VAE_SCALE) for size in SIZES]
        for field, (label, color) in CURVES.items():
            panel.plot(SIZES, [getattr(flops, field) / 1e12 for flops in totals], "o-", label=label, color=color)
        for size, flops in ((SIZES[1], totals[1]), (SIZES[-1], totals[-1])):
            ratio = flops.ratio("attention", "block")
            panel.annotate(
                "", (size, flops.block / 1e12), (size, flops.attention / 1e12), arrowprops={"arrowstyle": "->"}
            )
            first = size == SIZES[1]
            partner = flops.linfusion if first else flops.attention
            height = (partner * flops.block) ** 0.5 / 1e12  # where no curve passes
            beside, align = (size * 1.08, "left") if first else (size / 1.08, "right")
            panel.text(beside, height, f"{ratio:,.0f}×", ha=align, va="center")
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xticks(SIZES, [f"{size}²" for size in SIZES], rotation=45)
        panel.set_title(KNOWN_MODELS[name].title)
        panel.set_xlabel("image, pixels")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("TFLOP of all these layers, one sample")
    panels[0].legend(loc="upper left")
    TARGET.parent.mkdir(exist_ok=True)
    figure.savefig(TARGET, dpi=110)


if __name__ == "__main__":
    main()
