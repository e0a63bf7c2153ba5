"""What users do to pipelines goes on working on converted ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from accelerate import cpu_offload, cpu_offload_with_hook
from accelerate.hooks import remove_hook_from_module
from deltaconv_distill import DeltaConvFusion
from diffusers import (
    ControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    Transformer2DModel,
)
from diffusers.hooks import apply_group_offloading
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from tiny_pipelines import denoiser_inputs, predict, tiny_controlnet, tiny_pixart, tiny_sd, tiny_sd_unet, tiny_sdxl


@torch.no_grad()
def test_attention_processors_keep_names_and_count() -> None:
    unet = tiny_sd_unet()
    before = unet.attn_processors
    teacher = predict(unet)
    fusion = DeltaConvFusion.convert(unet, kernel_size=3)
    student = predict(unet)
    assert unet.attn_processors == before
    unet.set_attn_processor(AttnProcessor())
    assert torch.allclose(predict(unet), student, atol=1e-5)
    unet.set_attn_processor(before)
    assert torch.equal(predict(unet), student)
    with fusion.teacher():
        assert torch.equal(predict(unet), teacher)
    assert {type(processor) for processor in unet.attn_processors.values()} == {AttnProcessor2_0}


@torch.no_grad()
def test_fused_projections_and_backends(denoiser: torch.nn.Module) -> None:
    teacher = predict(denoiser)
    fusion = DeltaConvFusion.convert(denoiser, kernel_size=3)
    student = predict(denoiser)
    if hasattr(denoiser, "fuse_qkv_projections"):
        denoiser.fuse_qkv_projections()
        torch.testing.assert_close(predict(denoiser), student, rtol=1e-4, atol=1e-5)
        with fusion.teacher():
            torch.testing.assert_close(predict(denoiser), teacher, rtol=1e-4, atol=1e-5)
        denoiser.unfuse_qkv_projections()
    denoiser.set_attention_backend("_native_math")
    torch.testing.assert_close(predict(denoiser), student, rtol=1e-4, atol=1e-5)
    denoiser.set_attention_backend("native")
    fusion.detach()
    torch.testing.assert_close(predict(denoiser), teacher, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_freeu() -> None:
    unet = tiny_sd_unet()
    fusion = DeltaConvFusion.convert(unet, kernel_size=3)
    student = predict(unet)
    unet.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    assert predict(unet).shape == student.shape
    unet.disable_freeu()
    assert torch.equal(predict(unet), student)
    fusion.detach()


@torch.no_grad()
def test_controlnet_from_a_converted_unet() -> None:
    unet = tiny_sd_unet()
    options = {"conditioning_embedding_out_channels": (8, 16)}
    expected = ControlNetModel.from_unet(unet, **options).state_dict()
    fusion = DeltaConvFusion.convert(unet, kernel_size=3)
    controlnet = ControlNetModel.from_unet(unet, **options)
    actual = controlnet.state_dict()
    assert actual.keys() == expected.keys()
    copied = [key for key in expected if key.startswith(("down_blocks", "mid_block"))]
    assert all(torch.equal(actual[key], expected[key]) for key in copied)
    assert DeltaConvFusion.attached_to(controlnet) is None
    DeltaConvFusion.convert(controlnet, kernel_size=3)
    fusion.detach()


@torch.no_grad()
def test_other_pipelines_of_the_same_parts() -> None:
    pipe = tiny_sd()
    fusion = DeltaConvFusion.convert(pipe, kernel_size=3)
    other = StableDiffusionImg2ImgPipeline.from_pipe(pipe)
    assert DeltaConvFusion.attached_to(other) is fusion
    other.set_progress_bar_config(disable=True)
    image = other(
        "a cat", image=torch.zeros(1, 3, 16, 16), strength=0.5, num_inference_steps=2, output_type="pt"
    ).images
    assert image.shape == (1, 3, 16, 16)


@torch.no_grad()
def test_state_dict_of_the_whole_model_loads_back() -> None:
    """Every parameter stands in it under its own name; parts answer with the teacher's state."""
    unet, twin = tiny_sd_unet(seed=0), tiny_sd_unet(seed=1)
    teacher_keys = set(unet.state_dict())
    DeltaConvFusion.convert(unet, kernel_size=3)
    DeltaConvFusion.convert(twin, kernel_size=3)
    state = unet.state_dict()
    assert set(state) == {name for name, _ in unet.named_parameters()}
    assert {f"mid_block.{key}" for key in unet.mid_block.state_dict()} == {
        key for key in teacher_keys if key.startswith("mid_block.")
    }
    twin.load_state_dict(state)
    assert torch.equal(predict(twin), predict(unet))


@torch.no_grad()
def test_model_and_sequential_offload() -> None:
    """What `enable_model_cpu_offload` and `enable_sequential_cpu_offload` do, with the CPU as the accelerator."""
    unet = tiny_sd_unet()
    teacher = predict(unet)
    fusion = DeltaConvFusion.convert(unet, kernel_size=3)
    student = predict(unet)
    _, hook = cpu_offload_with_hook(unet, "cpu")
    assert torch.equal(predict(unet), student)
    hook.offload()
    remove_hook_from_module(unet, recurse=True)
    cpu_offload(unet, torch.device("cpu"))
    assert all(parameter.is_meta for parameter in unet.parameters())
    assert torch.equal(predict(unet), student)
    with fusion.teacher():
        assert torch.equal(predict(unet), teacher)
    with pytest.raises(ValueError, match="weights are offloaded"):
        fusion.detach().attach(unet)
    assert DeltaConvFusion.attached_to(unet) is None


@torch.no_grad()
@pytest.mark.parametrize("level", ["block_level", "leaf_level"])
def test_group_offload(level: str) -> None:
    unet = tiny_sd_unet()
    fusion = DeltaConvFusion.convert(unet, kernel_size=3)
    student = predict(unet)
    cpu = torch.device("cpu")
    options = {"num_blocks_per_group": 1} if level == "block_level" else {}
    apply_group_offloading(unet, onload_device=cpu, offload_device=cpu, offload_type=level, **options)
    assert torch.equal(predict(unet), student)
    assert fusion.report.layers


@pytest.mark.parametrize("make", [tiny_sd, tiny_sdxl, tiny_pixart])
def test_pipelines_run_end_to_end(make: Callable, diffusers_log: pytest.LogCaptureFixture) -> None:
    pipe = make()
    pipe.set_progress_bar_config(disable=True)
    options = {"height": 16, "width": 24, "num_inference_steps": 2, "output_type": "pt"}
    if make is tiny_pixart:
        options |= {"use_resolution_binning": False, "clean_caption": False, "max_sequence_length": 16}

    def run() -> torch.Tensor:
        return pipe("a cat", generator=torch.manual_seed(0), **options).images

    teacher = run()
    diffusers_log.clear()
    fusion = DeltaConvFusion.convert(pipe, kernel_size=3)
    student = run()
    assert student.shape == (1, 3, 16, 24)
    assert not torch.allclose(student, teacher, atol=1e-3)
    with fusion.teacher():
        assert torch.equal(run(), teacher)
    assert not [record for record in diffusers_log.records if "cross_attention_kwargs" in record.message]


@torch.no_grad()
def test_no_warning_about_the_private_key_where_layers_stay(diffusers_log: pytest.LogCaptureFixture) -> None:
    unet = tiny_sd_unet()
    DeltaConvFusion.convert(
        unet, kernel_size=3, exclude=["up_blocks.*", "mid_block.attentions.0.transformer_blocks.0.attn1"]
    )
    predict(unet)
    assert not diffusers_log.records


class TaggedProcessor(AttnProcessor2_0):
    """Keeps the keyword argument `tag` of every call."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, tag=None):
        self.tags.append(tag)
        return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask)


@torch.no_grad()
def test_users_cross_attention_kwargs_arrive_and_are_not_changed() -> None:
    unet = tiny_sd_unet()
    processor = TaggedProcessor()
    unet.set_attn_processor(processor)
    fusion = DeltaConvFusion.convert(unet, kernel_size=3)
    given = {"tag": "mine"}
    unet(**denoiser_inputs(unet, 8, 8), cross_attention_kwargs=given)
    assert processor.tags == ["mine"] * 7  # the cross-attentions
    with fusion.teacher():
        unet(**denoiser_inputs(unet, 8, 8), cross_attention_kwargs=given)
    assert processor.tags == ["mine"] * (7 + 14)
    assert given == {"tag": "mine"}


@torch.no_grad()
def test_owner_called_with_positional_arguments() -> None:
    unet = tiny_sd_unet()
    DeltaConvFusion.convert(unet, kernel_size=3)
    owner = next(module for module in unet.modules() if isinstance(module, Transformer2DModel))
    processor = TaggedProcessor()
    owner.transformer_blocks[0].attn2.set_processor(processor)
    hidden, text = torch.randn(1, 16, 4, 6), torch.randn(1, 3, 32)
    by_name = owner(hidden, encoder_hidden_states=text, return_dict=False)[0]
    assert torch.equal(owner(hidden, text, None, None, None, None, None, None, False)[0], by_name)
    assert torch.equal(owner(hidden, text, None, None, None, {"tag": "mine"}, None, None, False)[0], by_name)
    assert processor.tags == [None, None, "mine"]


@torch.no_grad()
def test_controlnet_pipeline_with_both_converted() -> None:
    parts = tiny_sd().components
    pipe = StableDiffusionControlNetPipeline(**parts, controlnet=tiny_controlnet(), requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)

    def run() -> torch.Tensor:
        condition, generator = torch.ones(1, 3, 16, 24), torch.manual_seed(0)
        options = {"num_inference_steps": 2, "guidance_scale": 1.0, "output_type": "pt"}
        return pipe("a cat", image=condition, generator=generator, **options).images

    teacher = run()
    of_unet = DeltaConvFusion.convert(pipe, kernel_size=3)
    half = run()
    of_controlnet = DeltaConvFusion.convert(pipe.controlnet, kernel_size=3)
    assert not torch.allclose(half, teacher, atol=1e-4)
    assert not torch.allclose(run(), half, atol=1e-4)
    of_controlnet.detach()
    assert torch.equal(run(), half)
    of_unet.detach()
    assert torch.equal(run(), teacher)
