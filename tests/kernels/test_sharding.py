"""Two gloo processes against one: DTensor's shards of the operator, tensor parallelism and FSDP2 of a block."""

import copy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Partial, Replicate, Shard, distribute_tensor, init_device_mesh
from torch.distributed.tensor.parallel import RowwiseParallel, parallelize_module

import deltaconv_kernels as dk
from deltaconv_kernels.testing import relative_error

FACTORS = (1, 2)


def whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def assert_close(result, expected):
    assert relative_error(whole(result).detach(), whole(expected).detach()) <= 1e-5


def check_shards_of_the_operator(mesh) -> bool:
    """The first call, before anybody has imported deltaconv_kernels.sharding. True: of pairs of channels too."""
    tensors = [torch.randn(4, 6, 5, 8), torch.randn(2, 3, 3, 8), torch.randn(2, 8), torch.randn(4, 6, 5, 8)]
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    expected = dk.pyramid(*leaves[:3], FACTORS, residual=leaves[3])
    expected.square().sum().backward()
    by_images = distribute_tensor(tensors[0], mesh, [Shard(0)])
    weight, bias = (distribute_tensor(tensor, mesh, [Replicate()]) for tensor in tensors[1:3])
    assert dk.pyramid(by_images, weight, bias, FACTORS).placements == (Shard(0),)

    from deltaconv_kernels.sharding import share

    same = Replicate()
    pairs = share(3, 2), share(3, 2), share(1, 2), share(3, len(FACTORS))
    placed_as = [
        ((same, same, same, same), same),
        ((Shard(0), same, same, Shard(0)), Shard(0)),
        ((Shard(3), same, same, same), None),  # plain shards of channels part the pairs: gathered first
        ((Shard(1), same, same, same), None),
    ]
    of_pairs = gathers(mesh, pairs[0])
    if of_pairs:
        placed_as.append((pairs, pairs[3]))
    for placements, placed in placed_as:
        inputs = [distribute_tensor(t, mesh, [p]).requires_grad_() for t, p in zip(tensors, placements, strict=True)]
        result = dk.pyramid(*inputs[:3], FACTORS, residual=inputs[3])
        assert placed is None or result.placements == (placed,)
        assert not any(isinstance(placement, Partial) for placement in result.placements)
        assert_close(result, expected)
        result.square().sum().backward()
        for ours, right in zip(inputs, leaves, strict=True):
            assert_close(ours.grad, right.grad)
    return of_pairs


def check_block(make_parallel):
    torch.manual_seed(0)
    block = dk.DeltaConvBlock(16, kernel_size=3)
    alone, x = copy.deepcopy(block), torch.randn(2, 6, 5, 16)
    make_parallel(block)
    results = [model(x, x) for model in (block, alone)]
    assert_close(*results)
    for result in results:
        result.square().sum().backward()
    for ours, right in zip(block.parameters(), alone.parameters(), strict=True):
        assert_close(ours.grad, right.grad)
    with torch.no_grad():
        assert_close(block(x), alone(x))


def gathers(mesh, share) -> bool:
    """Whether torch itself gathers a share of each half of the channels; 2.11 cannot, from 2.13 on it can."""
    try:
        distribute_tensor(torch.zeros(1, 1, 1, 8), mesh, [share]).full_tensor()
    except ValueError:
        return False
    return True


def work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.manual_seed(0)
    mesh = init_device_mesh("cpu", (2,))
    of_pairs = check_shards_of_the_operator(mesh)
    from deltaconv_kernels.sharding import PairParallel

    def in_pairs(block):
        parallelize_module(block, mesh, PairParallel())
        assert block.in_proj.weight.to_local().shape == (4, 16)
        assert block.weight.to_local().shape == (2, 3, 3, 4)
        assert block.out_proj.weight.to_local().shape == (16, 4)

    def projections_fully_sharded(block):
        for linear in (block.in_proj, block.out_proj, block.pool_proj):
            fully_shard(linear, mesh=mesh)
        fully_shard(block, mesh=mesh)

    def out_proj_by_rows(block):
        parallelize_module(block, mesh, {"out_proj": RowwiseParallel(input_layouts=Replicate())})

    for make_parallel in (projections_fully_sharded, out_proj_by_rows):
        check_block(make_parallel)
    if of_pairs:
        check_block(in_pairs)
        (Path(folder) / f"pairs.{rank}").touch()
    dist.destroy_process_group()


def test_on_two_processes(tmp_path):
    mp.spawn(work, (str(tmp_path),), nprocs=2)
    if not all((tmp_path / f"pairs.{rank}").exists() for rank in range(2)):
        pytest.skip(f"torch {torch.__version__} cannot gather shares of channel pairs; everything else passed")
