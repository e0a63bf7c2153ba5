"""Joint attention in which the text has keys and values alone: Kandinsky 2.2, DeepFloyd IF, Stable Cascade."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from deltaconv_distill import DeltaConvFusion
from deltaconv_distill.analysis import profile_of, record
from deltaconv_distill.analysis.ablation import _Windowed
from deltaconv_distill.analysis.hooks import watched
from deltaconv_distill.analysis.windows import WINDOW_ONLY
from deltaconv_distill.conversion.sites import find_sites
from deltaconv_distill.conversion.text_share import PRIOR
from diffusers import StableCascadeUNet, UNet2DConditionModel
from tiny_denoisers import SIMPLE_CROSS_ATTENTION, TEXT_TOKENS, TINY, Tiny, make_tiny, run, tiny_inputs, zero_queries
from torch import nn

FIRST = {
    "kandinsky2.2": "down_blocks.1.attentions.0",
    "deepfloyd": "down_blocks.1.attentions.0",
    "cascade": "down_blocks.0.2.attention",
}
TOKENS = {"kandinsky2.2": 32, "deepfloyd": TEXT_TOKENS, "cascade": TEXT_TOKENS}


def tiny_deepfloyd() -> UNet2DConditionModel:
    """Its text is projected, and normalised by each attention."""
    return UNet2DConditionModel(
        in_channels=3,
        out_channels=6,
        cross_attention_dim=32,
        cross_attention_norm="group_norm",
        encoder_hid_dim_type="text_proj",
        **SIMPLE_CROSS_ATTENTION,
    )


@pytest.fixture(autouse=True)
def deepfloyd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TINY, "deepfloyd", Tiny(tiny_deepfloyd, 4, (), ""))


def convert(denoiser: nn.Module, **options: Any) -> DeltaConvFusion:
    torch.manual_seed(1)
    return DeltaConvFusion.convert(denoiser, kernel_size=3, init="random", **options)


def given_by(denoiser: nn.Module, name: str, inputs: dict[str, Any]) -> torch.Tensor:
    """What the first attention gives in a forward beside its residual connection, [B, N, C]."""
    kept: list[torch.Tensor] = []

    def keep(module: nn.Module, args: Any, output: torch.Tensor) -> None:
        kept.append(output if name == "cascade" else output - args[0])

    handle = denoiser.get_submodule(FIRST[name]).register_forward_hook(keep)
    denoiser(**inputs)
    handle.remove()
    return kept[0].flatten(2).mT


@torch.no_grad()
@pytest.mark.parametrize("name", FIRST)
def test_student_is_text_part_and_block(name: str) -> None:
    """By an independent route: a text that says one thing turns the attention over the text into its value.

    With shares of zero the student is bias and block alone; each head's share then adds that share of its value.
    """
    denoiser = make_tiny(name)
    fusion = convert(denoiser, only=FIRST[name])
    attention = denoiser.get_submodule(FIRST[name])
    share = fusion.blocks[FIRST[name]].text_share.weight
    project = attention.to_v if name == "cascade" else attention.add_v_proj
    project.weight.zero_()  # every text token has the value b_v
    share.zero_()
    inputs = tiny_inputs(denoiser, 8, 12)
    alone = given_by(denoiser, name, inputs)
    share.copy_(torch.linspace(0.25, 0.5, len(share)))
    both = given_by(denoiser, name, inputs)
    value = project.bias.unflatten(0, (len(share), -1)) * share[:, None]
    expected = attention.to_out[0].weight @ value.flatten()
    torch.testing.assert_close(both - alone, expected.expand_as(both), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "masked"), [*((name, False) for name in FIRST), ("kandinsky2.2", True), ("deepfloyd", True)]
)
def test_recorded_target_is_what_the_text_part_leaves(name: str, masked: bool) -> None:
    """In the teacher's run: with the target in the block's place, the student's output would be the teacher's.

    Masked tokens of the text count for neither.
    """
    denoiser = make_tiny(name)
    inputs = tiny_inputs(denoiser, 8, 12)
    if masked:
        whole = given_by(denoiser, name, inputs)
        mask = torch.ones(2, TOKENS[name])
        mask[1, 1:] = 0
        inputs["encoder_attention_mask"] = mask
    teacher = given_by(denoiser, name, inputs)
    if masked:
        assert torch.equal(teacher[0], whole[0])
        assert not torch.allclose(teacher[1], whole[1], atol=1e-3)
    fusion = convert(denoiser)
    block = fusion.blocks[FIRST[name]]
    with fusion.teacher(), fusion.record_attention() as calls:
        assert torch.equal(given_by(denoiser, name, inputs), teacher)
    call = calls[FIRST[name]]
    text_part = given_by(denoiser, name, inputs) - block(call.input).flatten(1, 2)
    torch.testing.assert_close(text_part + call.output.flatten(1, 2), teacher, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FIRST)
def test_shares_learn(name: str) -> None:
    denoiser = make_tiny(name)
    fusion = convert(denoiser)
    shares = [block.text_share.weight for block in fusion.blocks.values()]
    assert all(torch.equal(share, torch.full_like(share, PRIOR)) for share in shares)
    run(denoiser).square().mean().backward()
    assert all(share.grad.abs().min() > 0 for share in shares)


@torch.no_grad()
@pytest.mark.parametrize("name", FIRST)
def test_measured_shares_are_where_blocks_start(name: str) -> None:
    """Image queries of zero attend to all tokens alike: n of n + N is the text's."""
    denoiser = make_tiny(name)
    zero_queries(denoiser)
    with record(denoiser) as recording:
        run(denoiser, 8, 12)
    fusion = DeltaConvFusion.convert(denoiser, kernel_size=3, profile=profile_of(recording))
    for layer in fusion.report.layers:
        rows, columns = layer.grid(8, 12)
        share = fusion.blocks[layer.name].text_share.weight
        expected = TOKENS[name] / (TOKENS[name] + rows * columns)
        torch.testing.assert_close(share, torch.full_like(share, expected), rtol=1e-4, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("name", FIRST)
def test_windows_as_large_as_the_image_change_nothing(name: str) -> None:
    """In the image's part alone, put together with the text's again."""
    denoiser = make_tiny(name)
    before = run(denoiser, 8, 12)
    with watched(denoiser, _Windowed(23, WINDOW_ONLY)):
        torch.testing.assert_close(run(denoiser, 8, 12), before, rtol=1e-4, atol=1e-4)
    with watched(denoiser, _Windowed(1, WINDOW_ONLY)):
        assert not torch.allclose(run(denoiser, 8, 12), before, atol=1e-3)


def test_what_stays_keeps_its_gradients() -> None:
    """Of Kandinsky's attentions nothing is idle but the image's keys and values; of Stable Cascade's nothing at all."""
    for name, idle in (("kandinsky2.2", {"to_k", "to_v"}), ("cascade", set())):
        denoiser = make_tiny(name).requires_grad_(True)
        convert(denoiser)
        attention = denoiser.get_submodule(FIRST[name])
        frozen = {key.split(".")[0] for key, value in attention.named_parameters() if not value.requires_grad}
        assert frozen == idle
        run(denoiser).square().mean().backward()
        used = [value for key, value in attention.named_parameters() if key.split(".")[0] not in idle]
        assert all(value.grad is not None for value in used)


def options_of(name: str, **changed: Any) -> dict[str, Any]:
    """The arguments of a tiny model, with some others."""
    return {key: value for key, value in make_tiny(name).config.items() if not key.startswith("_")} | changed


def test_attentions_to_the_text_alone_are_left() -> None:
    """As `only_cross_attention` has them in Stable Diffusion's latent upscaler, and `self_attn` in Stable Cascade."""
    unet = UNet2DConditionModel(**options_of("kandinsky2.2", only_cross_attention=(False, True)))
    assert list(find_sites(unet).found) == ["mid_block.attentions.0"]
    sites = find_sites(StableCascadeUNet(**options_of("cascade", self_attn=(True, False))))
    assert list(sites.found) == ["down_blocks.0.2.attention", "up_blocks.1.2.attention"]
    assert set(sites.skipped.values()) == {"it is a cross-attention"}


def test_levels_that_do_not_halve_have_the_strides_of_the_first() -> None:
    """Stable Cascade's prior switches its only halving off."""
    strides = [
        sorted(site.stride for site in find_sites(StableCascadeUNet(**options_of("cascade", **change))).found.values())
        for change in ({}, {"switch_level": (True,)}, {"switch_level": (False,)}, {"patch_size": 2})
    ]
    assert strides == [[1, 1, 2, 2], [1, 1, 2, 2], [1, 1, 1, 1], [2, 2, 4, 4]]
