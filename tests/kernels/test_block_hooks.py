"""What others attach to a block or its projections sees what it would see of nn.Linear alone."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.modules import module as modules

import deltaconv_kernels as dk
from deltaconv_kernels.testing import relative_error


def small_block():
    torch.manual_seed(0)
    return dk.DeltaConvBlock(16, kernel_size=3)


def images():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 5, 6, 16, generator=generator), torch.randn(2, 5, 6, 16, generator=generator)


def written(block, x, residual):
    local = dk.pyramid(block.in_proj(x), block.weight, block.bias, block.factors, block.gate, block.gate_scale)
    return residual + (block.out_proj(local) + block.pool_proj(x.mean(dim=(1, 2)))[:, None, None])


@pytest.mark.parametrize("name", ["in_proj", "out_proj", "pool_proj"])
def test_a_forward_hook_keeps_what_the_projection_returned(name):
    block, (x, residual) = small_block(), images()
    kept = []
    getattr(block, name).register_forward_hook(lambda module, arguments, output: kept.append((arguments[0], output)))
    block(x, residual)
    ((argument, output),) = kept
    assert torch.equal(output, nn.functional.linear(argument, *getattr(block, name).parameters()))


@pytest.mark.parametrize("name", ["in_proj", "out_proj", "pool_proj"])
def test_a_full_backward_hook_gets_the_gradient(name):
    block, (x, residual) = small_block(), images()
    seen = []
    getattr(block, name).register_full_backward_hook(lambda module, inputs, outputs: seen.append(outputs[0]))
    block(x, residual).square().sum().backward()
    assert len(seen) == 1
    assert seen[0].abs().sum() > 0


@pytest.mark.parametrize("register", ["register_module_forward_hook", "register_module_forward_pre_hook"])
@pytest.mark.parametrize("recorded", [False, True], ids=["inference", "training"])
def test_hooks_on_every_module_see_the_projections(register, recorded):
    block, (x, residual) = small_block(), images()
    expected = block(x, residual)
    kept = []
    handle = getattr(modules, register)(lambda module, *what: kept.append((module, what[-1])))
    try:
        with torch.set_grad_enabled(recorded):
            result = block(x, residual)
    finally:
        handle.remove()
    assert {block.in_proj, block.out_proj, block.pool_proj} <= {module for module, _ in kept}
    assert relative_error(result.detach(), expected.detach()) <= 1e-6
    if register == "register_module_forward_hook":
        (output,) = [what for module, what in kept if module is block.out_proj]
        assert relative_error(output.detach(), result.detach()) > 0.1  # not overwritten by the block's result


def test_a_function_mode_keeps_what_linear_returned():
    block, (x, residual) = small_block().requires_grad_(False), images()

    class Keep(torch.overrides.TorchFunctionMode):
        def __init__(self):
            self.kept = []

        def __torch_function__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if function is nn.functional.linear:
                self.kept.append((result, result.clone()))
            return result

    with Keep() as keep:
        block(x, residual)
    assert len(keep.kept) == 3
    assert all(torch.equal(*pair) for pair in keep.kept)


@pytest.mark.parametrize("last", [nn.ReLU, nn.Sigmoid])
def test_an_out_projection_that_ends_in_an_activation(last):
    block, (x, residual) = small_block(), images()
    block.out_proj = nn.Sequential(block.out_proj, last())
    other = copy.deepcopy(block)
    block(x, residual).square().sum().backward()
    written(other, x, residual).square().sum().backward()
    for ours, right in zip(block.parameters(), other.parameters(), strict=True):
        assert relative_error(ours.grad, right.grad) <= 1e-5


def test_saved_tensor_hooks_and_checkpointing():
    block, (x, residual) = small_block(), images()
    gradients = []
    for run in (
        lambda: block(x, residual),
        lambda: torch.utils.checkpoint.checkpoint(block, x, residual, use_reentrant=False),
    ):
        block.zero_grad()
        with torch.autograd.graph.save_on_cpu():
            run().square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in block.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


def test_channels_last_leaves_the_filters_dense():
    """`model.to(memory_format=torch.channels_last)` is for planes; a block has its channels innermost."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), small_block())
    weight = model[1].weight
    model.to(memory_format=torch.channels_last)
    assert model[1].weight is weight
    assert weight.is_contiguous()
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    model.to(dtype=torch.bfloat16, memory_format=torch.channels_last)
    assert model[1].weight.dtype == torch.bfloat16
    assert model[1].weight.is_contiguous()
