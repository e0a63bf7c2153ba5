"""DDP and FSDP2 over two gloo processes: a converted denoiser trains as it does alone, each rank at its own size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from deltaconv_distill import DeltaConvFusion
from diffusers.models.attention import BasicTransformerBlock
from tiny_pipelines import denoiser_inputs, tiny_pixart_transformer, tiny_sd_unet
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

SIZES = ((8, 8), (6, 10))  # of the latents on each rank

Step = tuple[Tensor, list[Tensor]]  # prediction and gradients


def build(make: Callable[[], nn.Module], checkpointing: bool) -> tuple[nn.Module, DeltaConvFusion]:
    denoiser = make().requires_grad_(False).train()
    torch.manual_seed(1)
    fusion = DeltaConvFusion.convert(denoiser, kernel_size=3)
    if checkpointing:
        denoiser.enable_gradient_checkpointing()
    return denoiser, fusion


def distillation_step(model: nn.Module, denoiser: nn.Module, fusion: DeltaConvFusion, rank: int) -> Step:
    """All the terms of the loss, from the forward of `model`, which wraps `denoiser` or is it."""
    inputs = denoiser_inputs(denoiser, *SIZES[rank], seed=rank)
    with torch.no_grad(), fusion.teacher(), fusion.record_features() as wanted:
        target = model(**inputs, return_dict=False)[0]
    with fusion.record_features() as features:
        prediction = model(**inputs, return_dict=False)[0]
    loss = (prediction - target).square().mean()
    loss = loss + sum((features[name] - wanted[name]).square().mean() for name in wanted)
    loss.backward()
    return prediction.detach(), [parameter.grad for parameter in fusion.parameters()]


def alone(make: Callable[[], nn.Module], rank: int) -> Step:
    """Without any wrapper; gradients averaged over the ranks by hand."""
    denoiser, fusion = build(make, checkpointing=False)
    prediction, gradients = distillation_step(denoiser, denoiser, fusion, rank)
    for gradient in gradients:
        dist.all_reduce(gradient)
    return prediction, [gradient / 2 for gradient in gradients]


def with_ddp(make: Callable[[], nn.Module], rank: int, checkpointing: bool) -> Step:
    denoiser, fusion = build(make, checkpointing)
    return distillation_step(DistributedDataParallel(denoiser), denoiser, fusion, rank)


def with_fsdp(make: Callable[[], nn.Module], rank: int, checkpointing: bool) -> Step:
    denoiser, fusion = build(make, checkpointing)
    mesh = init_device_mesh("cpu", (2,))
    for module in denoiser.modules():
        if isinstance(module, BasicTransformerBlock):
            fully_shard(module, mesh=mesh)
    fully_shard(denoiser, mesh=mesh)
    prediction, gradients = distillation_step(denoiser, denoiser, fusion, rank)
    assert all(type(gradient).__name__ == "DTensor" for gradient in gradients)
    return prediction, [gradient.full_tensor() for gradient in gradients]


def compare_on_rank(rank: int, meeting_point: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting_point}", rank=rank, world_size=2)
    for make in (tiny_sd_unet, tiny_pixart_transformer):
        prediction, gradients = alone(make, rank)
        assert all(gradient.abs().max() > 0 for gradient in gradients)
        for wrapped, checkpointing in ((with_ddp, False), (with_fsdp, True)):
            actual_prediction, actual_gradients = wrapped(make, rank, checkpointing)
            torch.testing.assert_close(actual_prediction, prediction, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(actual_gradients, gradients, rtol=1e-4, atol=1e-6)
    dist.destroy_process_group()


def test_ddp_and_fsdp_with_two_processes(tmp_path: Path) -> None:
    # forked: importing diffusers twice more would take longer than the test
    mp.start_processes(compare_on_rank, (str(tmp_path / "meeting-point"),), nprocs=2, start_method="fork")
