"""What training asks of a converted denoiser: gradients, activation checkpointing, features, compiled graphs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from deltaconv_distill import DeltaConvFusion
from diffusers import UNet2DConditionModel
from tiny_pipelines import denoiser_inputs, predict, tiny_pixart_transformer, tiny_sd, tiny_sd_unet

Gradients = dict[str, torch.Tensor]


def distillation_gradients(
    denoiser: torch.nn.Module, fusion: DeltaConvFusion, forward: Callable[..., torch.Tensor] = predict
) -> Gradients:
    """Of a loss with all the terms that distillation has, over two sizes, backward after both forwards."""
    fusion.zero_grad()
    loss = torch.zeros(())
    for size in ((8, 8), (6, 10)):
        with fusion.record_features() as features, fusion.teacher(), torch.no_grad():
            target = forward(denoiser, *size)
            wanted = dict(features)
        with fusion.record_features() as features:
            prediction = forward(denoiser, *size)
        loss = loss + (prediction - target).square().mean()
        loss = loss + sum((features[name] - wanted[name]).square().mean() for name in wanted)
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in fusion.named_parameters()}


@pytest.mark.parametrize("make", [tiny_sd_unet, tiny_pixart_transformer])
def test_checkpointing_gives_the_same_gradients(make: Callable) -> None:
    denoiser = make().requires_grad_(False).train()
    fusion = DeltaConvFusion.convert(denoiser, kernel_size=3)
    expected = distillation_gradients(denoiser, fusion)
    denoiser.enable_gradient_checkpointing()
    actual = distillation_gradients(denoiser, fusion)
    assert all(gradient.abs().max() > 0 for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("make", [tiny_sd_unet, tiny_pixart_transformer])
@pytest.mark.parametrize("mode", ["teacher", "student", "removed"])
def test_recomputation_runs_what_ran(make: Callable, mode: str) -> None:
    """Backward leaves the context of its forward and runs inside another one."""
    gradients = []
    for checkpointed in (False, True):
        denoiser = make().train()
        fusion = DeltaConvFusion.convert(denoiser, kernel_size=3)
        if checkpointed:
            denoiser.enable_gradient_checkpointing()
        contexts = {"teacher": fusion.teacher(), "removed": fusion.ablate("removed"), "student": nullcontext()}
        with contexts[mode]:
            loss = predict(denoiser).square().mean()
        with fusion.ablate("pool") if mode == "teacher" else fusion.teacher():
            loss.backward()
        gradients.append([p.grad for p in denoiser.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(checkpointed, plain, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("make", [tiny_sd_unet, tiny_pixart_transformer])
def test_recomputation_leaves_recorded_features_alone(make: Callable) -> None:
    denoiser = make().train()
    fusion = DeltaConvFusion.convert(denoiser, kernel_size=3)
    denoiser.enable_gradient_checkpointing()
    with fusion.record_features() as features:
        loss = predict(denoiser).square().mean()
        recorded = dict(features)
        with fusion.record_features() as empty:
            loss.backward()
        assert not empty
        assert all(features[name] is value for name, value in recorded.items())


def test_teacher_gets_no_gradient_from_the_student() -> None:
    unet = tiny_sd_unet()
    fusion = DeltaConvFusion.convert(unet, kernel_size=3)
    predict(unet).square().mean().backward()
    attention = unet.mid_block.attentions[0].transformer_blocks[0].attn1
    assert attention.to_q.weight.grad is None
    assert all(parameter.grad is not None for parameter in fusion.parameters())


def test_bfloat16_autocast() -> None:
    unet = tiny_sd_unet()
    fusion = DeltaConvFusion.convert(unet, kernel_size=3)
    with torch.autocast("cpu", torch.bfloat16):
        prediction = predict(unet)
    assert prediction.dtype == torch.bfloat16
    prediction.float().square().mean().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in fusion.parameters())


def test_copy_of_a_fusion_for_an_average() -> None:
    unet = tiny_sd_unet()
    fusion = DeltaConvFusion.convert(unet, kernel_size=3)
    average = copy.deepcopy(fusion)
    with pytest.raises(RuntimeError, match="not attached"):
        average.detach()
    assert dict(average.config) == dict(fusion.config)
    with torch.no_grad():
        for copied, parameter in zip(average.parameters(), fusion.parameters(), strict=True):
            assert torch.equal(copied, parameter)
            copied.zero_()
        before = predict(unet)
        fusion.load_state_dict(average.state_dict())
        assert not torch.allclose(predict(unet), before, atol=1e-4)


@pytest.fixture
def fresh_compiler() -> None:
    torch.compiler.reset()


def one_level_unet() -> UNet2DConditionModel:
    """Four self-attentions, the fewest that have a down, a mid and an up block."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16,),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        cross_attention_dim=32,
        attention_head_dim=2,
        norm_num_groups=8,
    ).requires_grad_(False)


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("make", [one_level_unet, tiny_pixart_transformer])
def test_compiles_without_graph_breaks(make: Callable) -> None:
    """One graph in every mode, also with features and calls recorded; a compiled denoiser can be restored."""
    denoiser = make().requires_grad_(False)
    inputs = denoiser_inputs(denoiser, 8, 12)
    teacher = denoiser(**inputs).sample
    fusion = DeltaConvFusion.convert(denoiser, kernel_size=3)
    compiled = torch.compile(denoiser, fullgraph=True, backend="eager")
    with fusion.record_features() as expected:
        student = denoiser(**inputs).sample
    torch.testing.assert_close(compiled(**inputs).sample, student)
    with fusion.teacher():
        torch.testing.assert_close(compiled(**inputs).sample, teacher)
    with fusion.record_features() as features:
        torch.testing.assert_close(compiled(**inputs).sample, student)
    assert list(features) == list(expected)
    for name in expected:
        torch.testing.assert_close(features[name], expected[name])
    with fusion.teacher(), fusion.record_attention() as calls:
        torch.testing.assert_close(compiled(**inputs).sample, teacher)
    with fusion.teacher(), fusion.record_attention() as expected_calls:
        denoiser(**inputs)
    for name, call in expected_calls.items():
        torch.testing.assert_close(calls[name].input, call.input)
        torch.testing.assert_close(calls[name].output, call.output)
    assert DeltaConvFusion.attached_to(compiled) is fusion
    fusion.detach()
    torch.testing.assert_close(compiled(**inputs).sample, teacher)


def test_a_pipeline_with_a_compiled_denoiser() -> None:
    pipe = tiny_sd()
    pipe.unet = torch.compile(pipe.unet)  # compiles nothing before its first call
    fusion = DeltaConvFusion.convert(pipe, kernel_size=3)
    assert DeltaConvFusion.attached_to(pipe) is fusion


@pytest.mark.usefixtures("fresh_compiler")
def test_regional_compilation() -> None:
    """With autograd traced too, and two sizes."""
    transformer = tiny_pixart_transformer().requires_grad_(False)
    fusion = DeltaConvFusion.convert(transformer, kernel_size=3)
    students = {width: predict(transformer, 8, width) for width in (8, 12)}
    for block in transformer.transformer_blocks:
        block.compile(fullgraph=True, backend="aot_eager")
    for width, student in students.items():
        fusion.zero_grad()
        compiled = predict(transformer, 8, width)
        torch.testing.assert_close(compiled, student, rtol=1e-4, atol=1e-5)
        compiled.square().mean().backward()
        gradients = [parameter.grad.clone() for parameter in fusion.parameters()]
        fusion.zero_grad()
        student.square().mean().backward()
        for gradient, parameter in zip(gradients, fusion.parameters(), strict=True):
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-6)
