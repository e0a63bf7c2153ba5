"""init="attention": closed forms of what a block starts with, and the attentions that it must not guess at."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
import torch.nn.functional as F
from deltaconv_distill import DeltaConvFusion
from deltaconv_distill.conversion.displacements import filters_for
from deltaconv_distill.conversion.initialisation import PRIOR_SHARE, initialise
from deltaconv_distill.conversion.kinds.linear_maps import linear_maps
from diffusers.models.attention_processor import Attention
from peft import LoraConfig
from tiny_pipelines import predict, tiny_sd_unet
from torch import Tensor

from deltaconv_kernels import DeltaConvBlock, pyramid

GRID = (6, 7)
PAIRS = torch.ones(9, 9)


@dataclass
class Measurement:
    """Random maps of `heads` heads with a reach of 4 tokens, or exactly uniform ones."""

    heads: int
    uniform: bool = False
    grid: tuple[int, int] = GRID
    relative_map: Tensor = field(init=False)

    def __post_init__(self) -> None:
        even = torch.full((self.heads, 9, 9), 1 / (self.grid[0] * self.grid[1]))
        noise = torch.randn(even.shape, generator=torch.Generator().manual_seed(2))
        self.relative_map = even if self.uniform else even + 0.02 * noise


@dataclass
class Profile:
    """What `convert` asks of an analysis for its start."""

    layers: dict[str, Measurement]


def make_attention(dim: int = 16, heads: int = 2, seed: int = 0, **options) -> Attention:
    torch.manual_seed(seed)
    return Attention(dim, heads=heads, dim_head=dim // heads, **{"bias": True, **options})


def make_block(dim: int = 16, kernel_size: int = 3, seed: int = 1, **options) -> DeltaConvBlock:
    torch.manual_seed(seed)
    return DeltaConvBlock(dim, kernel_size, **options)


def tokens(dim: int = 16, batch: int = 3) -> Tensor:
    return torch.randn(batch, *GRID, dim, generator=torch.Generator().manual_seed(3))


def silence_queries(denoiser: torch.nn.Module) -> None:
    """Make every self-attention exactly uniform."""
    for module in denoiser.modules():
        if isinstance(module, Attention) and not module.is_cross_attention:
            torch.nn.init.zeros_(module.to_q.weight)
            if module.to_q.bias is not None:
                torch.nn.init.zeros_(module.to_q.bias)


def head_products(attention: Attention) -> Tensor:
    """[heads, dim, dim]: W_o,h W_v,h."""
    left = attention.to_out[0].weight.unflatten(1, (attention.heads, -1))
    right = attention.to_v.weight.unflatten(0, (attention.heads, -1))
    return torch.einsum("ohw,hwi->hoi", left, right) / attention.rescale_output_factor


@torch.no_grad()
@pytest.mark.parametrize("gate", ["scaled", "sigmoid"])
@pytest.mark.parametrize(
    ("dim", "heads", "kernel_size", "rescale"),
    [(16, 2, 3, 1.0), (320, 8, 11, 1.0), (640, 10, 9, 1.0), (144, 2, 13, 2.0)],
    ids=["tiny", "sd15", "sdxl", "pixart-rescaled"],
)
def test_a_uniform_attention_is_reproduced(gate: str, dim: int, heads: int, kernel_size: int, rescale: float) -> None:
    attention = make_attention(dim, heads, rescale_output_factor=rescale)
    silence_queries(attention)
    block = make_block(dim, kernel_size, gate=gate)
    initialise(block, linear_maps(attention, "layer"), "layer", Measurement(heads, uniform=True))
    x = tokens(dim)
    expected = attention(x.flatten(1, 2)).unflatten(1, GRID)
    torch.testing.assert_close(block(x), expected, rtol=0, atol=2e-6)


@torch.no_grad()
def test_a_whole_denoiser_of_uniform_attentions_is_reproduced(denoiser: torch.nn.Module) -> None:
    silence_queries(denoiser)
    heads = {name: module.heads for name, module in denoiser.named_modules() if isinstance(module, Attention)}
    profile = Profile({name: Measurement(count, uniform=True) for name, count in heads.items()})
    expected = predict(denoiser, 10, 14)
    DeltaConvFusion.convert(denoiser, kernel_size=3, profile=profile)
    student = predict(denoiser, 10, 14)
    torch.testing.assert_close(student, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@torch.no_grad()
@pytest.mark.parametrize("gate", ["scaled", "sigmoid"])
@pytest.mark.parametrize("factors", [(1,), (1, 2)], ids=str)
def test_with_rank_enough_a_block_is_the_convolution_it_approximates(gate: str, factors: tuple[int, ...]) -> None:
    attention, measured = make_attention(), Measurement(2)
    block = make_block(kernel_size=5, expansion=2.0, gate=gate, factors=factors)
    initialise(block, linear_maps(attention, "layer"), "layer", measured)
    x = tokens()

    local = measured.relative_map - 1 / 42
    pairs = torch.tensor([max(6 - abs(d), 0) for d in range(-4, 5)])[:, None] * torch.tensor(
        [7 - abs(d) for d in range(-4, 5)]
    )
    kernels, effect = filters_for(local, pairs, 5, factors)
    products = head_products(attention)
    bias = attention.to_out[0].weight @ attention.to_v.bias + attention.to_out[0].bias
    expected = torch.einsum("h,hoi,bi->bo", 1 - effect.sum((1, 2)), products, x.mean((1, 2)))[:, None, None] + bias
    for kernel, product in zip(kernels, products, strict=True):
        filters = kernel[..., None].expand(-1, -1, -1, 32).contiguous()
        filters[..., 16:] = 0  # a gate of one
        one = torch.cat([torch.zeros(len(factors), 16), torch.ones(len(factors), 16)], dim=1)
        wide = torch.cat([x, x], dim=-1)
        blurred = pyramid(wide, filters, one, factors).unflatten(-1, (len(factors), 16)).sum(-2)
        expected = expected + blurred @ product.mT
    torch.testing.assert_close(block(x), expected, rtol=0, atol=3e-6)


@torch.no_grad()
def test_what_the_rank_leaves_out_is_the_tail_of_the_singular_values() -> None:
    attention = make_attention(dim=32, heads=1)
    block = make_block(dim=32, kernel_size=1, factors=(1,))  # 8 channels before the gate
    initialise(block, linear_maps(attention, "layer"), "layer", None)
    product = PRIOR_SHARE * head_products(attention)[0]
    kept = block.out_proj.weight * block.weight[0, 0, 0, :8] @ block.in_proj.weight[:8]
    tail = torch.linalg.svdvals(product)[8:].square().sum().sqrt()
    torch.testing.assert_close((product - kept).norm(), tail)
    torch.testing.assert_close(block.in_proj.weight[:8].norm(dim=1), torch.full((8,), 3**-0.5))


@torch.no_grad()
def test_channels_go_to_the_heads_that_are_local() -> None:
    attention, measured = make_attention(dim=32, heads=4), Measurement(4, uniform=True)
    measured.relative_map[2, 3:6, 3:6] += 0.05
    block = make_block(dim=32)
    initialise(block, linear_maps(attention, "layer"), "layer", measured)
    values = attention.to_v.weight.unflatten(0, (4, 8))[2]
    inside = block.in_proj.weight[:8] @ torch.linalg.pinv(values) @ values
    torch.testing.assert_close(inside, block.in_proj.weight[:8], rtol=0, atol=1e-5)


def test_every_parameter_that_should_learn_has_a_gradient() -> None:
    for measured in (None, Measurement(2), Measurement(2, uniform=True)):
        block = make_block()
        initialise(block, linear_maps(make_attention(), "layer"), "layer", measured)
        block(tokens()).square().mean().backward()
        live = block.weight.grad.flatten(0, 2).abs().sum(0) > 0
        assert live.all() or (measured and measured.uniform and live[:4].all())
        assert (block.pool_proj.weight.grad != 0).all()


@pytest.mark.parametrize("factors", [(1,), (1, 2), (1, 2, 3), (2,)], ids=str)
def test_filters_act_at_the_displacements_they_were_fitted_for(factors: tuple[int, ...]) -> None:
    """The mean response of the pyramid itself to an impulse, over impulses at every position of a cell."""
    torch.manual_seed(0)
    wanted = torch.randn(1, 9, 9) * torch.exp(-(torch.linspace(-2, 2, 9) ** 2))[:, None]
    kernels, effect = filters_for(wanted, PAIRS, 3, factors)
    size, period, centre = 48, 6, 24
    filters = torch.cat([kernels[0][..., None], torch.zeros(len(factors), 3, 3, 1)], dim=-1)
    bias = torch.tensor([[0.0, 1.0]]).expand(len(factors), 2).contiguous()
    response = torch.zeros(9, 9)
    for dy in range(period):
        for dx in range(period):
            impulse = torch.zeros(1, size, size, 2)
            impulse[0, centre + dy, centre + dx] = 1
            out = pyramid(impulse, filters, bias, factors).sum(-1)[0]
            response += out[centre + dy - 4 : centre + dy + 5, centre + dx - 4 : centre + dx + 5].flip(0, 1)
    torch.testing.assert_close(response / period**2, effect[0], rtol=0, atol=1e-5 * kernels.abs().max().item())
    assert (effect - wanted).norm() < 0.9 * wanted.norm()


def test_an_adapted_attention_starts_from_its_adapted_weights() -> None:
    unet = tiny_sd_unet()
    unet.add_adapter(LoraConfig(r=2, target_modules=["attn1.to_v", "attn1.to_out.0"], init_lora_weights=False))
    adapted = DeltaConvFusion.convert(unet, kernel_size=3).detach()
    unet.fuse_lora()
    merged = tiny_sd_unet()
    for name, module in unet.named_modules():
        if name.endswith(("attn1.to_v", "attn1.to_out.0")):
            merged.get_submodule(name).weight.data = module.get_base_layer().weight.data
    torch.manual_seed(0)
    expected = DeltaConvFusion.convert(merged, kernel_size=3)
    for name, block in expected.blocks.items():
        torch.testing.assert_close(adapted.blocks[name].pool_proj.weight, block.pool_proj.weight, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"norm_num_groups": 4}, "group_norm"),
        ({"residual_connection": True}, "residual_connection"),
        ({"kv_heads": 1}, "kv_heads"),
        ({"spatial_norm_dim": 4}, "spatial_norm"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_unknown_attentions_are_refused_and_random_blocks_are_not(options: dict, named: str) -> None:
    unet = tiny_sd_unet()
    place = unet.mid_block.attentions[0].transformer_blocks[0]
    place.attn1 = make_attention(32, 16, **options)
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1"
    with pytest.raises(ValueError, match=f"init: 'attention' does not know what {layer} does with its {named}"):
        DeltaConvFusion.convert(unet, kernel_size=3)
    assert DeltaConvFusion.attached_to(unet) is None
    DeltaConvFusion.convert(unet, kernel_size=3, init="random")


def test_bad_arguments() -> None:
    unet = tiny_sd_unet()
    with pytest.raises(ValueError, match=r"init: expected one of \('attention', 'random'\), got 'zero'"):
        DeltaConvFusion.convert(unet, kernel_size=3, init="zero")
    with pytest.raises(ValueError, match=r"profile: .* missing \['down_blocks"):
        DeltaConvFusion.convert(unet, kernel_size=3, profile=Profile({}))
    names = [name for name, module in unet.named_modules() if name.endswith("attn1")]
    with pytest.raises(ValueError, match=r"profile: expected relative maps of 2 heads for .*, got 3"):
        DeltaConvFusion.convert(unet, kernel_size=3, profile=Profile({name: Measurement(3) for name in names}))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_dtypes_start_from_the_same_values(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    fusion = DeltaConvFusion.convert(tiny_sd_unet().to(dtype), kernel_size=3)
    torch.manual_seed(0)
    expected = DeltaConvFusion.convert(tiny_sd_unet(), kernel_size=3)
    for name, block in fusion.blocks.items():
        assert block.pool_proj.weight.dtype == dtype
        error = (block.pool_proj.weight.float() - expected.blocks[name].pool_proj.weight).abs().max()
        assert error < 4 * torch.finfo(dtype).eps or (dtype == torch.float64 and error < 1e-6)


@torch.no_grad()
def test_a_side_car_keeps_the_start(tmp_path) -> None:
    unet = tiny_sd_unet()
    fusion = DeltaConvFusion.convert(unet, kernel_size=3)
    expected = predict(unet)
    fusion.save_pretrained(tmp_path / "fusion")
    fusion.detach()
    DeltaConvFusion.from_pretrained(tmp_path / "fusion").attach(unet)
    assert torch.equal(predict(unet), expected)


def test_a_model_without_weights_has_nothing_to_start_from() -> None:
    fusion = DeltaConvFusion.convert(tiny_sd_unet().to("meta"), kernel_size=3)
    assert all(parameter.is_meta for parameter in fusion.parameters())


@torch.no_grad()
def test_the_embedded_teacher_starts_closer_than_at_random() -> None:
    from deltaconv_distill.embedded import load_teacher

    unet = load_teacher().unet
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(4, 4, 16, 16, generator=generator)
    text = torch.randn(4, 8, 96, generator=generator)

    def error(init: str) -> float:
        torch.manual_seed(0)
        fusion = DeltaConvFusion.convert(unet, init=init)
        student = unet(sample, 500, text, return_dict=False)[0]
        with fusion.teacher():
            teacher = unet(sample, 500, text, return_dict=False)[0]
        fusion.detach()
        return F.mse_loss(student, teacher).item()

    assert error("attention") < 0.85 * error("random")
