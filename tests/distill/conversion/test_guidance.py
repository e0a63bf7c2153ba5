"""Guidance and processors that want the attention of layers where ΔConvBlocks run, and modes in several threads."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from deltaconv_distill import DeltaConvFusion
from diffusers import DiffusionPipeline, StableDiffusionPAGPipeline, StableDiffusionPipeline, StableDiffusionSAGPipeline
from diffusers.models.attention_processor import AttnProcessor2_0
from tiny_pipelines import predict, tiny_pixart_transformer, tiny_sd, tiny_sd_unet

MID = "mid_block.attentions.0.transformer_blocks.0.attn1"


def with_pag() -> StableDiffusionPAGPipeline:
    parts = {name: part for name, part in tiny_sd().components.items() if name != "image_encoder"}
    return StableDiffusionPAGPipeline(**parts, requires_safety_checker=False, pag_applied_layers=["mid", "up"])


def with_sag() -> StableDiffusionSAGPipeline:
    return StableDiffusionSAGPipeline(**tiny_sd().components, requires_safety_checker=False)


def image(pipe: DiffusionPipeline, **options: float) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    options |= {"num_inference_steps": 2, "height": 16, "width": 16, "output_type": "pt"}
    return pipe("a cat", generator=torch.manual_seed(0), **options).images


@torch.no_grad()
@pytest.mark.parametrize(
    ("make", "scale", "remedy"),
    [(with_pag, "pag_scale", "pag_scale=0"), (with_sag, "sag_scale", r"StableDiffusionPipeline.from_pipe\(pipe\)")],
)
def test_guidance_by_attention_maps_is_refused_and_leaves_no_trace(make: Callable, scale: str, remedy: str) -> None:
    pipe = make()
    guided, plain = image(pipe, **{scale: 3.0}), image(pipe, **{scale: 0.0})
    assert not torch.equal(guided, plain)
    without = StableDiffusionPipeline(**tiny_sd().components | {"unet": pipe.unet}, requires_safety_checker=False)
    fusion = DeltaConvFusion.convert(pipe, kernel_size=3)
    student = image(without)
    with pytest.raises(RuntimeError, match=rf"no attention map for .*guidance; .*{remedy}, .*exclude="):
        image(pipe, **{scale: 3.0})
    assert {type(processor) for processor in pipe.unet.attn_processors.values()} == {AttnProcessor2_0}
    assert torch.equal(image(without), student)
    with fusion.teacher():
        assert torch.equal(image(pipe, **{scale: 3.0}), guided)


@torch.no_grad()
def test_guidance_acts_on_layers_that_keep_their_attention() -> None:
    pipe = with_pag()
    pipe.set_pag_applied_layers(["mid"])
    DeltaConvFusion.convert(pipe, kernel_size=3, exclude="mid_block.*")
    assert not torch.equal(image(pipe, pag_scale=3.0), image(pipe, pag_scale=0.0))


class SharpenedProcessor(AttnProcessor2_0):
    """Somebody's own attention."""


def test_processors_without_effect_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    unet = tiny_sd_unet()
    unet.mid_block.attentions[0].transformer_blocks[0].attn1.set_processor(SharpenedProcessor())
    DeltaConvFusion.convert(unet, kernel_size=3)
    assert "1 attention processors (SharpenedProcessor) are on self-attentions that" in caplog.text
    caplog.clear()
    unet.set_attn_processor(SharpenedProcessor())
    assert "7 attention processors (SharpenedProcessor)" in caplog.text
    caplog.clear()
    unet.set_attn_processor(AttnProcessor2_0())
    assert not caplog.text


@torch.no_grad()
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_contexts_of_one_thread_are_not_seen_in_another(compiled: bool) -> None:
    denoiser = tiny_pixart_transformer()
    teacher = predict(denoiser)
    fusion = DeltaConvFusion.convert(denoiser, kernel_size=3)
    student = predict(denoiser)
    if compiled:
        torch.compiler.reset()
        denoiser.compile(backend="eager", fullgraph=True)
    inside, done = threading.Event(), threading.Event()
    seen: dict[str, torch.Tensor] = {}

    def other() -> None:
        with torch.no_grad(), fusion.teacher(), fusion.record_features() as features:
            inside.set()
            done.wait(60)
            seen["before"] = torch.tensor(len(features))
            seen["output"] = predict(denoiser)
            seen["after"] = torch.tensor(len(features))

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(60)
    try:
        torch.testing.assert_close(predict(denoiser), student, rtol=1e-4, atol=1e-5)
    finally:
        done.set()
        thread.join(60)
    torch.testing.assert_close(seen["output"], teacher, rtol=1e-4, atol=1e-5)
    assert (seen["before"], seen["after"]) == (0, len(fusion.blocks))
    torch.testing.assert_close(predict(denoiser), student, rtol=1e-4, atol=1e-5)


def test_replicas_of_data_parallel_are_refused() -> None:
    """They run in threads of their own, where `teacher()` of the caller's thread would be forgotten."""
    unet = tiny_sd_unet()
    DeltaConvFusion.convert(unet, kernel_size=3)
    with pytest.raises(RuntimeError, match=r"nn\.DataParallel: a converted model runs in DistributedDataParallel"):
        unet._replicate_for_data_parallel()(None)
