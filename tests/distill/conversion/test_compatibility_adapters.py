"""LoRA, IP-Adapter and FaceID on converted pipelines."""

from __future__ import annotations

import re

import pytest
import torch
from deltaconv_distill import DeltaConvFusion
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import IPAdapterAttnProcessor
from diffusers.models.embeddings import ImageProjection, IPAdapterFaceIDImageProjection
from peft import LoraConfig
from tiny_pipelines import TEXT_WIDTH, predict, tiny_sd, tiny_sd_unet

State = dict[str, torch.Tensor]
IMAGE_WIDTH = 24  # of an IP-Adapter's image embeddings


def lora_weights(unet: torch.nn.Module, parts: str = r"attn[12]\.to_(q|k|v|out\.0)$", rank: int = 2) -> State:
    """A LoRA file for a UNet, in the layout of diffusers, for the linear layers whose names `parts` finds."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, module in unet.named_modules():
        if isinstance(module, torch.nn.Linear) and re.search(parts, name):
            weights[f"unet.{name}.lora_A.weight"] = torch.randn(rank, module.in_features, generator=generator) / 4
            weights[f"unet.{name}.lora_B.weight"] = torch.randn(module.out_features, rank, generator=generator)
    return weights


def skipped_reports(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.message.startswith("skipped")]


@torch.no_grad()
def test_lora_acts_where_attention_is_left_and_reports_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    pipe, lora = tiny_sd(), lora_weights(tiny_sd_unet())
    teacher = predict(pipe.unet)
    pipe.load_lora_weights(dict(lora))
    adapted_teacher = predict(pipe.unet)
    pipe.unload_lora_weights()
    fusion = DeltaConvFusion.convert(pipe, kernel_size=3)
    student = predict(pipe.unet)
    assert not skipped_reports(caplog)

    pipe.load_lora_weights(dict(lora))
    # 7 self- and 7 cross-attentions with 4 layers each
    assert len(lora) == 2 * 56
    assert [report.split(",")[0] for report in skipped_reports(caplog)] == [
        "skipped 28 of 56 adapter layers: they adapt 7 self-attentions that ΔConvBlocks stand in for"
    ]
    assert not torch.allclose(predict(pipe.unet), student, atol=1e-3)
    with fusion.teacher():
        assert torch.equal(predict(pipe.unet), adapted_teacher)
    assert all("lora" not in name for name, _ in fusion.named_parameters())

    pipe.unload_lora_weights()
    assert torch.equal(predict(pipe.unet), student)
    fusion.detach()
    assert torch.equal(predict(pipe.unet), teacher)


@torch.no_grad()
def test_lora_of_self_attentions_alone_leaves_the_student(caplog: pytest.LogCaptureFixture) -> None:
    pipe = tiny_sd()
    fusion = DeltaConvFusion.convert(pipe, kernel_size=3, exclude="mid_block.*")
    student = predict(pipe.unet)
    pipe.load_lora_weights(lora_weights(pipe.unet, r"(down|up)_blocks.*attn1\.to_q$"), adapter_name="first")
    assert "skipped 6 of 6 adapter layers: they adapt 6 self-attentions" in skipped_reports(caplog)[-1]
    assert torch.equal(predict(pipe.unet), student)
    pipe.load_lora_weights(lora_weights(pipe.unet, r"attn1\.to_v$"), adapter_name="second")
    # the excluded mid block keeps its attention, and its LoRA
    assert "skipped 6 of 7 adapter layers" in skipped_reports(caplog)[-1]
    assert not torch.allclose(predict(pipe.unet), student, atol=1e-4)
    assert len(fusion.blocks) == 6


@torch.no_grad()
def test_lora_that_was_there_before_conversion(caplog: pytest.LogCaptureFixture) -> None:
    pipe = tiny_sd()
    pipe.load_lora_weights(lora_weights(pipe.unet))
    adapted_teacher = predict(pipe.unet)
    fusion = DeltaConvFusion.convert(pipe, kernel_size=3)
    assert "skipped 28 of 56 adapter layers" in skipped_reports(caplog)[-1]
    adapted_student = predict(pipe.unet)
    pipe.set_adapters(pipe.get_active_adapters(), adapter_weights=0.5)
    assert not torch.allclose(predict(pipe.unet), adapted_student, atol=1e-4)
    pipe.set_adapters(pipe.get_active_adapters(), adapter_weights=1.0)
    with fusion.teacher():
        assert torch.equal(predict(pipe.unet), adapted_teacher)
    pipe.fuse_lora()
    torch.testing.assert_close(predict(pipe.unet), adapted_student, rtol=1e-3, atol=1e-4)
    pipe.unfuse_lora()
    fusion.detach()
    torch.testing.assert_close(predict(pipe.unet), adapted_teacher, rtol=1e-3, atol=1e-4)


def test_training_a_lora_on_a_converted_unet(caplog: pytest.LogCaptureFixture) -> None:
    unet = tiny_sd_unet().requires_grad_(False)
    fusion = DeltaConvFusion.convert(unet, kernel_size=3)
    fusion.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    assert "skipped 14 of 28 adapter layers" in skipped_reports(caplog)[-1]
    predict(unet).square().mean().backward()
    for name, parameter in unet.named_parameters():
        if "lora" in name:
            assert (parameter.grad is None) == (".attn1." in name), name


@torch.no_grad()
def test_lora_methods_are_the_class_own_after_detach(caplog: pytest.LogCaptureFixture) -> None:
    pipe = tiny_sd()
    DeltaConvFusion.convert(pipe, kernel_size=3).detach()
    pipe.load_lora_weights(lora_weights(pipe.unet))
    assert not skipped_reports(caplog)


def ip_adapter(unet: torch.nn.Module, projection: State, lora: bool = False) -> dict[str, State]:
    """An IP-Adapter file: keys are numbered over all attentions, 0, 2, 4, … the self-attentions."""
    weights: State = {}
    for number, name in enumerate(unet.attn_processors):
        attention = unet.get_submodule(name.removesuffix(".processor"))
        if lora:
            for layer in ("q", "k", "v", "out"):
                linear = attention.to_out[0] if layer == "out" else getattr(attention, f"to_{layer}")
                weights[f"{number}.to_{layer}_lora.down.weight"] = torch.randn(2, linear.in_features)
                weights[f"{number}.to_{layer}_lora.up.weight"] = torch.randn(linear.out_features, 2)
        if "attn2" in name:
            processor = IPAdapterAttnProcessor(hidden_size=attention.query_dim, cross_attention_dim=TEXT_WIDTH)
            for layer in ("k", "v"):
                weights[f"{number}.to_{layer}_ip.weight"] = processor.state_dict()[f"to_{layer}_ip.0.weight"]
    return {"image_proj": projection, "ip_adapter": weights}


def plain_projection() -> State:
    projection = ImageProjection(image_embed_dim=IMAGE_WIDTH, cross_attention_dim=TEXT_WIDTH, num_image_text_embeds=4)
    state = projection.state_dict()
    return {key.replace("image_embeds", "proj"): value for key, value in state.items()}


def face_projection() -> State:
    state = IPAdapterFaceIDImageProjection(IMAGE_WIDTH, TEXT_WIDTH, mult=2, num_tokens=4).state_dict()
    return {key.replace("ff.net.0.proj", "proj.0").replace("ff.net.2", "proj.2"): value for key, value in state.items()}


def generate(pipe: StableDiffusionPipeline, image_embeds: torch.Tensor) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    options = {"height": 16, "width": 24, "num_inference_steps": 2, "guidance_scale": 1.0, "output_type": "pt"}
    generator = torch.Generator().manual_seed(0)
    return pipe("a cat", ip_adapter_image_embeds=[image_embeds], generator=generator, **options).images


@torch.no_grad()
@pytest.mark.parametrize("kind", ["ip-adapter", "face-id"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_ip_adapters(kind: str, when: str, caplog: pytest.LogCaptureFixture) -> None:
    """Loaded before or after conversion: the same images; the image prompt acts; FaceID's LoRA on attn1 is reported."""
    torch.manual_seed(0)
    face = kind == "face-id"
    adapter = ip_adapter(tiny_sd_unet(), face_projection() if face else plain_projection(), lora=face)
    embeds = torch.randn(1, 1, IMAGE_WIDTH)

    def load(pipe: StableDiffusionPipeline) -> None:
        pipe.load_ip_adapter([adapter], subfolder="", weight_name="", image_encoder_folder=None)

    pipe = tiny_sd()
    load(pipe)
    teacher = generate(pipe, embeds)

    pipe = tiny_sd()
    if when == "before":
        load(pipe)
    torch.manual_seed(1)
    fusion = DeltaConvFusion.convert(pipe, kernel_size=3)
    names = list(pipe.unet.attn_processors)
    if when == "after":
        load(pipe)
    assert list(pipe.unet.attn_processors) == names
    assert bool(skipped_reports(caplog)) == face
    if face:
        assert "skipped 28 of 56 adapter layers" in skipped_reports(caplog)[-1]
    student = generate(pipe, embeds)
    assert not torch.allclose(student, generate(pipe, -embeds), atol=1e-4)
    with fusion.teacher():
        assert torch.equal(generate(pipe, embeds), teacher)
    pipe.set_ip_adapter_scale(0.0)
    assert not torch.allclose(generate(pipe, embeds), student, atol=1e-4)
    pipe.set_ip_adapter_scale(1.0)
    fusion.detach()
    assert torch.equal(generate(pipe, embeds), teacher)
