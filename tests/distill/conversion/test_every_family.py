"""What holds for every family of denoisers: undo, grids, checkpointing, compile, types, files, counts, adapters."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from deltaconv_distill import DeltaConvFusion
from deltaconv_distill.analysis import profile_of, record
from deltaconv_distill.conversion.model_inputs import predict, random_inputs
from peft import LoraConfig
from tiny_denoisers import TINY, make_tiny, run, tiny_inputs, zero_queries
from torch.utils.flop_counter import FlopCounterMode

pytestmark = pytest.mark.parametrize("name", TINY)


def convert(denoiser: torch.nn.Module) -> DeltaConvFusion:
    """Blocks that do more than their attentions' start."""
    torch.manual_seed(1)
    return DeltaConvFusion.convert(denoiser, kernel_size=3, init="random")


@torch.no_grad()
def test_teacher_is_the_same_to_the_bit(name: str) -> None:
    denoiser = make_tiny(name)
    keys = list(denoiser.state_dict())
    before = {size: run(denoiser, *size) for size in TINY[name].sizes}
    fusion = convert(denoiser)
    assert len(fusion.blocks) == TINY[name].layers
    for size, expected in before.items():
        student = run(denoiser, *size)
        assert student.shape == expected.shape
        assert not torch.allclose(student, expected, atol=1e-4)
        with fusion.teacher():
            assert torch.equal(run(denoiser, *size), expected)
    fusion.detach()
    assert list(denoiser.state_dict()) == keys
    assert all(torch.equal(run(denoiser, *size), expected) for size, expected in before.items())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in denoiser.modules())


@torch.no_grad()
def test_sizes_in_turns_do_not_disturb_each_other(name: str) -> None:
    denoiser = make_tiny(name)
    convert(denoiser)
    first = {size: run(denoiser, *size) for size in TINY[name].sizes}
    for size, expected in reversed(first.items()):
        assert torch.equal(run(denoiser, *size), expected)


@torch.no_grad()
def test_ablations_and_their_difference(name: str) -> None:
    denoiser = make_tiny(name)
    fusion = convert(denoiser)
    student = run(denoiser)
    with fusion.ablate("removed"):
        removed = run(denoiser)
    with fusion.ablate("pool"):
        pool = run(denoiser)
    for block in fusion.blocks.values():
        block.out_proj.weight.zero_()
        block.out_proj.bias.zero_()
    torch.testing.assert_close(run(denoiser), pool)
    for block in fusion.blocks.values():
        block.pool_proj.weight.zero_()
        block.pool_proj.bias.zero_()
    torch.testing.assert_close(run(denoiser), removed)
    assert not torch.allclose(student, pool, atol=1e-4)
    assert not torch.allclose(pool, removed, atol=1e-4)


def gradients(denoiser: torch.nn.Module, fusion: DeltaConvFusion, sizes: tuple) -> dict[str, torch.Tensor]:
    """Of all the terms that distillation has, backward after the forwards of two sizes."""
    fusion.zero_grad()
    loss = torch.zeros(())
    for size in sizes[1:]:
        with fusion.record_features() as features, fusion.teacher(), torch.no_grad():
            target = run(denoiser, *size)
            wanted = dict(features)
        with fusion.record_features() as features:
            prediction = run(denoiser, *size)
        loss = loss + (prediction - target).square().mean()
        loss = loss + sum((features[layer] - wanted[layer]).square().mean() for layer in wanted)
    with fusion.teacher():  # what was a student's forward is recomputed as one
        loss.backward()
    return {key: parameter.grad.clone() for key, parameter in fusion.named_parameters()}


def test_checkpointing_gives_the_same_gradients(name: str) -> None:
    denoiser = make_tiny(name).train()
    if not denoiser._supports_gradient_checkpointing:
        assert name in ("video", "hunyuan-dit", "i2vgen-xl", "kandinsky3", "lumina-next")
        return
    fusion = convert(denoiser)
    expected = gradients(denoiser, fusion, TINY[name].sizes)
    denoiser.enable_gradient_checkpointing()
    actual = gradients(denoiser, fusion, TINY[name].sizes)
    assert all(gradient.abs().max() > 0 for gradient in expected.values())
    for key, gradient in expected.items():
        torch.testing.assert_close(actual[key], gradient, rtol=1e-4, atol=1e-6)


def in_bfloat16(inputs: Any) -> Any:
    if isinstance(inputs, dict):
        return {key: in_bfloat16(value) for key, value in inputs.items()}
    if isinstance(inputs, list):
        return [in_bfloat16(value) for value in inputs]
    return inputs.bfloat16() if isinstance(inputs, torch.Tensor) and inputs.is_floating_point() else inputs


@torch.no_grad()
def test_bfloat16_is_near_float32(name: str) -> None:
    denoiser = make_tiny(name)
    convert(denoiser)
    inputs = tiny_inputs(denoiser, 8, 8)
    exact = predict(denoiser, inputs)
    rounded = predict(denoiser.bfloat16(), in_bfloat16(inputs))
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).norm() < 0.05 * exact.norm()


@torch.no_grad()
def test_saved_blocks_attach_to_the_same_model(name: str, tmp_path: Path) -> None:
    denoiser = make_tiny(name)
    fusion = convert(denoiser)
    student = run(denoiser)
    copied = copy.deepcopy(denoiser)
    assert torch.equal(run(copied), student)
    fusion.save_pretrained(tmp_path / "fusion")
    fusion.detach()
    DeltaConvFusion.from_pretrained(tmp_path / "fusion").attach(denoiser)
    assert torch.equal(run(denoiser), student)
    denoiser.save_pretrained(tmp_path / "model")
    loaded = type(denoiser).from_pretrained(tmp_path / "model").requires_grad_(False)
    DeltaConvFusion.attach_saved(loaded)
    assert torch.equal(run(loaded), student)


@torch.no_grad()
def test_counts_agree_with_torch(name: str) -> None:
    """On the meta device, where torch's counter sees the parts of an attention: teacher minus student."""
    with torch.device("meta"):
        denoiser = TINY[name].make().eval().to("meta")  # some weights of SVD do not heed the context
    fusion = DeltaConvFusion.convert(denoiser, kernel_size=3)
    height, width = TINY[name].sizes[1]
    inputs = random_inputs(denoiser, height, width)
    with FlopCounterMode(display=False) as student, fusion.at_size(height, width):
        denoiser(**inputs)
    with FlopCounterMode(display=False) as teacher, fusion.at_size(height, width), fusion.teacher():
        denoiser(**inputs)
    flops = fusion.report.flops(height, width)
    assert teacher.get_total_flops() - student.get_total_flops() == flops.attention - flops.block
    assert student.get_flop_counts()["Global"][torch.ops.deltaconv.pyramid] == flops.pyramid


@torch.no_grad()
def test_adapters_act_on_what_stays(name: str) -> None:
    denoiser = make_tiny(name)
    if not hasattr(denoiser, "add_adapter"):
        assert name in (
            "dit",
            "older-dit",
            "ddpm",
            "video",
            "svd",
            "latte",
            "hunyuan-dit",
            "i2vgen-xl",
            "kandinsky3",
            "lumina-next",
            "cascade",
        )  # diffusers gives these no adapters
        return
    fusion = convert(denoiser)
    student = run(denoiser)
    denoiser.add_adapter(LoraConfig(r=2, target_modules=[TINY[name].stays], init_lora_weights=False))
    assert not torch.allclose(run(denoiser), student, atol=1e-4)
    denoiser.disable_adapters()
    torch.testing.assert_close(run(denoiser), student)
    fusion.detach()


@torch.no_grad()
def test_recorded_calls_and_features_are_of_the_grids(name: str) -> None:
    denoiser = make_tiny(name)
    fusion = convert(denoiser)
    height, width = TINY[name].sizes[1]
    with fusion.record_features() as features, fusion.record_attention() as calls:
        run(denoiser, height, width)
    assert set(features) == set(calls) == set(fusion.blocks)
    for layer in fusion.report.layers:
        rows, columns = layer.grid(height, width)
        assert calls[layer.name].input.shape[1:] == (rows, columns, layer.dim)
        assert features[layer.name].shape[1:] == (rows * columns, layer.dim)
        block = fusion.blocks[layer.name]
        torch.testing.assert_close(block(calls[layer.name].input), calls[layer.name].output, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_start_is_exact_where_attention_is_uniform(name: str) -> None:
    """Queries of zero weigh all keys alike: the average alone, which blocks without a local part compute."""
    denoiser = make_tiny(name)
    zero_queries(denoiser)
    size = TINY[name].sizes[1]
    teacher = run(denoiser, *size)
    with record(denoiser) as recording:
        run(denoiser, *size)
    fusion = DeltaConvFusion.convert(denoiser, kernel_size=3, profile=profile_of(recording))
    torch.testing.assert_close(run(denoiser, *size), teacher, rtol=1e-4, atol=1e-4)
    fusion.detach()
