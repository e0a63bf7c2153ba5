"""The kernels of CUDA cores, run on the CPU, against the float64 oracle: forward and every gradient."""

import pytest
import torch
from host_build import HostPyramid, device, plan_problem

from deltaconv_kernels.testing import Shape, assert_matches_oracle, make_case, run_with_gradients

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(params=DTYPES, ids=["float32", "bfloat16", "float16"])
def dtype(request):
    return request.param


# Every compile-time kernel size, and the run-time loop for 1, 15 and 31; odd sizes, K > H, tails in C, H and W.
@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7, 9, 11, 13, 15, 31])
def test_kernel_sizes(cores, kernel_size, dtype):
    gate = "scaled" if kernel_size % 4 == 1 else "sigmoid"
    assert_matches_oracle(make_case(Shape(1, 9, 13, 34, kernel_size), dtype, gate=gate, residual=True), cores)


SHAPES = [
    Shape(2, 5, 3, 6, 5, (1, 3)),
    Shape(1, 1, 1, 2, 3, (1,)),
    Shape(1, 33, 40, 32, 3, (1, 2, 3, 4)),
    Shape(1, 6, 67, 2, 7, (1, 4)),
    Shape(1, 67, 6, 36, 5, (2,)),
    Shape(2, 32, 32, 32, 3, (2, 1)),
    Shape(1, 7, 7, 32, 3, (7, 2, 1)),
    Shape(1, 20, 17, 64, 9, (1, 1)),
    Shape(3, 16, 8, 4, 3, (8, 5)),
    Shape(1, 6, 6, 2, 3, (1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3, 6)),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(cores, shape):
    assert_matches_oracle(make_case(shape), cores)


@pytest.mark.parametrize("shape", [Shape(1, 19, 23, 20, 5, (1, 2, 3)), Shape(1, 12, 16, 48, 3, (2, 4))], ids=str)
@pytest.mark.parametrize("gate", ["scaled", "sigmoid"])
@pytest.mark.parametrize(("bias", "residual"), [(False, False), (False, True), (True, False)])
def test_optional_arguments(cores, shape, gate, bias, residual, dtype):
    assert_matches_oracle(make_case(shape, dtype, gate=gate, bias=bias, residual=residual), cores)


def test_more_stages_than_a_launch_takes(cores, host):
    case = make_case(Shape(1, 4, 4, 2, 3, (1, 2) * 9))
    y = cores(*case.arguments)
    assert torch.equal(y[..., :2], cores(case.x, case.weight[:2], case.bias[:2], (1, 2), case.gate, case.gate_scale))
    assert_matches_forward(case, cores)
    with pytest.raises(RuntimeError, match="differentiates up to 16 stages, got 18"):
        run_with_gradients(cores, case)


def assert_matches_forward(case, function):
    assert_matches_oracle(case, lambda *arguments: _forward_only(function, case, *arguments))


def _forward_only(function, case, *arguments):
    """The result of ``function`` with the gradients of the reference."""
    from deltaconv_kernels.reference import pyramid_forward

    reference = pyramid_forward(*arguments)
    with torch.no_grad():
        difference = function(*arguments) - reference
    return reference + difference


# Shared memory for a few rows of input at a time only: the tile is worked off in bands.
@pytest.mark.parametrize("kernel_size", [7, 13, 17])
def test_bands_of_input_rows(host, kernel_size, dtype):
    small = host.DeviceProperties(90, 1, {7: 20000, 13: 36000, 17: 44000}[kernel_size], 50000)
    shape = Shape(1, 21, 19, 32, kernel_size)
    problem = plan_problem((1, 21, 19, 32), (1, 2), kernel_size, dtype, "cuda_cores")
    (launch,) = host.forward_plan(problem, small)
    assert all(tiling.band_rows < tiling.rows + kernel_size - 1 for tiling in launch.tilings)
    assert_matches_oracle(make_case(shape, dtype), HostPyramid(small, "cuda_cores"))


# One multiprocessor gets the largest blocks, many get small ones.
@pytest.mark.parametrize("multiprocessors", [1, 8, 10000])
def test_block_sizes(host, multiprocessors):
    gpu = host.DeviceProperties(90, multiprocessors, 232448, 233472)
    assert_matches_oracle(make_case(Shape(2, 33, 37, 32, 3, (1, 2))), HostPyramid(gpu, "cuda_cores"))


@pytest.mark.parametrize("name", ["a100", "rtx4090", "h100"])
def test_largest_kernel_fits_every_gpu(host, name):
    assert_matches_oracle(make_case(Shape(1, 18, 34, 32, 31, (1, 2))), HostPyramid(device(name), "cuda_cores"))


def test_strided_and_expanded_tensors(cores, dtype):
    """Pixels that are not dense, images that share memory, addresses that allow no 16-byte access."""
    case = make_case(Shape(2, 9, 11, 32, 5), dtype, residual=True)
    wide = torch.cat([case.x, case.x], dim=-1)
    transposed = case.x.transpose(1, 2).contiguous().transpose(1, 2)
    odd = torch.cat([case.x.flatten(), case.x.flatten()[:1]]).roll(1)[1:].view_as(case.x)
    assert odd.data_ptr() % 16 != 0
    expected = cores(*case.arguments)
    for view in (wide[..., :32], wide[..., 32:], transposed, odd):
        assert torch.equal(cores(view, *case.arguments[1:]), expected)
    one = case.x[:1].expand(2, -1, -1, -1)
    assert torch.equal(cores(one, *case.arguments[1:])[0], cores(*case.arguments)[0])
    leaf = case.x.detach().requires_grad_()
    y = cores(leaf, *case.arguments[1:])
    row = case.grad[:, :, :1]
    (expanded,) = torch.autograd.grad(y, leaf, row.expand_as(y), retain_graph=True)
    (dense,) = torch.autograd.grad(y, leaf, row.expand_as(y).contiguous())
    assert torch.equal(expanded, dense)


@pytest.mark.parametrize("shape", [Shape(2, 21, 19, 36, 7, (1, 2)), Shape(2, 40, 18, 34, 15, (1, 3))], ids=str)
def test_same_bits_whatever_the_order_of_blocks(cores, host, shape):
    case = make_case(shape)
    expected = run_with_gradients(cores, case)
    host.set_block_order(descending=True)
    try:
        got = run_with_gradients(cores, case)
    finally:
        host.set_block_order(descending=False)
    for name, value in got.items():
        assert torch.equal(value, expected[name]), name


def test_empty_batch(cores, host):
    case = make_case(Shape(0, 8, 8, 8, 3))
    launches = host.launches()
    assert cores(*case.arguments).shape == (0, 8, 8, 8)
    assert host.launches() == launches


def test_one_launch_for_all_stages(cores, host):
    case = make_case(Shape(1, 12, 12, 8, 3, (1, 2, 3)), residual=True)
    launches = host.launches()
    cores(*case.arguments)
    assert host.launches() == launches + 1


@pytest.mark.parametrize("mask", [(True, False, False), (False, True, False), (False, False, True)], ids=str)
def test_gradients_not_wanted_are_not_computed(cores, mask):
    from host_build import backward

    case = make_case(Shape(1, 8, 9, 8, 3))
    everything = run_with_gradients(cores, case)
    names = ("grad_x", "grad_weight", "grad_bias")
    for name, wanted, got in zip(names, mask, backward(*case.backward_arguments, mask, cores), strict=True):
        assert torch.equal(got, everything[name]) if wanted else got is None


def test_roundings_to_16_bits(host):
    values = torch.randn(2000, generator=torch.Generator().manual_seed(0)) * 10.0 ** torch.arange(2000).sub(1000).div(
        120
    )
    special = torch.tensor([0.0, -0.0, 65504.0, 65519.9, 65520.0, 6.1e-5, 2.9e-8, 3.1e-8, 1 + 2**-11, 1 + 3 * 2**-11])
    for value in torch.cat([values, special]):
        half, brain = host.roundings(value.item())
        assert half == value.half().item()
        assert brain == value.bfloat16().item()
