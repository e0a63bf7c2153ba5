"""The tables of docs/models.md about joint attention: FLOPs and memory of models at full size.

python tools/distill/joint_attention_table.py sd35-medium flux-dev
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from deltaconv_distill import DeltaConvFusion
from deltaconv_distill.conversion.known_models import KNOWN_MODELS, VAE_SCALE, build_denoiser
from deltaconv_distill.conversion.report import FusionReport, LayerReport, readable_flops
from deltaconv_distill.conversion.whole_model import step_flops
from deltaconv_distill.generation.memory import denoiser_memory
from deltaconv_distill.generation.plan import readable_bytes

SIZES = (512, 1024, 2048, 4096, 8192)
COLUMNS = (
    "pixels",
    "attention",
    "LinFusion",
    "CLEAR",
    "with ΔConvBlocks",
    "attention / Δ",
    "LinFusion / Δ",
    "CLEAR / Δ",
)
CLEAR_RADIUS = 16  # tokens, CLEAR's own choice for FLUX.1 (arXiv 2412.16112)


def clear_flops(layer: LayerReport, height: int, width: int) -> int:
    """CLEAR's attention in the layer's place: image queries see the keys within a radius, and all of the text."""
    rows, columns = layer.grid(height, width)
    tokens, text = rows * columns, layer.text.tokens if layer.text else 0
    reach = range(-CLEAR_RADIUS, CLEAR_RADIUS + 1)
    window = sum(y * y + x * x <= CLEAR_RADIUS**2 for y in reach for x in reach)
    attention = layer.flops(height, width)
    scores = tokens * (min(window, tokens) + text) + text * (tokens + text)
    return attention.attention - attention.attention_core + 2 * (2 * scores * layer.inner_dim)


def attention_row(report: FusionReport, pixels: int) -> list[str]:
    side = pixels // VAE_SCALE
    flops = report.flops(side, side)
    clear = sum(clear_flops(layer, side, side) for layer in report.layers)
    return [
        readable_flops(flops.attention),
        readable_flops(flops.linfusion),
        readable_flops(clear),
        readable_flops(flops.block),
        f"{flops.ratio('attention', 'block'):.2f}×",
        f"{flops.ratio('linfusion', 'block'):.2f}×",
        f"{clear / flops.block:.2f}×",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("models", nargs="+", choices=KNOWN_MODELS)
    for name in parser.parse_args(arguments).models:
        denoiser = build_denoiser(name, dtype=torch.bfloat16)
        report = DeltaConvFusion.convert(denoiser).report
        before, after = report.parameters_before, report.parameters_after
        print(f"\n{KNOWN_MODELS[name].title}: {before:,} parameters, {after:,} with ΔConvBlocks\n")
        print(f"| {' | '.join(COLUMNS)} |")
        print("| ---: " * 8 + "|")
        for pixels in SIZES:
            print(f"| {pixels} | {' | '.join(cell.strip() for cell in attention_row(report, pixels))} |")
        print("\n| pixels | whole step, attention | with ΔConvBlocks | ratio | memory beside the weights |")
        print("| ---: " * 5 + "|")
        for pixels in SIZES:
            side = pixels // VAE_SCALE
            if side // 2 > denoiser.config.get("pos_embed_max_size", side):
                continue  # more than the model's table of positions has
            step = step_flops(denoiser, side, side)
            memory = readable_bytes(denoiser_memory(denoiser, side, side))
            cells = (readable_flops(step.attention), readable_flops(step.block), f"{step.ratio:.2f}×", memory)
            print(f"| {pixels} | {' | '.join(cell.strip() for cell in cells)} |", flush=True)


if __name__ == "__main__":
    main()
