"""Helpers that put a `forward` of their own on the attentions, before the conversion and after it."""

from __future__ import annotations

import copy
import functools
import io
from collections.abc import Callable, Iterator

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from deltaconv_distill import DeltaConvFusion
from diffusers import PyramidAttentionBroadcastConfig
from diffusers.hooks import HookRegistry, apply_group_offloading, apply_pyramid_attention_broadcast
from diffusers.hooks import ModelHook as DiffusersHook
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from tiny_pipelines import denoiser_inputs, predict, tiny_sd_unet

BROADCAST = "pyramid_attention_broadcast"


def self_attentions(denoiser: torch.nn.Module) -> Iterator[Attention]:
    return (block.attn1 for block in denoiser.modules() if isinstance(block, BasicTransformerBlock))


def dispatch(denoiser: torch.nn.Module) -> None:
    """What `from_pretrained(device_map=...)` does."""
    dispatch_model(denoiser, {"": "cpu"}, force_hooks=True)


def remove_accelerates(denoiser: torch.nn.Module) -> None:
    remove_hook_from_module(denoiser, recurse=True)


def broadcast(denoiser: torch.nn.Module) -> None:
    config = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(-1, 0),  # never: each call computes
        spatial_attention_block_identifiers=("attentions", "transformer_blocks"),
        current_timestep_callback=lambda: 500,
    )
    apply_pyramid_attention_broadcast(denoiser, config)


def stop_broadcast(denoiser: torch.nn.Module) -> None:
    for attention in self_attentions(denoiser):
        attention._diffusers_hook.remove_hook(BROADCAST)


class PassingHook(ModelHook):
    """accelerate's, on the attentions alone."""


class PassingDiffusersHook(DiffusersHook):
    """diffusers'."""


def both(denoiser: torch.nn.Module) -> None:
    for attention in self_attentions(denoiser):
        add_hook_to_module(attention, PassingHook())
        HookRegistry.check_if_exists_or_initialize(attention).register_hook(PassingDiffusersHook(), "passing")


def remove_both(denoiser: torch.nn.Module) -> None:
    for attention in self_attentions(denoiser):
        attention._diffusers_hook.remove_hook("passing")
        remove_hook_from_module(attention)


def unhooked(denoiser: torch.nn.Module) -> None:
    """A bound method of the class stays on the instance when accelerate's hooks are gone."""
    dispatch(denoiser)
    remove_accelerates(denoiser)


HELPERS: dict[str, tuple[Callable, Callable]] = {
    "dispatch_model": (dispatch, remove_accelerates),
    "broadcast": (broadcast, stop_broadcast),
    "both": (both, remove_both),
    "removed": (unhooked, lambda denoiser: None),
}


@torch.no_grad()
@pytest.mark.parametrize("removed", ["stays", "removed attached", "removed detached"])
@pytest.mark.parametrize("order", ["hooked first", "converted first"])
@pytest.mark.parametrize("helper", HELPERS)
def test_blocks_run_and_come_off_under_helpers_hooks(helper: str, order: str, removed: str) -> None:
    hook, unhook = HELPERS[helper]
    twin = tiny_sd_unet()
    teacher = predict(twin)
    DeltaConvFusion.convert(twin, kernel_size=3)
    student = predict(twin)
    unet = tiny_sd_unet()
    if order == "hooked first":
        hook(unet)
        fusion = DeltaConvFusion.convert(unet, kernel_size=3)
    else:
        fusion = DeltaConvFusion.convert(unet, kernel_size=3)
        hook(unet)
    assert torch.equal(predict(unet), student)
    with fusion.teacher():
        assert torch.equal(predict(unet), teacher)
    if removed == "removed attached":
        unhook(unet)
        assert torch.equal(predict(unet), student)
    fusion.detach()
    assert torch.equal(predict(unet), teacher)
    if removed == "removed detached":
        unhook(unet)
        assert torch.equal(predict(unet), teacher)
    fusion.attach(unet)
    assert torch.equal(predict(unet), student)


@torch.no_grad()
def test_unknown_forward_on_the_instance_is_refused_by_name() -> None:
    unet = tiny_sd_unet()
    teacher = predict(unet)
    last = list(self_attentions(unet))[-1]

    def hacked(original: Callable, *args: object, **kwargs: object) -> torch.Tensor:
        return original(*args, **kwargs)

    last.forward = functools.partial(hacked, last.forward)
    with pytest.raises(ValueError, match=r"attn1: its forward was replaced, by functools.partial\(<function .*hacked"):
        DeltaConvFusion.convert(unet, kernel_size=3)
    assert DeltaConvFusion.attached_to(unet) is None
    assert {type(attention) for attention in self_attentions(unet)} == {Attention}
    assert torch.equal(predict(unet), teacher)


@torch.no_grad()
def test_unknown_forward_put_on_later_survives_detach() -> None:
    unet = tiny_sd_unet()
    teacher = predict(unet)
    fusion = DeltaConvFusion.convert(unet, kernel_size=3)
    student = predict(unet)
    for attention in self_attentions(unet):
        attention.forward = functools.partial(
            lambda original, *args, **kwargs: original(*args, **kwargs), attention.forward
        )
    assert torch.equal(predict(unet), student)
    fusion.detach()
    assert torch.equal(predict(unet), teacher)


@torch.no_grad()
def test_broadcast_attention_is_the_blocks_and_a_new_conversion_forgets_it() -> None:
    """A cached output of the other kind of layer is never used."""
    unet = tiny_sd_unet()
    broadcast(unet)
    for attention in self_attentions(unet):
        attention._diffusers_hook.get_hook(BROADCAST).timestep_skip_range = (0, 1000)
    teacher = predict(unet)
    assert torch.equal(predict(unet, seed=0), teacher)
    fusion = DeltaConvFusion.convert(unet, kernel_size=3)
    assert not torch.allclose(predict(unet), teacher, atol=1e-4)
    fusion.detach()
    assert torch.equal(predict(unet), teacher)


@pytest.mark.parametrize("offload", ["disk", "part of it on disk", "cpu"])
def test_offloaded_weights_are_refused(tmp_path, offload: str) -> None:
    unet = tiny_sd_unet()
    if offload == "disk":
        disk_offload(unet, tmp_path, execution_device=torch.device("cpu"))
    elif offload == "cpu":
        cpu_offload(unet, torch.device("cpu"))
    else:
        places = dict.fromkeys((name for name, _ in unet.named_children()), "cpu") | {"mid_block": "disk"}
        dispatch_model(unet, places, offload_dir=tmp_path, force_hooks=True)
    with pytest.raises(ValueError, match="attn1: its weights are offloaded; attach before"):
        DeltaConvFusion.convert(unet, kernel_size=3)
    assert DeltaConvFusion.attached_to(unet) is None
    assert {type(attention) for attention in self_attentions(unet)} == {Attention}


@torch.no_grad()
def test_group_offload_before_the_conversion() -> None:
    cpu = torch.device("cpu")
    unet = tiny_sd_unet()
    apply_group_offloading(unet, onload_device=cpu, offload_device=cpu, offload_type="leaf_level")
    with pytest.raises(ValueError, match=r"group offloading hook on .* would leave the blocks out; attach before"):
        DeltaConvFusion.convert(unet, kernel_size=3)
    unet, twin = tiny_sd_unet(), tiny_sd_unet()
    apply_group_offloading(
        unet, onload_device=cpu, offload_device=cpu, offload_type="block_level", num_blocks_per_group=1
    )
    for model in (unet, twin):
        DeltaConvFusion.convert(model, kernel_size=3)
    assert torch.equal(predict(unet), predict(twin))


@torch.no_grad()
@pytest.mark.parametrize("order", ["cast first", "converted first"])
@pytest.mark.parametrize("storage", [torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_layerwise_casting(storage: torch.dtype, order: str) -> None:
    """Blocks compute in the dtype in which the attentions compute, not in the one that these are stored in."""
    unet = tiny_sd_unet()
    if order == "cast first":
        unet.enable_layerwise_casting(storage_dtype=storage, compute_dtype=torch.float32)
        teacher = predict(unet)
    fusion = DeltaConvFusion.convert(unet, kernel_size=3)
    if order == "converted first":
        unet.enable_layerwise_casting(storage_dtype=storage, compute_dtype=torch.float32)
        with fusion.teacher():
            teacher = predict(unet)
    student = predict(unet)
    assert student.dtype == torch.float32
    assert not torch.allclose(student, teacher, atol=1e-4)
    if order == "cast first":
        assert fusion.dtype == torch.float32
    fusion.detach()
    assert torch.equal(predict(unet), teacher)


@torch.no_grad()
def test_a_stored_and_reloaded_model_and_its_copy_are_converted(tmp_path) -> None:
    unet = tiny_sd_unet()
    keys, teacher = list(unet.state_dict()), predict(unet)
    DeltaConvFusion.convert(unet, kernel_size=3)
    student = predict(unet)
    buffer = io.BytesIO()
    torch.save(unet, buffer)
    buffer.seek(0)
    for model in (torch.load(buffer, weights_only=False), copy.deepcopy(unet)):
        assert torch.equal(predict(model), student)
        model.save_pretrained(tmp_path / "unet")
        assert list(type(model).from_pretrained(tmp_path / "unet").state_dict()) == keys
        fusion = DeltaConvFusion.attached_to(model)
        with fusion.teacher():
            assert torch.equal(predict(model), teacher)
        fusion.detach()
        assert torch.equal(predict(model), teacher)
    assert torch.equal(predict(unet), student)


@torch.no_grad()
def test_denoiser_that_ran_compiled_before_it_is_converted() -> None:
    """Graphs of the teacher are not run again."""
    torch.compiler.reset()
    unet = tiny_sd_unet()
    compiled = torch.compile(unet, backend="eager")
    teacher = compiled(**denoiser_inputs(unet, 8, 8)).sample
    fusion = DeltaConvFusion.convert(compiled, kernel_size=3)
    student = compiled(**denoiser_inputs(unet, 8, 8)).sample
    assert torch.allclose(student, predict(unet), atol=1e-5)
    assert not torch.allclose(student, teacher, atol=1e-4)
    fusion.detach()
    assert torch.allclose(compiled(**denoiser_inputs(unet, 8, 8)).sample, teacher, atol=1e-5)
