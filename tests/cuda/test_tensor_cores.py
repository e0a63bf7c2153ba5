"""The kernels of tensor cores, run on the CPU: fragments against plain products, results against the float64 oracle."""

import itertools

import pytest
import torch
from host_build import TYPES, HostPyramid, device, plan_problem

from deltaconv_kernels.cuda_plan import GPUS
from deltaconv_kernels.reference import pyramid_forward
from deltaconv_kernels.testing import ERROR_BUDGET, NAMED_SHAPES, Shape, make_case, relative_error

DTYPES = [torch.bfloat16, torch.float16]
TENSOR_CORES = "tensor_cores"


@pytest.fixture(params=DTYPES, ids=["bfloat16", "float16"])
def dtype(request):
    return request.param


def assert_forward_matches(case, pyramid):
    expected = pyramid_forward(*case.to(torch.float64).arguments)
    error = relative_error(pyramid(*case.arguments), expected)
    assert error <= ERROR_BUDGET[case.x.dtype], f"relative error {error:.2e}"


# ldmatrix and mma.sync through their fragments; a wrong lane or word gives an error of the order of 1.
@pytest.mark.parametrize(("columns", "transposed"), [(8, False), (16, False), (16, True)])
def test_fragments(host, dtype, columns, transposed):
    generator = torch.Generator().manual_seed(columns)
    a, b = (torch.randn(size, generator=generator).to(dtype) for size in ((16, columns), (columns, 8)))
    addend = torch.randn(16, 8, generator=generator)
    result = torch.full((16, 8), torch.nan)
    element = getattr(host.ElementType, TYPES[dtype])
    addresses = [tensor.data_ptr() for tensor in (a, b, addend, result)]
    host.multiply_fragments(element, *addresses, columns, transposed)
    torch.testing.assert_close(result.double(), addend.double() + a.double() @ b.double(), rtol=0, atol=1e-5)


# K with the tiles there are for it (csrc/cuda/layout/banded_tile.h) and the threads of a block: 512 are a warp for each
# channel pair, which load half of the planes while they multiply. The plan of one or the other GPU chooses each.
TILES = [
    *itertools.product((7,), ((16, 16), (32, 16)), (256, 512)),
    (7, (32, 32), 256),
    *itertools.product((11,), ((16, 16), (32, 16), (32, 32)), (256, 512)),
    *((9, tile, 512) for tile in ((16, 16), (32, 16))),
    *((17, tile, 512) for tile in ((16, 16), (32, 16), (32, 32))),
    *itertools.product((19,), ((16, 16), (32, 16)), (256, 512)),
    *((25, tile, 512) for tile in ((16, 16), (32, 16))),
]


@pytest.mark.parametrize(("kernel_size", "tile", "threads"), TILES, ids=str)
def test_every_tile(host, kernel_size, tile, threads, dtype):
    shape = Shape(1, 35, 38, 34, kernel_size)  # several tiles of each kind, tails in C, H and W
    cta = (*tile, threads)
    problem = plan_problem((1, 35, 38, 34), (1, 2), kernel_size, dtype, TENSOR_CORES, cta=cta)
    (launch,) = host.forward_plan(problem, device("h100"))
    assert launch.threads == threads
    assert {(tiling.rows, tiling.cols) for tiling in launch.tilings} == {tile}
    assert_forward_matches(make_case(shape, dtype, residual=True), HostPyramid(path=TENSOR_CORES, cta=cta))


SHAPES = [
    Shape(2, 5, 3, 6, 7, (1, 3)),
    Shape(1, 1, 1, 2, 9, (1,)),
    Shape(1, 17, 67, 16, 7, (1, 4)),
    Shape(1, 67, 6, 36, 11, (2,)),
    Shape(2, 16, 16, 32, 13, (2, 1)),
    Shape(1, 7, 7, 32, 7, (7, 2, 1)),
    Shape(1, 37, 40, 32, 7, (3, 2, 1, 5)),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(tensor_cores, shape, dtype):
    assert_forward_matches(make_case(shape, dtype), tensor_cores)


@pytest.mark.parametrize("gate", ["scaled", "sigmoid"])
@pytest.mark.parametrize(("bias", "residual"), [(False, False), (False, True), (True, False)])
def test_optional_arguments(tensor_cores, gate, bias, residual, dtype):
    shape = Shape(1, 19, 23, 16, 7, (1, 2))
    assert_forward_matches(make_case(shape, dtype, gate=gate, bias=bias, residual=residual), tensor_cores)


def test_strided_and_expanded_tensors(tensor_cores, dtype):
    """Pixels that are not dense, images that share memory, addresses that allow no 16-byte access."""
    case = make_case(Shape(2, 9, 11, 32, 7), dtype, residual=True)
    wide = torch.cat([case.x, case.x], dim=-1)
    odd = torch.cat([case.x.flatten(), case.x.flatten()[:1]]).roll(1)[1:].view_as(case.x)
    assert odd.data_ptr() % 16 != 0
    expected = tensor_cores(*case.arguments)
    for view in (wide[..., :32], case.x.transpose(1, 2).contiguous().transpose(1, 2), odd):
        assert torch.equal(tensor_cores(view, *case.arguments[1:]), expected)
    one = case.x[:1].expand(2, -1, -1, -1)
    assert torch.equal(tensor_cores(one, *case.arguments[1:])[0], expected[0])


def test_results_depend_on_the_tile_in_odd_rows_alone(host, dtype):
    """Tiles of 16 rows add up every row's products in pairs of kernel rows from the first on, those of 32 rows the odd
    rows' from the second on."""
    case = make_case(Shape(1, 35, 38, 34, 9), dtype)
    ctas = [(rows, cols, 512) for rows, cols in ((16, 16), (32, 16), (32, 32))]
    results = [HostPyramid(path=TENSOR_CORES, cta=cta)(*case.arguments) for cta in ctas]
    # Of a reduced stage neighbouring tiles share a column: sums start elsewhere and round differently.
    low, *high = [y[..., :17] for y in results]
    assert torch.equal(*high)
    assert torch.equal(low[:, ::2], high[0][:, ::2])


def test_same_bits_whatever_the_order_of_blocks(tensor_cores, host, dtype):
    case = make_case(Shape(2, 35, 19, 36, 7, (1, 2)), dtype)
    expected = tensor_cores(*case.arguments)
    host.set_block_order(descending=True)
    try:
        assert torch.equal(tensor_cores(*case.arguments), expected)
    finally:
        host.set_block_order(descending=False)


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("name", NAMED_SHAPES)
def test_plan_takes_tensor_cores_for_16_bits_from_kernel_7_on(host, name, gpu):
    shape = NAMED_SHAPES[name]
    sizes = (shape.batch, shape.height, shape.width, shape.inter)
    properties = device(gpu)
    for kind in TYPES:
        launches = host.forward_plan(plan_problem(sizes, shape.factors, shape.kernel_size, kind), properties)
        expected = kind != torch.float32 and shape.kernel_size >= 7
        assert [launch.tensor_cores for launch in launches] == [expected]
        assert launches[0].shared_bytes <= properties.shared_per_block


def test_plan_leaves_kernels_that_do_not_fit_to_cuda_cores(host, dtype):
    for kernel_size, taken in ((7, True), (25, True), (27, False), (31, False)):
        problem = plan_problem((1, 32, 32, 32), (1,), kernel_size, dtype)
        assert host.tensor_cores_take(problem, device("h100")) is taken
        assert host.forward_plan(problem, device("h100"))[0].tensor_cores is taken
    assert not host.tensor_cores_take(plan_problem((1, 32, 32, 32), (1,), 17, dtype), device("rtx4090"))
