"""Counting: the known models, the formulas against torch's own counter, the paper's ratio, `deltaconv flops`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from deltaconv_distill import DeltaConvFusion
from deltaconv_distill.cli import main
from deltaconv_distill.conversion.flops import DEFINITIONS, PAPER_RATIO, Flops, closest_definition, layer_flops
from deltaconv_distill.conversion.known_models import KNOWN_MODELS, build_denoiser
from deltaconv_distill.conversion.model_inputs import random_inputs
from deltaconv_distill.conversion.whole_model import StepFlops, step_flops
from diffusers.models.attention_processor import AttnProcessor
from tiny_pipelines import tiny_pixart, tiny_pixart_transformer, tiny_sd, tiny_sd_unet
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import deltaconv_kernels as dk
from deltaconv_kernels.flops import pyramid_flops

SIZES = (512, 1024, 2048, 4096, 8192, 16384)


@pytest.mark.parametrize("name", KNOWN_MODELS)
def test_parameters_of_published_models(name: str) -> None:
    """As published; and the blocks' own, from the paper's layout of them."""
    denoiser = build_denoiser(name)
    assert sum(parameter.numel() for parameter in denoiser.parameters()) == KNOWN_MODELS[name].parameters
    report = DeltaConvFusion.convert(denoiser).report
    for layer in report.layers:
        d, k = layer.dim, layer.kernel_size
        shares = 0 if layer.text is None else layer.heads
        # conv_up, two stages of K x K filters with biases, conv_out, conv_pool
        published = (d + 1) * d // 2 + 2 * (k * k + 1) * d // 2 + (d // 2 + 1) * d + (d + 1) * d
        assert layer.block_parameters == published + shares
    added = sum(layer.block_parameters - layer.attention_parameters for layer in report.layers)
    assert report.parameters_before == KNOWN_MODELS[name].parameters
    assert report.parameters_after == KNOWN_MODELS[name].parameters + added


def test_unknown_model() -> None:
    with pytest.raises(ValueError, match=r"name: expected one of sd15, .* got 'sd3'"):
        build_denoiser("sd3")


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "height", "width"),
    [("sd15", 64, 64), ("sd15", 2048, 1160), ("pixart-sigma", 36, 90)],
    ids=["sd15-512", "sd15-16384x9280", "pixart-288x720"],
)
def test_counts_agree_with_torch_on_whole_models(name: str, height: int, width: int) -> None:
    """Teacher minus student is self-attentions minus blocks, exactly: nothing else differs."""
    denoiser = build_denoiser(name)
    fusion = DeltaConvFusion.convert(denoiser)
    inputs = random_inputs(denoiser, height, width)
    with FlopCounterMode(display=False) as student:
        denoiser(**inputs)
    with FlopCounterMode(display=False) as teacher, fusion.teacher():
        denoiser(**inputs)
    flops = fusion.report.flops(height, width)
    assert teacher.get_total_flops() - student.get_total_flops() == flops.attention - flops.block
    assert student.get_flop_counts()["Global"][torch.ops.deltaconv.pyramid] == flops.pyramid


@pytest.mark.parametrize("mask", [(True, True, True), (True, False, False), (False, True, False)])
def test_operator_counts_as_its_convolutions(mask: tuple[bool, bool, bool]) -> None:
    """Forward as conv2d counts; backward as conv2d's plus the forward that it repeats."""
    x, weight, bias = torch.randn(2, 9, 14, 8), torch.randn(2, 5, 5, 8), torch.randn(2, 8)
    for tensor, wanted in zip((x, weight, bias), mask, strict=True):
        tensor.requires_grad_(wanted)
    with FlopCounterMode(display=False) as forward:
        y = dk.pyramid(x, weight, bias, (1, 3))
    with FlopCounterMode(display=False) as backward:
        y.sum().backward()

    with FlopCounterMode(display=False) as convolutions:
        for grid, filters in zip(((9, 14), (3, 4)), weight.detach(), strict=True):
            F.conv2d(torch.randn(2, 8, *grid), filters.permute(2, 0, 1).unsqueeze(1), padding=2, groups=8)
    assert forward.get_total_flops() == convolutions.get_total_flops() == pyramid_flops((2, 9, 14, 8), 5, (1, 3))
    assert backward.get_total_flops() == (1 + mask[0] + mask[1]) * forward.get_total_flops()


class LinearAttention(nn.Module):
    """LinFusion's layer, from its paper: linear attention with elu + 1 features and a two-layer map of q and k."""

    def __init__(self, dim: int, heads: int, non_linear: bool) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim) for _ in range(4))
        hidden = [nn.Sequential(nn.Linear(dim, dim), nn.LayerNorm(dim), nn.LeakyReLU(), nn.Linear(dim, dim))] * 2
        self.map_q, self.map_k = hidden if non_linear else (nn.Identity(), nn.Identity())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        projected = self.q(x + self.map_q(x)), self.k(x + self.map_k(x)), self.v(x)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in projected)
        q, k = F.elu(q) + 1, F.elu(k) + 1
        normaliser = q @ k.mean(dim=-2, keepdim=True).mT
        return self.out((q @ (k.mT @ v) / normaliser).transpose(1, 2).flatten(2))


@torch.no_grad()
@pytest.mark.parametrize("non_linear", [True, False])
def test_linfusion_agrees_with_torch(non_linear: bool) -> None:
    layer = LinearAttention(24, 3, non_linear)
    with FlopCounterMode(display=False) as counter:
        layer(torch.randn(1, 7 * 10, 24))
    flops = layer_flops(7, 10, dim=24, inner_dim=24, heads=3, inter=12, kernel_size=3, factors=(1, 2))
    assert counter.get_total_flops() == (flops.linfusion if non_linear else flops.linfusion_plain)


def test_sums() -> None:
    one = Flops(*range(1, 7))
    assert Flops.total([one, one]) == Flops(2, 4, 6, 8, 10, 12)
    assert Flops.total([]).attention == 0
    assert one.ratio("block", "attention") == 5


def test_way_of_counting_nearest_to_the_paper() -> None:
    report = DeltaConvFusion.convert(build_denoiser("sd15")).report
    totals = {pixels: report.flops(pixels // 8, pixels // 8) for pixels in SIZES}
    closest = closest_definition(totals)
    assert (closest.definition, closest.size) == (
        "self-attention with its projections over the convolutions alone",
        4096,
    )
    assert closest.relative_error < 0.001
    others = [totals[size].ratio(*fields) for size in SIZES for fields in DEFINITIONS.values()]
    assert min(abs(ratio / PAPER_RATIO - 1) for ratio in others if ratio != closest.ratio) > closest.relative_error


def test_command_prints_totals(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["flops", "--sizes", "512,4096", "--per_layer"]) == 0
    output = capsys.readouterr().out
    assert "16 self-attentions, kernel sizes preset SD1.5" in output
    assert output.count("mid_block.attentions.0.transformer_blocks.0.attn1") == 2
    line = next(line for line in output.splitlines() if line.startswith("  4096  "))
    assert line.split()[1:] == ["505", "TFLOP", "6.756", "TFLOP", "891.7", "GFLOP", "566.37x", "7.58x", "6926.6x"]
    assert "at 4096 pixels: 6926.6x, off by 0.03%" in output


@torch.no_grad()
@pytest.mark.parametrize("make", [tiny_sd_unet, tiny_pixart_transformer])
def test_whole_steps_agree_with_torch(make: Callable) -> None:
    """As on a CPU without SDPA, whose kernel there torch does not count; the model itself is left alone."""
    denoiser = make()
    denoiser.set_attn_processor(AttnProcessor())
    fusion = DeltaConvFusion.convert(denoiser, kernel_size=3)
    step = step_flops(denoiser, 12, 8)
    inputs = random_inputs(denoiser, 12, 8)
    with FlopCounterMode(display=False) as student:
        denoiser(**inputs)
    with FlopCounterMode(display=False) as teacher, fusion.teacher():
        denoiser(**inputs)
    assert step == StepFlops(attention=teacher.get_total_flops(), block=student.get_total_flops())
    assert step.ratio == teacher.get_total_flops() / student.get_total_flops()
    fusion.detach()
    with pytest.raises(RuntimeError, match="denoiser: expected a converted"):
        step_flops(denoiser, 12, 8)


def test_command_prints_whole_steps(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["flops", "--sizes", "512,4096"]) == 0
    whole = capsys.readouterr().out.partition("a whole denoising step")[2]
    lines = [line.split() for line in whole.splitlines() if line.startswith(("   512", "  4096"))]
    assert [line[-1] for line in lines] == ["1.25x", "13.30x"]
    assert lines[0][1:5] == ["803.3", "GFLOP", "643.6", "GFLOP"]
    assert main(["flops", "--sizes", "512", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"]["512"]["ratio"] == pytest.approx(1.248, abs=1e-3)
    assert main(["flops", "--sizes", "64"]) == 2
    assert "--sizes: hidden_states: 1 x 1 tokens are too few for ΔConvBlocks" in capsys.readouterr().err


def test_command_in_json_for_a_pipeline_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_sd().save_pretrained(tmp_path / "sd")
    capsys.readouterr()
    assert main(["flops", "--model", str(tmp_path / "sd"), "--sizes", "64,96", "--kernel_size", "5", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    report = DeltaConvFusion.convert(tiny_sd(), kernel_size=5).report
    assert answer["totals"]["64"] == vars(report.flops(32, 32))  # the tiny VAE halves
    assert answer["kernel_sizes_from"] == "given"
    assert {layer["name"] for layer in answer["layers"]} == {layer.name for layer in report.layers}
    for size in ("64", "96"):
        for field, total in answer["totals"][size].items():
            assert total == sum(layer["flops"][size][field] for layer in answer["layers"])


def test_command_for_a_transformer_and_the_embedded_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_pixart().transformer.save_pretrained(tmp_path / "transformer")
    tiny_pixart().vae.save_pretrained(tmp_path / "vae")
    assert main(["flops", "--model", str(tmp_path), "--sizes", "64", "--kernel_size", "3"]) == 0
    assert "2 self-attentions" in capsys.readouterr().out
    assert main(["flops", "--model", "embedded", "--sizes", "32"]) == 0
    assert "kernel sizes preset emoji" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "sd3"], "--model: expected sd15, .* got 'sd3'"),
        (["--model", "{tmp}"], "--model: expected a denoiser that can be converted in"),
        (["--sizes", "512,big"], "--sizes: expected whole numbers"),
        (["--sizes", "100"], "--sizes: expected positive multiples of 8, .* got '100'"),
        (["--sizes", "0"], "--sizes: expected positive multiples of 8"),
        (["--kernel_size", "4"], "--kernel_size 4: .*odd integers"),
        (["--kernel_size", "many"], "--kernel_size: expected 'auto' or an odd number, got 'many'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_command_explains_mistakes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["flops", *(argument.replace("{tmp}", str(tmp_path)) for argument in arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("deltaconv flops: ")
    assert re.search(message, error), error
