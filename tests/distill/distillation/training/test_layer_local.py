"""Stage 1: what is recorded of the teacher's attentions, the loss on it, and the fit that needs no gradient."""

from __future__ import annotations

import pytest
import torch
from deltaconv_distill import DeltaConvFusion
from deltaconv_distill.distillation.training.layer_local import (
    LOCAL_PRIOR,
    POOL_PRIOR,
    Regression,
    attention_calls,
    fit_projections,
    local_loss,
)
from tiny_pipelines import predict

from deltaconv_kernels import DeltaConvBlock

GRID = (10, 12)
FITTED = ("out_proj.weight", "pool_proj.weight", "pool_proj.bias")


class Task:
    """A denoising task whose batches are seeds."""

    def __init__(self, denoiser: torch.nn.Module) -> None:
        self.denoiser = denoiser

    def predict(self, batch: int) -> torch.Tensor:
        return predict(self.denoiser, *GRID, seed=batch)


@pytest.fixture
def converted(denoiser: torch.nn.Module) -> tuple[DeltaConvFusion, Task]:
    torch.manual_seed(1)
    return DeltaConvFusion.convert(denoiser, kernel_size=3, init="random"), Task(denoiser)


@torch.no_grad()
def test_calls_are_the_teachers_on_their_grids(converted) -> None:
    fusion, task = converted
    calls = attention_calls(fusion, task, 0)
    assert list(calls) == list(fusion.blocks)
    fusion.detach()
    for layer, call in calls.items():
        attention = task.denoiser.get_submodule(layer)
        assert call.input.shape == call.output.shape
        assert torch.equal(attention(call.input.flatten(1, 2)).unflatten(1, call.input.shape[1:3]), call.output)
    fusion.attach(task.denoiser)
    strides = {layer.name: layer.grid(*GRID) for layer in fusion.report.layers}
    assert {layer: tuple(call.input.shape[1:3]) for layer, call in calls.items()} == strides


@torch.no_grad()
def test_recording_ends_and_leaves_nothing_behind(converted) -> None:
    fusion, task = converted
    expected = predict(task.denoiser)
    with fusion.record_attention() as calls, fusion.record_features() as features:
        assert torch.equal(predict(task.denoiser), expected)
    first, kept = dict(calls), dict(features)
    predict(task.denoiser, seed=1)
    assert all(calls[name] is first[name] and features[name] is kept[name] for name in fusion.blocks)
    for name, block in fusion.blocks.items():
        assert torch.equal(block(calls[name].input), calls[name].output)


def test_the_loss_is_relative_and_reaches_every_block_and_nothing_else(converted) -> None:
    fusion, task = converted
    calls = attention_calls(fusion, task, 0)
    loss = local_loss(fusion, calls)
    loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in fusion.parameters())
    blocks = {id(parameter) for parameter in fusion.parameters()}
    assert all(p.grad is None for p in task.denoiser.parameters() if id(p) not in blocks)
    with torch.no_grad():
        errors = []
        for name, block in fusion.blocks.items():
            error = block(calls[name].input) - calls[name].output
            errors.append((error.square().mean() / calls[name].output.square().mean()).item())
        assert loss.item() == pytest.approx(sum(errors) / len(errors), rel=1e-5)
        for block in fusion.blocks.values():
            for linear in (block.out_proj, block.pool_proj):
                linear.weight.zero_()
                linear.bias.zero_()
        assert local_loss(fusion, calls).item() == pytest.approx(1)


def test_layer_local_steps_bring_the_student_closer_to_the_teacher(converted) -> None:
    fusion, task = converted
    with torch.no_grad():
        with fusion.teacher():
            teacher = task.predict(9)
        before = (task.predict(9) - teacher).square().mean().item()
    optimizer = torch.optim.AdamW(fusion.parameters(), lr=3e-3)
    for step in range(30):
        loss = local_loss(fusion, attention_calls(fusion, task, step % 3))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        assert (task.predict(9) - teacher).square().mean().item() < 0.5 * before


@torch.no_grad()
def test_a_fit_finds_the_projections_that_the_teacher_has(converted) -> None:
    """Where the attention's output is a block's, with other projections, they are found but for the ridge."""
    fusion, task = converted
    wanted = {}
    for name, block in fusion.blocks.items():
        site = task.denoiser.get_submodule(name)
        torch.nn.init.zeros_(site.to_q.weight)  # its output is exactly that of a pool branch
        wanted[name] = site.to_out[0].weight @ site.to_v.weight
        block.pool_proj.weight.copy_(wanted[name] + 0.01 * torch.randn_like(wanted[name]))
    before = local_loss(fusion, attention_calls(fusion, task, 5))
    untouched = {key: value.clone() for key, value in fusion.state_dict().items() if not key.endswith(FITTED)}
    fit_projections(fusion, task, range(5))
    after = local_loss(fusion, attention_calls(fusion, task, 5))
    assert after < 0.02 * before
    assert all(torch.equal(fusion.state_dict()[key], value) for key, value in untouched.items())


@torch.no_grad()
def test_a_fit_minimises_the_ridge_objective() -> None:
    """Its gradient vanishes at the solution: checked against autograd on the data and the prior's pull."""
    torch.manual_seed(0)
    block = DeltaConvBlock(8, 3).double()
    start = {name: value.clone() for name, value in block.named_parameters()}
    x, y = torch.randn(4, 5, 6, 8).double(), torch.randn(4, 5, 6, 8).double()
    regression = Regression(block)
    regression.add(x, y)
    regression.solve()
    features: list[torch.Tensor] = []
    block.out_proj.register_forward_pre_hook(lambda linear, args: features.append(args[0].detach()))
    moved = {name: block.get_parameter(name) for name in FITTED}
    with torch.enable_grad():
        for parameter in moved.values():
            parameter.requires_grad_(True)
        error = (y - block(x)).square().sum()
        local = features[0].square().sum() / features[0].shape[-1]
        pool = 30 * x.mean(dim=(1, 2)).square().mean() * 4
        pulls = {"out_proj.weight": LOCAL_PRIOR * local, "pool_proj.weight": POOL_PRIOR * pool}
        (error + sum(pull * (moved[name] - start[name]).square().sum() for name, pull in pulls.items())).backward()
    for parameter in moved.values():
        assert parameter.grad.abs().max() < 1e-4 * error


def test_a_fit_without_batches_changes_nothing(converted) -> None:
    fusion, task = converted
    before = {key: value.clone() for key, value in fusion.state_dict().items()}
    fit_projections(fusion, task, [])
    assert all(torch.equal(value, before[key]) for key, value in fusion.state_dict().items())


def test_it_works_under_autocast_with_a_teacher_in_bfloat16(converted) -> None:
    fusion, task = converted
    with torch.autocast("cpu", torch.bfloat16):
        loss = local_loss(fusion, attention_calls(fusion, task, 0))
        fit_projections(fusion, task, range(2))
    with torch.autocast("cpu", torch.bfloat16):  # the first one keeps its copies of the weights
        assert local_loss(fusion, attention_calls(fusion, task, 0)) < loss
    assert loss.dtype == torch.float32
    assert all(parameter.dtype == torch.float32 for parameter in fusion.parameters())
