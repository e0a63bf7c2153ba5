"""The authors' checkpoints: their layout, its variants, what is wrong with a file, and the published arithmetic."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from deltaconv_distill import DeltaConvFusion
from safetensors.torch import save_file
from tiny_pipelines import predict, tiny_pixart_transformer, tiny_sd, tiny_sd_unet, tiny_sdxl_unet
from torch import Tensor

from deltaconv_kernels import use_backend

MID = "mid_block.attentions.0.transformer_blocks.0."
CHANNELS = {"down_blocks.0": 16, "down_blocks.1": 32, "mid_block": 32, "up_blocks.0": 32, "up_blocks.1": 16}

Weights = dict[str, Tensor]


def published_block(x: Tensor, weights: Weights, prefix: str, gate: str) -> Tensor:
    """The published block on [B, C, H, W], transcribed from its description with PyTorch's own layers; two stages.

    Pointwise up-projection to D channels; per stage: average pooling to half size (second stage), depthwise
    convolution, split of the channels in two, gate (first half times the second divided by (D/2)^-0.5, or times its
    sigmoid), bilinear interpolation back; concatenation; pointwise out-projection; plus a pointwise layer on the mean.
    """

    def pointwise(layer: str, value: Tensor) -> Tensor:
        weight, bias = weights[f"{prefix}{layer}.weight"], weights.get(f"{prefix}{layer}.bias")
        return F.conv2d(value, weight.reshape(*weight.shape[:2], 1, 1), bias)

    up = pointwise("conv_up", x)
    stages = []
    for stage, factor in enumerate((1, 2)):
        height, width = up.shape[-2:]
        filters = weights[f"{prefix}gates.{stage}.conv_spatial.weight"]  # [K, K, D]
        small = F.adaptive_avg_pool2d(up, (int(height / factor), int(width / factor)))
        convolved = torch.nn.Conv2d(up.shape[1], up.shape[1], len(filters), padding="same", groups=up.shape[1])
        bias = weights.get(f"{prefix}gates.{stage}.conv_spatial.bias", torch.zeros(up.shape[1]))
        convolved.weight.data, convolved.bias.data = torch.einsum("ijd->dij", filters)[:, None], bias
        first, second = convolved(small).chunk(2, dim=1)
        gated = first * (second / (up.shape[1] / 2) ** -0.5) if gate == "scaled" else first * second.sigmoid()
        stages.append(F.interpolate(gated, (height, width), mode="bilinear", align_corners=False))
    mean = x.mean(dim=(2, 3), keepdim=True)
    return pointwise("conv_out", torch.cat(stages, dim=1)) + pointwise("conv_pool", mean)


def block_weights(prefix: str, dim: int, kernel_size: int, generator: torch.Generator, bias: bool = True) -> Weights:
    """One block in the authors' layout."""

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) / 4

    inter = dim // 2
    weights = {
        "conv_up.weight": random(inter, dim),
        "conv_up.bias": random(inter),
        "conv_out.weight": random(dim, inter),
        "conv_out.bias": random(dim),
        "conv_pool.weight": random(dim, dim),
        "conv_pool.bias": random(dim),
    }
    for stage in range(2):
        weights[f"gates.{stage}.conv_spatial.weight"] = random(kernel_size, kernel_size, inter)
        if bias:
            weights[f"gates.{stage}.conv_spatial.bias"] = random(inter)
    return {prefix + key: value for key, value in weights.items()}


def checkpoint(denoiser: torch.nn.Module, bias: bool = True, seed: int = 0) -> Weights:
    """A checkpoint for a tiny denoiser; K is 5 in the middle block and 3 elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    weights: Weights = {}
    for name, module in denoiser.named_modules():
        if name.endswith(".attn1"):
            kernel_size = 5 if name.startswith("mid_block") else 3
            prefix = name.removesuffix("attn1") + "conv1."
            weights |= block_weights(prefix, module.query_dim, kernel_size, generator, bias)
    return weights


def save(path: Path, weights: Weights) -> Path:
    save_file({key: value.contiguous() for key, value in weights.items()}, path)
    return path


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize(
    ("make", "gate"),
    [(tiny_sd_unet, "scaled"), (tiny_sdxl_unet, "scaled"), (tiny_pixart_transformer, "sigmoid")],
    ids=["sd", "sdxl", "pixart"],
)
def test_blocks_compute_what_the_published_ones_do(tmp_path: Path, make: Callable, gate: str, bias: bool) -> None:
    denoiser = make()
    weights = checkpoint(denoiser, bias)
    fusion = DeltaConvFusion.from_convfusion(save(tmp_path / "blocks.safetensors", weights), denoiser)
    assert {block.gate for block in fusion.blocks.values()} == {gate}
    for name, block in fusion.blocks.items():
        x = torch.randn(2, block.dim, 7, 10, generator=torch.Generator().manual_seed(1))
        expected = published_block(x, weights, name.removesuffix("attn1") + "conv1.", gate)
        torch.testing.assert_close(block(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), expected, rtol=1e-4, atol=1e-4)
    with use_backend("reference"):
        reference = predict(denoiser, 8, 12)
    torch.testing.assert_close(predict(denoiser, 8, 12), reference, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("gate", ["scaled", "sigmoid"])
def test_transcription_tells_the_gates_apart(gate: str) -> None:
    """The comparison above can fail."""
    weights = block_weights("", 16, 3, torch.Generator().manual_seed(0))
    x = torch.randn(1, 16, 6, 6, generator=torch.Generator().manual_seed(1))
    other = "sigmoid" if gate == "scaled" else "scaled"
    assert not torch.allclose(published_block(x, weights, "", gate), published_block(x, weights, "", other), atol=0.1)


def test_layout_and_report(tmp_path: Path) -> None:
    pipe = tiny_sd()
    weights = checkpoint(pipe.unet)
    fusion = DeltaConvFusion.from_convfusion(str(save(tmp_path / "ConvFusion-sd15.safetensors", weights)), pipe)
    assert DeltaConvFusion.attached_to(pipe) is fusion
    assert fusion.report.kernel_sizes_from == "from the checkpoint ConvFusion-sd15.safetensors"
    for name, block in fusion.blocks.items():
        assert block.kernel_size == (5 if name.startswith("mid_block") else 3)
        assert block.dim == CHANNELS[name.split(".attentions.")[0]]
        assert block.gate_scale == pytest.approx((block.dim / 4) ** 0.5)
    block = fusion.blocks[MID + "attn1"]
    assert torch.equal(block.weight[1], weights[MID + "conv1.gates.1.conv_spatial.weight"])
    assert torch.equal(block.out_proj.weight, weights[MID + "conv1.conv_out.weight"])
    fusion.detach().save_pretrained(tmp_path / "side-car")
    again = DeltaConvFusion.from_pretrained(tmp_path / "side-car").attach(pipe)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in fusion.state_dict().items())


def as_convolutions(weights: Weights) -> Weights:
    """1x1 kernels for the matrices; the depthwise filters stay as they are."""
    return {
        key: value[..., None, None] if value.dim() == 2 and "conv_spatial" not in key else value
        for key, value in weights.items()
    }


def as_convolution_modules(weights: Weights) -> Weights:
    """Everything as nn.Conv2d stores it, and none of the biases that are off by default there."""
    depthwise = {
        key: value.permute(2, 0, 1).unsqueeze(1) if key.endswith("conv_spatial.weight") else value
        for key, value in as_convolutions(weights).items()
    }
    return {key: value for key, value in depthwise.items() if not key.endswith(("conv_up.bias", "conv_spatial.bias"))}


@torch.no_grad()
@pytest.mark.parametrize("variant", ["base:", "base_ema:", "1x1 convolutions", "nn.Conv2d", "half precision"])
def test_variants_of_the_layout(tmp_path: Path, variant: str) -> None:
    unet, plain = tiny_sd_unet(), checkpoint(tiny_sd_unet())
    weights = dict(plain)
    if variant.startswith("base"):
        weights = {variant + key: value for key, value in plain.items()}
    elif variant == "1x1 convolutions":
        weights = as_convolutions(plain)
    elif variant == "nn.Conv2d":
        weights = as_convolution_modules(plain)
        plain = {key: value for key, value in plain.items() if not key.endswith("conv_spatial.bias")}
        plain |= {key: torch.zeros_like(value) for key, value in plain.items() if key.endswith("conv_up.bias")}
    else:
        weights = {key: value.half() for key, value in plain.items()}
        plain = {key: value.float() for key, value in weights.items()}
    fusion = DeltaConvFusion.from_convfusion(save(tmp_path / "plain.safetensors", plain), unet)
    expected = predict(unet)
    fusion.detach()
    loaded = DeltaConvFusion.from_convfusion(save(tmp_path / "variant.safetensors", weights), unet)
    assert torch.equal(predict(unet), expected)
    assert loaded.dtype == torch.float32


@torch.no_grad()
def test_training_checkpoint_has_two_sets_of_weights(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    last, average = checkpoint(tiny_sd_unet(), seed=0), checkpoint(tiny_sd_unet(), seed=1)
    both = {f"base:{key}": value for key, value in last.items()}
    both |= {f"base_ema:{key}": value for key, value in average.items()}
    path = save(tmp_path / "both.safetensors", both)
    key = MID + "conv1.conv_up.weight"
    with caplog.at_level(logging.INFO):
        chosen = DeltaConvFusion.from_convfusion(path, tiny_sd_unet())
    assert torch.equal(chosen.blocks[MID + "attn1"].in_proj.weight, average[key])
    assert "'base_ema:'" in caplog.text
    chosen = DeltaConvFusion.from_convfusion(path, tiny_sd_unet(), ema=False)
    assert torch.equal(chosen.blocks[MID + "attn1"].in_proj.weight, last[key])


def without(key: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name: value for name, value in weights.items() if name != MID + key}


def with_(key: str, value: Tensor) -> Callable[[Weights], Weights]:
    return lambda weights: weights | {MID + key: value}


DAMAGES: dict[str, tuple[Callable[[Weights], Weights], str]] = {
    "missing": (without("conv1.conv_up.weight"), rf"missing 1 \({MID}conv1.conv_up.weight\)$"),
    "missing-bias": (without("conv1.conv_up.bias"), rf"missing 1 \({MID}conv1.conv_up.bias\)$"),
    "half-a-bias": (without("conv1.gates.0.conv_spatial.bias"), r"missing 1 .*gates.0.conv_spatial.bias\)$"),
    "missing-gate": (without("conv1.gates.1.conv_spatial.weight"), r"missing 1 .*gates.1.conv_spatial.weight"),
    "third-gate": (with_("conv1.gates.2.conv_spatial.weight", torch.zeros(5, 5, 16)), r"unexpected 1 .*gates.2"),
    "other-layer": (with_("attn1.to_q.weight", torch.zeros(32, 32)), rf"unexpected 1 \({MID}attn1.to_q.weight\)"),
    "channels": (
        with_("conv1.conv_pool.weight", torch.zeros(64, 64)),
        rf"{MID}conv1.conv_pool.weight: expected shape \[32, 32\], got \[64, 64\]",
    ),
    "width": (
        with_("conv1.gates.1.conv_spatial.weight", torch.zeros(5, 5, 8)),
        r"gates.1.conv_spatial.weight: expected shape \[5, 5, 16\], got \[5, 5, 8\]",
    ),
    "even-size": (
        with_("conv1.gates.0.conv_spatial.weight", torch.zeros(4, 4, 16)),
        r"gates.0.conv_spatial.weight: expected \[K, K, channels\] with K odd, 1 to 31, got shape \[4, 4, 16\]",
    ),
    "not-square": (with_("conv1.gates.0.conv_spatial.weight", torch.zeros(5, 3, 16)), r"got shape \[5, 3, 16\]"),
    "flat": (with_("conv1.gates.0.conv_spatial.weight", torch.zeros(25, 16)), r"got shape \[25, 16\]"),
    "quantised": (
        with_("conv1.conv_out.weight", torch.zeros(32, 16, dtype=torch.int8)),
        rf"{MID}conv1.conv_out.weight: expected floating-point numbers, got torch.int8",
    ),
    "everything": (lambda weights: {"conv_in.weight": torch.zeros(3)}, r"holds no ConvFusion blocks: .*conv_in.weight"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_wrong_contents_are_named(tmp_path: Path, damage: str) -> None:
    unet = tiny_sd_unet()
    change, message = DAMAGES[damage]
    with pytest.raises(ValueError, match=message):
        DeltaConvFusion.from_convfusion(save(tmp_path / "file.safetensors", change(checkpoint(unet))), unet)
    assert DeltaConvFusion.attached_to(unet) is None


def test_checkpoint_of_another_model(tmp_path: Path) -> None:
    path = save(tmp_path / "sd.safetensors", checkpoint(tiny_sd_unet()))
    with pytest.raises(ValueError, match=r"missing 16 \(transformer_blocks.0.conv1.*unexpected 70 .*, …\)"):
        DeltaConvFusion.from_convfusion(path, tiny_pixart_transformer())


@pytest.mark.parametrize("kind", ["truncated", "header-only", "text", "pickle", "empty"])
def test_files_that_are_not_whole_safetensors(tmp_path: Path, kind: str) -> None:
    unet = tiny_sd_unet()
    path = tmp_path / "file.safetensors"
    whole = save(tmp_path / "whole.safetensors", checkpoint(unet)).read_bytes()
    contents = {"truncated": whole[:-100], "header-only": whole[:200], "text": b"<html>not found</html>", "empty": b""}
    if kind == "pickle":
        torch.save({"a": torch.zeros(1)}, path)
    else:
        path.write_bytes(contents[kind])
    with pytest.raises(ValueError, match=r"path: .*file.safetensors is not a safetensors file, or not all of one"):
        DeltaConvFusion.from_convfusion(path, unet)


def test_no_file_and_second_fusion(tmp_path: Path) -> None:
    unet = tiny_sd_unet()
    for missing in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(FileNotFoundError, match="path: no such file"):
            DeltaConvFusion.from_convfusion(missing, unet)
    DeltaConvFusion.convert(unet, kernel_size=3)
    with pytest.raises(RuntimeError, match="has a fusion attached"):
        DeltaConvFusion.from_convfusion(tmp_path / "none.safetensors", unet)
