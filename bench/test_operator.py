"""The operator on the named shapes against PyTorch: eager (channels_last, contiguous) and torch.compile."""

from functools import lru_cache, partial

import pytest
import torch
from peers import EagerPyramid
from tables import Ratio, Share
from targets import EAGER, FORWARD, TRAINING, pyramid_table
from timing import interleaved_medians

import deltaconv_kernels as dk
from deltaconv_kernels import reference
from deltaconv_kernels.testing import (
    ERROR_BUDGET,
    GPU_ONLY_SHAPES,
    NAMED_SHAPES,
    make_case,
    relative_error,
    run_with_gradients,
)

SHAPES = {name: shape for name, shape in NAMED_SHAPES.items() if name not in GPU_ONLY_SHAPES}
# Eager PyTorch takes seconds in 16 bits where the processor has no such instructions, and minutes on the others.
SHAPES_IN_16_BITS = ("sd15-64-k7", "sd15-64-k11", "sd15-32-k9", "sd15-16-k5", "sd15-8-k3", "sdxl-32-k9")
SGEMM_SIZE = 1024


def eager_peers(case, training):
    peers = {}
    for name, memory_format in (("channels_last", torch.channels_last), ("NCHW", torch.contiguous_format)):
        peer = EagerPyramid(case, memory_format)
        peers[name] = peer.gradients if training else peer.forward
    return peers


def compiled_peer(case, training):
    torch._dynamo.reset()
    peer = EagerPyramid(case, torch.channels_last)
    compiled = torch.compile(peer.__call__, dynamic=False)
    if training:
        return lambda: peer.gradients(compiled)
    return torch.no_grad()(lambda: compiled(peer.x, peer.filters, peer.biases))


def ours(case, training):
    if training:
        return partial(run_with_gradients, dk.pyramid, case)
    return torch.no_grad()(partial(dk.pyramid, *case.arguments))


def sgemm_median():
    """Seconds of a float32 matrix product, the yardstick for this machine's arithmetic.

    Alone: the threads of another library spin on for a while, which whatever runs next would pay for.
    """
    a, b = torch.randn(SGEMM_SIZE, SGEMM_SIZE), torch.randn(SGEMM_SIZE, SGEMM_SIZE)
    return interleaved_medians({"sgemm": lambda: a @ b}, seconds=0.2)


@lru_cache(maxsize=1)
def expected_results(name, dtype):
    """By the reference in float32: in float64, as the tests do it, the backward of the large shapes takes too long."""
    return run_with_gradients(reference.pyramid_forward, make_case(SHAPES[name], dtype).to(torch.float32))


def assert_correct(case, name):
    dtype = case.x.dtype
    expected = expected_results(name, dtype)
    for result, value in run_with_gradients(dk.pyramid, case).items():
        assert relative_error(value, expected[result]) <= ERROR_BUDGET[dtype], result
    if dtype == torch.float32:  # the comparison is fair; in 16 bits PyTorch rounds at every step
        peer = EagerPyramid(case, torch.channels_last).forward().permute(0, 2, 3, 1)
        assert relative_error(peer, expected["y"]) <= ERROR_BUDGET[dtype]


def report(benchmark, add_row, name, dtype, training, medians):
    shape = SHAPES[name]
    # Forward and backward: the forward pass, the convolutions that backward repeats, and two gradients.
    flops = (4 if training else 1) * shape.flops
    traffic = shape.bytes(dtype, training)
    seconds = medians["ours"]
    best = min(medians["channels_last"], medians["NCHW"])
    ratios = {EAGER: best / seconds}
    ratios |= {
        f"over {peer}": medians[peer] / seconds for peer in ("channels_last", "NCHW", "compile") if peer in medians
    }
    if "ours_float32" in medians:
        ratios["time over float32"] = seconds / medians["ours_float32"]
    share = flops / seconds / (2 * SGEMM_SIZE**3 / medians["sgemm"])
    info = {"shape": str(shape), "flops": flops, "bytes": traffic, "seconds": medians, "share_of_sgemm": share}
    benchmark.extra_info.update(info | ratios)
    add_row(
        pyramid_table(TRAINING if training else FORWARD, str(dtype).removeprefix("torch.")),
        shape=name,
        GFLOP=f"{flops / 1e9:.2f}",
        MB=f"{traffic / 1e6:.1f}",
        **{
            "GFLOP/s": f"{flops / seconds / 1e9:.0f}",
            "of sgemm": Share(share),
            "GB/s": f"{traffic / seconds / 1e9:.1f}",
        },
        **{column: Ratio(ratio) for column, ratio in ratios.items()},
    )


@pytest.mark.parametrize("training", [False, True], ids=["forward", "forward-backward"])
@pytest.mark.parametrize("name", SHAPES)
def test_pyramid(benchmark, add_row, name, training):
    case = make_case(SHAPES[name])
    assert_correct(case, name)
    functions = {"ours": ours(case, training), **eager_peers(case, training)}
    medians = sgemm_median() | interleaved_medians(functions)
    medians |= interleaved_medians({"compile": compiled_peer(case, training)}, seconds=0.3)  # threads of its own, too
    benchmark.pedantic(functions["ours"], rounds=3)
    report(benchmark, add_row, name, torch.float32, training, medians)


@pytest.mark.parametrize("training", [False, True], ids=["forward", "forward-backward"])
@pytest.mark.parametrize("name", SHAPES_IN_16_BITS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_pyramid_in_16_bits(benchmark, add_row, name, dtype, training):
    case = make_case(SHAPES[name], dtype)
    assert_correct(case, name)
    functions = {"ours": ours(case, training), "ours_float32": ours(make_case(SHAPES[name]), training)}
    medians = sgemm_median() | interleaved_medians(functions, seconds=0.3)
    medians |= interleaved_medians(eager_peers(case, training), seconds=0, least_rounds=1)
    benchmark.pedantic(functions["ours"], rounds=3)
    report(benchmark, add_row, name, dtype, training, medians)
