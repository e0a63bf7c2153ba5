"""The whole block in four launches, run on the CPU: every launch against float64, and the block against the module."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from host_block import block_plan, run_block
from host_build import device

import deltaconv_kernels as dk
from deltaconv_kernels.cuda_plan import GPUS
from deltaconv_kernels.testing import ERROR_BUDGET, relative_error

DTYPES = [torch.bfloat16, torch.float16]
TILES = [(64, 64), (128, 128), (128, 160)]


@pytest.fixture(params=DTYPES, ids=["bfloat16", "float16"])
def dtype(request):
    return request.param


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def make_block(dim, inter, dtype, kernel_size=3, factors=(1, 2), biases=True):
    torch.manual_seed(0)
    block = dk.DeltaConvBlock(dim, kernel_size, factors, inter / dim, bias=biases, dtype=dtype)
    if not biases:
        for linear in (block.in_proj, block.out_proj, block.pool_proj):
            linear.bias = None
    return block


def make_x(block, batch, height, width, dtype):
    """Means far from zero: an average left out, or taken over too much, shows."""
    generator = torch.Generator().manual_seed(1)
    size = batch, height, width, block.dim
    offset = torch.linspace(-1, 1, batch * block.dim).view(batch, 1, 1, block.dim)
    return (torch.randn(size, generator=generator) + offset).to(dtype)


def linear(layer, x):
    return F.linear(x.double(), layer.weight.double(), None if layer.bias is None else layer.bias.double())


def pooled(x, factor):
    return F.avg_pool2d(x.permute(0, 3, 1, 2), factor).permute(0, 2, 3, 1)


def rounded_once(tensor):
    """The error of exact values rounded to the storage type: half a last place at most, about a quarter over many."""
    return torch.finfo(tensor.dtype).eps * (0.25 if tensor.numel() > 500 else 0.5)


def assert_launches_match(block, x, residual, run):
    """Each launch against float64 on what it was given."""
    mean = x.double().mean(dim=(1, 2))
    shift = linear(block.pool_proj, mean)
    exact = linear(block.in_proj, x)
    grids = {
        factor: grid
        for factor, grid in zip((1, 2, 4), (run.hidden, run.halved, run.quartered), strict=True)
        if grid.numel()
    }
    assert grids
    errors = {
        f"grid {factor}": relative_error(grid, pooled(exact.to(x.dtype).double(), factor) if factor > 1 else exact)
        for factor, grid in grids.items()
    }
    errors |= {
        "sums": relative_error(run.sums.double().sum(1) / x[0, ..., 0].numel(), mean),
        "result": relative_error(
            run.result,
            linear(block.out_proj, run.local) + shift[:, None, None] + (0 if residual is None else residual.double()),
        ),
    }
    out_bias = 0 if block.out_proj.bias is None else block.out_proj.bias.double()
    errors["shifts"] = relative_error(run.shifts.double().sum(0), shift + out_bias)
    bounds = {f"grid {factor}": rounded_once(grid) for factor, grid in grids.items()}
    bounds |= {"result": rounded_once(x), "sums": 1e-6, "shifts": 1e-6}
    assert {name: error for name, error in errors.items() if not error <= bounds[name]} == {}, errors


def assert_block_matches(block, x, residual, run):
    exact = copy.deepcopy(block).double()
    with dk.use_backend("reference"):
        expected = exact(x.double(), None if residual is None else residual.double())
    assert relative_error(run.result, expected) <= ERROR_BUDGET[x.dtype]


def gpu_that_gets(tiles, block, x, host):
    """A GPU whose plan has these tiles: for the in-projection and for the out-projection."""
    for multiprocessors, shared in itertools.product((1, 2, 3, 5, 8, 13, 10000), (83000, 110000, 232448)):
        gpu = host.DeviceProperties(90, multiprocessors, shared, shared + 1024)
        plan = block_plan(block.arguments(x), gpu)
        if tiles == tuple((side.tile_rows, side.tile_cols) for side in (plan.into, plan.out)):
            return gpu
    return None


def test_every_tile(host, dtype):
    """Both projections with each tile: tails of pixels, of channels in and out, several tiles of each kind."""
    seen = set()
    for dim, inter in ((328, 168), (168, 328), (264, 264)):
        block = make_block(dim, inter, dtype, biases=dim != 264)
        x = make_x(block, 2, 11, 13, dtype)
        for tiles in itertools.product(TILES, TILES):
            gpu = None if tiles in seen else gpu_that_gets(tiles, block, x, host)
            if gpu is None:
                continue
            seen.add(tiles)
            residual = x.flip(1)
            run = run_block(block.arguments(x, residual), gpu)
            assert_launches_match(block, x, residual, run)
    assert {tiles[0] for tiles in seen} == {tiles[1] for tiles in seen} == set(TILES), seen


SIZES = [
    # batch, height, width, dim, inter, factors
    (1, 1, 1, 8, 16, (1,)),
    (3, 5, 7, 24, 16, (1, 2)),
    (2, 8, 8, 72, 40, (1, 2)),
    (1, 13, 17, 64, 32, (2, 1)),
    (2, 9, 3, 136, 64, (1, 3, 2, 1)),
    (1, 20, 21, 320, 160, (1, 2)),
]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sizes(host, size, dtype):
    batch, height, width, dim, inter, factors = size
    block = make_block(dim, inter, dtype, factors=factors)
    x = make_x(block, batch, height, width, dtype)
    run = run_block(block.arguments(x, x.flip(2)))
    assert_launches_match(block, x, x.flip(2), run)
    assert_block_matches(block, x, x.flip(2), run)


PLANAR_SIZES = [
    # batch, height, width, dim, inter, factors, K: every margin of planes, tails of pixels and channels, no full grid
    (2, 12, 20, 24, 40, (1, 2), 7),
    (1, 34, 38, 72, 16, (1, 2), 9),
    (1, 17, 33, 40, 24, (1, 1), 11),
    (2, 36, 44, 16, 32, (4, 1, 2), 13),
    (1, 8, 12, 136, 72, (2, 2), 17),
    (1, 1, 3, 8, 16, (1, 1), 21),
    (1, 36, 68, 16, 16, (1, 2), 25),
]


@pytest.mark.parametrize(("size", "dtype"), [*zip(PLANAR_SIZES, itertools.cycle(DTYPES), strict=False)], ids=str)
def test_channel_planes(host, size, dtype):
    """A pyramid on tensor cores reads planes that the in-projection writes, pooled where its stages are reduced."""
    *size, kernel_size = size
    batch, height, width, dim, inter, factors = size
    block = make_block(dim, inter, dtype, kernel_size, factors)
    x = make_x(block, batch, height, width, dtype)
    arguments = block.arguments(x, x.flip(2))
    assert {grid.factor for grid in block_plan(arguments).grids} == set(factors)
    run = run_block(arguments)
    assert_launches_match(block, x, x.flip(2), run)
    assert_block_matches(block, x, x.flip(2), run)


@pytest.mark.parametrize(
    ("height", "width", "factors", "kernel_size", "planes"),
    [
        (12, 20, (1, 2), 7, [1, 2]),
        (12, 20, (4, 1, 4), 9, [1, 4]),
        (12, 20, (1, 2), 5, []),  # the pyramid runs on CUDA cores
        (12, 20, (1, 2), 27, []),
        (12, 21, (1, 2), 9, []),  # windows of three columns
        (12, 21, (1, 1), 9, [1]),
        (12, 21, (1, 3), 9, []),
        (16, 16, (1, 8), 9, []),
    ],
)
def test_where_there_are_planes(host, height, width, factors, kernel_size, planes):
    """Where the pyramid runs on tensor cores, and windows of 1, 4 or 16 pixels cover the image."""
    block = make_block(32, 16, torch.float16, kernel_size, factors)
    plan = block_plan(block.arguments(make_x(block, 1, height, width, torch.float16)))
    assert [grid.factor for grid in plan.grids] == planes
    assert (" writes planes of channels, " in host.explain(plan)) == bool(planes)


@pytest.mark.parametrize("gate", ["scaled", "sigmoid"])
@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("residual", [True, False])
def test_optional_arguments(host, residual, biases, gate, dtype):
    block = make_block(48, 32, dtype, kernel_size=7, biases=biases)  # on the tensor cores' path too
    block.gate = gate
    x = make_x(block, 2, 9, 11, dtype)
    other = x.flip(1) if residual else None
    run = run_block(block.arguments(x, other))
    assert_launches_match(block, x, other, run)
    assert_block_matches(block, x, other, run)


def test_same_bits_whatever_the_order_of_blocks(host, dtype):
    block = make_block(136, 72, dtype)
    x = make_x(block, 2, 12, 13, dtype)
    expected = run_block(block.arguments(x, x))
    host.set_block_order(descending=True)
    try:
        again = run_block(block.arguments(x, x))
    finally:
        host.set_block_order(descending=False)
    for name, tensor in vars(expected).items():
        assert torch.equal(getattr(again, name), tensor), name


def test_an_image_does_not_depend_on_its_neighbours(host, dtype):
    block = make_block(40, 24, dtype)
    x = make_x(block, 3, 7, 5, dtype)
    together = run_block(block.arguments(x, x))
    for image in range(3):
        alone = x[image : image + 1]
        assert torch.equal(run_block(block.arguments(alone, alone)).result, together.result[image : image + 1])


def test_four_launches(host):
    block = make_block(64, 32, torch.float16)
    x = make_x(block, 1, 8, 8, torch.float16)
    before = host.launches()
    run_block(block.arguments(x))
    assert host.launches() - before == block_plan(block.arguments(x)).launches == 4


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("dim", [320, 640, 1152, 1280])
@pytest.mark.parametrize("side", [8, 64, 512, 2048])
def test_plan_fits_the_gpu(host, side, dim, gpu):
    block = dk.DeltaConvBlock(dim, 9, device="meta", dtype=torch.float16)
    x = torch.empty(2, side, side, dim, device="meta", dtype=torch.float16)
    plan = block_plan(block.arguments(x), device(gpu))
    assert plan.launches == 4
    assert plan.sums == 2 * plan.into.row_tiles * dim
    assert plan.shifts == 2 * plan.shift_slices * dim
    for side_plan in (plan.into, plan.out):
        assert (side_plan.tile_rows, side_plan.tile_cols) in TILES
        assert 2 * side_plan.row_tiles * side_plan.tile_rows >= 2 * side * side
        assert side_plan.shared_bytes <= GPUS[gpu].shared_per_block
        assert side_plan.estimated_cycles > 0
    if side == 2048:  # enough blocks for every multiprocessor, and so the tile that reads the least
        assert plan.out.tile_rows == 128


def test_plan_explains_itself(host):
    block = dk.DeltaConvBlock(320, 9, device="meta", dtype=torch.bfloat16)
    x = torch.empty(2, 64, 64, 320, device="meta", dtype=torch.bfloat16)
    text = host.explain(block_plan(block.arguments(x), device("h200")))
    assert text.startswith("block at inference: 4 launches, workspace ")
    for line in (
        "in-projection and sums of x, 320 to 160 channels",
        "forward, tensor cores",
        "pooled average",
        "out-projection, shift and residual, 160 to 320 channels",
    ):
        assert line in text
