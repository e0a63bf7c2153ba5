"""`deltaconv flops`: self-attention against ΔConvBlocks at rising image sizes, from a model's configuration alone."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import UserError
from .pipelines import DTYPES

if TYPE_CHECKING:
    from diffusers import ModelMixin

    from ..conversion import FusionReport
    from ..conversion.flops import Flops
    from ..conversion.whole_model import StepFlops

DEFAULT_SIZES = "512,1024,2048,4096,8192,16384"
PAPERS_MODEL = "sd15"  # the one whose ratio the paper's abstract gives


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        default=PAPERS_MODEL,
        help="sd15, sd21, sdxl, pixart-sigma, sd35-medium, flux-dev, 'embedded', 'embedded-mmdit', or the folder of a "
        "diffusers pipeline",
    )
    parser.add_argument("--sizes", default=DEFAULT_SIZES, help="image sizes in pixels, separated by commas")
    parser.add_argument("--kernel_size", default="auto", help="'auto' (the model's preset) or one odd number")
    parser.add_argument(
        "--memory",
        choices=DTYPES,
        help="estimate what a converted step in this type needs beside the weights",
    )
    parser.add_argument("--per_layer", action="store_true", help="show every layer at every size")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> None:
    from ..conversion import DeltaConvFusion
    from ..generation.plan import readable_bytes

    denoiser, scale = _describe(options.model)
    sizes = _parse_sizes(options.sizes, scale)
    size = _parse_kernel_size(options.kernel_size)
    try:
        report = DeltaConvFusion.convert(denoiser, kernel_size=size).report
    except ValueError as error:
        raise UserError(f"--kernel_size {options.kernel_size}: {error}") from error
    totals = {pixels: report.flops(pixels // scale, pixels // scale) for pixels in sizes}
    steps = _steps(denoiser, sizes, scale)
    memory = _memory(denoiser, options.memory, sizes, scale) if options.memory else {}
    if options.json:
        answer = _as_json(options.model, report, totals, scale) | {"step": _as_dicts(steps)}
        print(json.dumps(answer | ({"memory_bytes": memory} if memory else {}), indent=2))
        return
    print(
        f"{options.model}: {len(report.layers)} self-attentions, kernel sizes {report.kernel_sizes_from}; one sample\n"
    )
    if options.per_layer:
        for pixels in sizes:
            print(f"{pixels} x {pixels} pixels\n{report.table(pixels // scale, pixels // scale)}\n")
    print(format_totals(totals))
    print(f"\na whole denoising step, of which these are a part\n\n{format_steps(steps)}")
    if memory:
        print(f"\none denoising step with ΔConvBlocks, {options.memory}, beside the weights (estimated):")
        print("\n".join(f"{pixels:>6}  {readable_bytes(count):>9}" for pixels, count in memory.items()))
    if options.model == PAPERS_MODEL:
        print(f"\n{compare_with_paper(totals)}")


def format_totals(totals: dict[int, Flops]) -> str:
    """All layers together, a line for each size in pixels."""
    from ..conversion.report import readable_flops

    columns = (
        "self-attention",
        "LinFusion",
        "ΔConvBlocks",
        "attention / Δ",
        "LinFusion / Δ",
        "attention / convolutions",
    )
    widths = (14, 14, 14, 13, 13, 24)
    lines = [f"{'pixels':>6}  " + "  ".join(f"{name:>{width}}" for name, width in zip(columns, widths, strict=True))]
    for pixels, flops in totals.items():
        cells = [
            *(readable_flops(count) for count in (flops.attention, flops.linfusion, flops.block)),
            f"{flops.ratio('attention', 'block'):.2f}x",
            f"{flops.ratio('linfusion', 'block'):.2f}x",
            f"{flops.ratio('attention', 'pyramid'):.1f}x",
        ]
        lines.append(f"{pixels:>6}  " + "  ".join(f"{cell:>{w}}" for cell, w in zip(cells, widths, strict=True)))
    return "\n".join(lines)


def format_steps(steps: dict[int, StepFlops]) -> str:
    """The whole denoiser, a line for each size in pixels."""
    from ..conversion.report import readable_flops

    lines = [f"{'pixels':>6}  {'self-attention':>14}  {'ΔConvBlocks':>14}  {'ratio':>7}"]
    for pixels, step in steps.items():
        cells = (readable_flops(step.attention), readable_flops(step.block), f"{step.ratio:.2f}x")
        lines.append(f"{pixels:>6}  {cells[0]:>14}  {cells[1]:>14}  {cells[2]:>7}")
    return "\n".join(lines)


def compare_with_paper(totals: dict[int, Flops]) -> str:
    """Which way of counting comes nearest to the ratios in the paper's abstract."""
    from ..conversion.flops import PAPER_RATIO, PAPER_RATIO_TO_LINFUSION, closest_definition

    closest = closest_definition(totals)
    largest = totals[max(totals)]
    plain, full = (largest.ratio(kind, "block") for kind in ("linfusion_plain", "linfusion"))
    return (
        f"The paper's {PAPER_RATIO}x: nearest is {closest.definition},\n"
        f"at {closest.size} pixels: {closest.ratio:.1f}x, off by {closest.relative_error:.2%}. "
        f"Whole against whole it is {totals[closest.size].ratio('attention', 'block'):.0f}x there.\n"
        f"The paper's {PAPER_RATIO_TO_LINFUSION}x over LinFusion: {full:.2f}x with LinFusion's default projections, "
        f"{plain:.2f}x without its non-linear ones."
    )


def _steps(denoiser: ModelMixin, sizes: list[int], scale: int) -> dict[int, StepFlops]:
    from ..conversion.whole_model import step_flops

    try:
        return {pixels: step_flops(denoiser, pixels // scale, pixels // scale) for pixels in sizes}
    except ValueError as error:  # such as an image with too few tokens for the blocks
        raise UserError(f"--sizes: {error}") from error


def _as_dicts(steps: dict[int, StepFlops]) -> dict[int, dict[str, float]]:
    return {pixels: asdict(step) | {"ratio": step.ratio} for pixels, step in steps.items()}


def _memory(denoiser: ModelMixin, dtype: str, sizes: list[int], scale: int) -> dict[int, int]:
    import torch

    from ..generation import denoiser_memory

    torch.nn.Module.to(denoiser, getattr(torch, dtype))  # not diffusers' own, which warns where nothing is the matter
    return {pixels: denoiser_memory(denoiser, pixels // scale, pixels // scale) for pixels in sizes}


def _as_json(model: str, report: FusionReport, totals: dict[int, Flops], scale: int) -> dict:
    layers = [
        {
            "name": layer.name,
            "flops": {pixels: asdict(layer.flops(pixels // scale, pixels // scale)) for pixels in totals},
        }
        for layer in report.layers
    ]
    answer = {
        "model": model,
        "kernel_sizes_from": report.kernel_sizes_from,
        "parameters_before": report.parameters_before,
        "parameters_after": report.parameters_after,
        "totals": {pixels: asdict(flops) for pixels, flops in totals.items()},
        "layers": layers,
    }
    if model == PAPERS_MODEL:
        from ..conversion.flops import closest_definition

        answer["closest_to_paper"] = asdict(closest_definition(totals))
    return answer


def _describe(model: str) -> tuple[ModelMixin, int]:
    """The denoiser, without weights, and how many image pixels a side of its latent ones has."""
    from ..conversion.known_models import KNOWN_MODELS, VAE_SCALE, build_denoiser
    from .pipelines import EMBEDDED, EMBEDDED_MODELS

    if model in KNOWN_MODELS:
        return build_denoiser(model), VAE_SCALE
    if model in EMBEDDED_MODELS:
        from ..embedded import joint_teacher_path, teacher_path

        return _from_folder(teacher_path() if model == EMBEDDED else joint_teacher_path())
    if not Path(model).is_dir():
        raise UserError(
            f"--model: expected {', '.join(KNOWN_MODELS)}, {EMBEDDED!r} or a diffusers pipeline's folder, got {model!r}"
        )
    return _from_folder(Path(model))


def _from_folder(folder: Path) -> tuple[ModelMixin, int]:
    import torch
    from diffusers import AutoencoderKL

    from ..conversion.families import FAMILIES, WHERE

    kinds = {kind.__name__: kind for kind in FAMILIES}
    for part in ("unet", "transformer"):
        config = folder / part / "config.json"
        kind = kinds.get(json.loads(config.read_text()).get("_class_name")) if config.is_file() else None
        if kind is not None:
            with torch.device("meta"):
                denoiser = kind.from_config(kind.load_config(config.parent))
            autoencoder = folder / ("movq" if (folder / "movq").is_dir() else "vae")  # of Kandinsky's pipelines, others
            levels = AutoencoderKL.load_config(autoencoder)["block_out_channels"]
            return denoiser, 2 ** (len(levels) - 1)
    raise UserError(f"--model: expected a denoiser that can be converted in {folder}/unet or transformer; see {WHERE}")


def _parse_kernel_size(text: str) -> int | str:
    try:
        return text if text == "auto" else int(text)
    except ValueError as error:
        raise UserError(f"--kernel_size: expected 'auto' or an odd number, got {text!r}") from error


def _parse_sizes(text: str, scale: int) -> list[int]:
    try:
        sizes = [int(size) for size in text.split(",")]
    except ValueError as error:
        raise UserError(f"--sizes: expected whole numbers separated by commas, got {text!r}") from error
    if any(size < scale or size % scale for size in sizes):
        raise UserError(f"--sizes: expected positive multiples of {scale}, the pixels of a latent one, got {text!r}")
    return sizes
