"""The operator on the named shapes against PyTorch: eager (channels_last, contiguous) and torch.compile."""

from functools import lru_cache, partial

import pytest
import torch
from peers import EagerPyramid
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
SGEMM_SIZE = 1024


@pytest.fixture(scope="module")
def sgemm_gflops() -> float:
    """What this machine reaches in float32 matrix products: the yardstick for the forward pass."""
    a, b = torch.randn(SGEMM_SIZE, SGEMM_SIZE), torch.randn(SGEMM_SIZE, SGEMM_SIZE)
    seconds = interleaved_medians({"sgemm": lambda: a @ b})["sgemm"]
    return 2 * SGEMM_SIZE**3 / seconds / 1e9


def peers_of(case, training):
    """Each peer as a function without arguments: the forward pass, or forward and backward."""
    functions = {}
    for name, memory_format in (("channels_last", torch.channels_last), ("contiguous", torch.contiguous_format)):
        peer = EagerPyramid(case, memory_format)
        functions[name] = peer.gradients if training else peer.forward
    torch._dynamo.reset()
    peer = EagerPyramid(case, torch.channels_last)
    compiled = torch.compile(peer.__call__, dynamic=False)
    if training:
        functions["compile"] = lambda: peer.gradients(compiled)
    else:
        functions["compile"] = torch.no_grad()(lambda: compiled(peer.x, peer.filters, peer.biases))
    return functions


def report(benchmark, add_row, table, name, shape, flops, medians, sgemm):
    ours = medians["ours"]
    ratios = {peer: time / ours for peer, time in medians.items() if peer != "ours"}
    gflops = flops / ours / 1e9
    info = {"shape": str(shape), "flops": flops, "bytes": shape.bytes(torch.float32), "gflops": gflops}
    info |= {"sgemm_gflops": sgemm, "share_of_sgemm": gflops / sgemm}
    benchmark.extra_info.update(info | {f"ratio_to_{peer}": ratio for peer, ratio in ratios.items()})
    add_row(
        table,
        shape=name,
        GFLOP=f"{flops / 1e9:.2f}",
        MB=f"{shape.bytes(torch.float32) / 1e6:.1f}",
        **{"GFLOP/s": f"{gflops:.0f}", "of sgemm": f"{gflops / sgemm:.0%}"},
        **{f"vs {peer}": f"{ratio:.2f}x" for peer, ratio in ratios.items()},
    )


@lru_cache(maxsize=1)
def expected_results(name):
    """By the reference in float32: in float64, as the tests do it, the backward of the large shapes takes too long."""
    return run_with_gradients(reference.pyramid_forward, make_case(SHAPES[name]))


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("training", [False, True], ids=["forward", "forward-backward"])
def test_pyramid(benchmark, add_row, sgemm_gflops, name, training):
    shape = SHAPES[name]
    case = make_case(shape)
    expected = expected_results(name)
    for result, value in run_with_gradients(dk.pyramid, case).items():
        assert relative_error(value, expected[result]) <= ERROR_BUDGET[torch.float32], result
    peer = EagerPyramid(case, torch.channels_last).forward().permute(0, 2, 3, 1)
    assert relative_error(peer, expected["y"]) <= ERROR_BUDGET[torch.float32]  # the comparison is fair
    if training:
        ours = partial(run_with_gradients, dk.pyramid, case)
        flops = 4 * shape.flops  # forward, the forward that backward repeats, and two gradients
    else:
        ours = torch.no_grad()(partial(dk.pyramid, *case.arguments))
        flops = shape.flops
    medians = interleaved_medians({"ours": ours, **peers_of(case, training)})
    benchmark.pedantic(ours, rounds=3)
    table = "forward + backward, float32" if training else "forward, float32"
    report(benchmark, add_row, table, name, shape, flops, medians, sgemm_gflops)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["sd15-64-k11", "sd15-32-k9", "sd15-16-k5"])
def test_forward_in_16_bits(benchmark, add_row, name, dtype):
    shape = SHAPES[name]
    case, single = make_case(shape, dtype), make_case(shape)
    expected = reference.pyramid_forward(*case.to(torch.float32).arguments)
    assert relative_error(dk.pyramid(*case.arguments), expected) <= ERROR_BUDGET[dtype]
    functions = {
        "ours": torch.no_grad()(lambda: dk.pyramid(*case.arguments)),
        "ours_float32": torch.no_grad()(lambda: dk.pyramid(*single.arguments)),
        "channels_last": EagerPyramid(case, torch.channels_last).forward,
    }
    medians = interleaved_medians(functions)
    benchmark.pedantic(functions["ours"], rounds=5)
    against_float32 = medians["ours"] / medians["ours_float32"]
    against_eager = medians["channels_last"] / medians["ours"]
    benchmark.extra_info.update(time_over_float32=against_float32, ratio_to_channels_last=against_eager)
    add_row(
        "forward, 16-bit types",
        shape=name,
        dtype=str(dtype).removeprefix("torch."),
        **{"our time over float32's": f"{against_float32:.2f}", "vs channels_last": f"{against_eager:.2f}x"},
    )
