"""convert, attach, detach, and what runs in between: teacher, student, ablations, features."""

from __future__ import annotations

import functools

import pytest
import torch
from deltaconv_distill import DeltaConvFusion
from diffusers import PixArtTransformer2DModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from tiny_pipelines import (
    denoiser_inputs,
    predict,
    tiny_sd_unet,
)

HOOKS = [
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_state_dict_hooks",
]


def sample_sizes(denoiser: torch.nn.Module) -> list[tuple[int, int]]:
    """Square, not square, odd at the UNets' lower level and on PixArt's patches, odd altogether (UNets only)."""
    odd = [] if isinstance(denoiser, PixArtTransformer2DModel) else [(7, 9)]
    return [(8, 8), (8, 12), (14, 10), *odd]


def hook_counts(model: torch.nn.Module) -> dict[str, int]:
    return {f"{name}.{kind}": len(getattr(module, kind)) for name, module in model.named_modules() for kind in HOOKS}


@torch.no_grad()
def test_student_differs_and_teacher_is_exact(denoiser: torch.nn.Module) -> None:
    before = {size: predict(denoiser, *size) for size in sample_sizes(denoiser)}
    fusion = DeltaConvFusion.convert(denoiser, kernel_size=3)
    for size, expected in before.items():
        student = predict(denoiser, *size)
        assert student.shape == expected.shape
        assert not torch.allclose(student, expected, atol=1e-4)
        with fusion.teacher():
            assert torch.equal(predict(denoiser, *size), expected)


@torch.no_grad()
def test_interleaved_sizes_do_not_disturb_each_other(denoiser: torch.nn.Module) -> None:
    DeltaConvFusion.convert(denoiser, kernel_size=5)
    sizes = sample_sizes(denoiser)
    alone = {size: predict(denoiser, *size) for size in sizes}
    assert all(torch.equal(predict(denoiser, *size), alone[size]) for size in sizes[::-1] + sizes)


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), [(8, 16), (16, 8)])
def test_every_block_gets_its_grid(denoiser: torch.nn.Module, height: int, width: int) -> None:
    fusion = DeltaConvFusion.convert(denoiser, kernel_size=3)
    calls = {}
    for name in fusion.blocks:
        keep = functools.partial(lambda name, module, args, output: calls.update({name: (args[0], output)}), name)
        denoiser.get_submodule(name).register_forward_hook(keep)
    predict(denoiser, height, width)
    assert calls.keys() == fusion.blocks.keys()
    for layer in fusion.report.layers:
        tokens, output = calls[layer.name]
        assert layer.grid(height, width) == (height // layer.stride, width // layer.stride)
        grid = tokens.unflatten(1, (height // layer.stride, width // layer.stride))
        assert torch.equal(fusion.blocks[layer.name](grid).flatten(1, 2), output)


@torch.no_grad()
def test_detach_restores_everything(denoiser: torch.nn.Module) -> None:
    expected, keys, hooks = predict(denoiser), list(denoiser.state_dict()), hook_counts(denoiser)
    attributes = set(denoiser.__dict__)
    fusion = DeltaConvFusion.convert(denoiser, kernel_size=3)
    student = predict(denoiser)
    fusion.detach()
    assert torch.equal(predict(denoiser), expected)
    assert list(denoiser.state_dict()) == keys
    assert hook_counts(denoiser) == hooks
    assert set(denoiser.__dict__) == attributes
    assert {type(block.attn1) for block in denoiser.modules() if isinstance(block, BasicTransformerBlock)} == {
        Attention
    }
    assert torch.equal(predict(fusion.attach(denoiser) and denoiser), student)


@torch.no_grad()
def test_attach_to_another_model_of_the_same_structure() -> None:
    first, second = tiny_sd_unet(seed=0), tiny_sd_unet(seed=1)
    fusion = DeltaConvFusion.convert(first, kernel_size=3).detach().attach(second)
    assert DeltaConvFusion.attached_to(second) is fusion
    assert DeltaConvFusion.attached_to(first) is None
    with fusion.teacher():
        assert torch.equal(predict(second), predict(tiny_sd_unet(seed=1)))


def test_parameters_are_the_blocks_alone(denoiser: torch.nn.Module) -> None:
    teacher = dict(denoiser.named_parameters())
    fusion = DeltaConvFusion.convert(denoiser, kernel_size=3)
    blocks = [parameter for block in fusion.blocks.values() for parameter in block.parameters()]
    assert {id(parameter) for parameter in fusion.parameters()} == {id(parameter) for parameter in blocks}
    assert len(blocks) == 8 * len(fusion.blocks)
    after = dict(denoiser.named_parameters())
    assert all(after[name] is parameter for name, parameter in teacher.items())
    assert {key for key in after if key not in teacher} == {
        f"{layer}.deltaconv.{key}" for layer, block in fusion.blocks.items() for key, _ in block.named_parameters()
    }


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_blocks_take_the_dtype_of_the_attention(dtype: torch.dtype) -> None:
    unet = tiny_sd_unet().to(dtype)
    fusion = DeltaConvFusion.convert(unet, kernel_size=3)
    assert {parameter.dtype for parameter in fusion.parameters()} == {dtype}
    assert predict(unet).dtype == dtype
    unet.to(torch.float32)
    assert fusion.dtype == torch.float32


@torch.no_grad()
def test_ablations() -> None:
    unet = tiny_sd_unet()
    fusion = DeltaConvFusion.convert(unet, kernel_size=3)
    student = predict(unet)
    with fusion.ablate("removed"):
        removed = predict(unet)
    with fusion.ablate("pool"):
        pool = predict(unet)
    for block in fusion.blocks.values():
        block.out_proj.weight.zero_()
        block.out_proj.bias.zero_()
    torch.testing.assert_close(predict(unet), pool)
    for block in fusion.blocks.values():
        block.pool_proj.weight.zero_()
        block.pool_proj.bias.zero_()
    torch.testing.assert_close(predict(unet), removed)
    assert not torch.allclose(student, pool, atol=1e-4)
    assert not torch.allclose(pool, removed, atol=1e-4)


@torch.no_grad()
def test_contexts_nest_and_survive_exceptions() -> None:
    unet = tiny_sd_unet()
    expected = predict(unet)
    fusion = DeltaConvFusion.convert(unet, kernel_size=3)
    student = predict(unet)
    with fusion.ablate("removed"):
        removed = predict(unet)
        with fusion.teacher():
            assert torch.equal(predict(unet), expected)
        assert torch.equal(predict(unet), removed)
    with pytest.raises(KeyboardInterrupt), fusion.teacher(), fusion.record_features():
        raise KeyboardInterrupt
    assert torch.equal(predict(unet), student)
    with fusion.record_features() as features:
        with pytest.raises(RuntimeError):
            unet(**denoiser_inputs(unet, 8, 8) | {"encoder_hidden_states": torch.zeros(2, 3, 5)})
        partial = dict(features)
        unet.down_blocks[0].attentions[0].transformer_blocks[0].norm2(torch.zeros(1, 4, 16))
        assert all(features[name] is value for name, value in partial.items())


def features_by_independent_hooks(denoiser: torch.nn.Module) -> tuple[dict[str, torch.Tensor], list]:
    """The residual input of each block plus what its attention adds to it, seen from outside."""
    seen: dict[str, torch.Tensor] = {}
    handles = []
    for name, block in denoiser.named_modules():
        if not isinstance(block, BasicTransformerBlock):
            continue

        def keep_input(module, args, kwargs, name=name):
            seen[name] = args[0]
            if module.norm_type == "ada_norm_single":
                timestep = kwargs["timestep"]
                seen[name + ".gate"] = (module.scale_shift_table[None] + timestep.reshape(len(timestep), 6, -1))[:, 2:3]

        def add_output(module, args, output, name=name):
            seen[name] = seen.pop(name + ".gate", 1) * output + seen[name]

        handles.append(block.register_forward_pre_hook(keep_input, with_kwargs=True))
        handles.append(block.attn1.register_forward_hook(add_output))
    return seen, handles


@torch.no_grad()
@pytest.mark.parametrize("mode", ["teacher", "student"])
def test_features_are_the_hidden_states_after_the_residual_add(denoiser: torch.nn.Module, mode: str) -> None:
    fusion = DeltaConvFusion.convert(denoiser, kernel_size=3)
    seen, handles = features_by_independent_hooks(denoiser)
    with fusion.record_features() as features:
        if mode == "teacher":
            with fusion.teacher():
                predict(denoiser, 8, 12)
        else:
            predict(denoiser, 8, 12)
    assert list(features) == list(fusion.blocks)
    for layer in fusion.report.layers:
        height, width = layer.grid(8, 12)
        assert features[layer.name].shape == (2, height * width, layer.dim)
        torch.testing.assert_close(features[layer.name], seen[layer.name.removesuffix(".attn1")], rtol=0, atol=0)
    for handle in handles:
        handle.remove()


@torch.no_grad()
def test_nested_recorders_and_later_forwards() -> None:
    unet = tiny_sd_unet()
    fusion = DeltaConvFusion.convert(unet, kernel_size=3)
    with fusion.record_features() as outer:
        predict(unet)
        first = dict(outer)
        with fusion.record_features() as inner:
            predict(unet, seed=1)
        assert all(inner[name] is outer[name] for name in fusion.blocks)
        predict(unet)
    predict(unet, seed=2)
    assert all(torch.equal(outer[name], first[name]) for name in fusion.blocks)
    assert not any(torch.equal(inner[name], first[name]) for name in fusion.blocks)
