"""On a GPU: the operator and the block against PyTorch. Times are medians on the device, in microseconds.

"cold": the L2 cache is emptied before every run; "graph": a CUDA graph replayed, without the host and with warm caches.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from break_even import break_even
from gpu_timing import cold_microseconds, graph_microseconds, host_microseconds
from peak_memory import peak_memory
from peers import EagerPyramid, SelfAttention
from recording import record

import deltaconv_kernels as dk
from deltaconv_kernels import reference
from deltaconv_kernels.testing import (
    ERROR_BUDGET,
    GPU_ONLY_SHAPES,
    NAMED_SHAPES,
    Case,
    Shape,
    make_case,
    relative_error,
    run_with_gradients,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that this torch can use")

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}
DEVICE = "cuda"
PASSES = ("forward", "forward-backward")
SIDES_OF_BLOCK = (16, 32, 64, 128, 256, 512)  # 256 to 262144 tokens
COMPILED_SHAPES = ("sd15-64-k11", "sd15-32-k9", "sdxl-64-k13", "pixart-64-k13")
WIDTH, HEADS, KERNEL_SIZE = 320, 8, 9
# What a ratio compares: our side, the peer, and which of their times.
WAYS_OF_BLOCK = {
    "eager": ("blocks", "attention", "cold"),
    "compiled": ("blocks compiled", "attention compiled", "cold"),
    "graph": ("blocks", "attention", "graph"),
}


def available() -> list[str]:
    return [name for name in ("cuda", "triton") if dk.backends()[name].available]


@pytest.fixture(autouse=True)
def full_float32() -> Iterator[None]:
    """PyTorch lets convolutions round to TF32 unless it is told; ours never do, so neither does the peer."""
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = allowed
    torch.cuda.empty_cache()


def make_case_there(shape: Shape, dtype: torch.dtype) -> Case:
    """`make_case` with its large tensors drawn on the GPU: the host would take half a minute for the largest."""
    torch.manual_seed(0)
    small = make_case(replace(shape, batch=0), dtype, DEVICE)
    b, h, w, c = shape.batch, shape.height, shape.width, shape.inter
    x = torch.randn(b, h, w, c, device=DEVICE, dtype=dtype)
    return replace(small, x=x, grad=torch.randn(b, h, w, len(shape.factors) * c // 2, device=DEVICE, dtype=dtype))


def ours(case: Case, training: bool) -> Callable[[], object]:
    if training:
        return partial(run_with_gradients, dk.pyramid, case)
    return torch.no_grad()(partial(dk.pyramid, *case.arguments))


def checked_times(case: Case, training: bool) -> dict[str, dict[str, float | None]]:
    """Times of every backend that can run, each asserted right first, against the reference in float32."""
    assert available(), {name: status.reason for name, status in dk.backends().items()}
    single = case.to(torch.float32)
    if training:
        expected = run_with_gradients(reference.pyramid_forward, single)
    else:
        expected = {"y": reference.pyramid_forward(*single.arguments)}
    times: dict[str, dict[str, float | None]] = {}
    for backend in available():
        with dk.use_backend(backend):
            results = run_with_gradients(dk.pyramid, case) if training else {"y": dk.pyramid(*case.arguments)}
            for name, value in results.items():
                assert relative_error(value, expected[name]) <= ERROR_BUDGET[case.x.dtype], (backend, name)
            function = ours(case, training)
            times[backend] = {"cold": cold_microseconds(function), "graph": graph_microseconds(function)}
    return times


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMED_SHAPES)
@pytest.mark.parametrize("which", PASSES)
def test_operator(benchmark, add_row, which, name, dtype):
    shape, training = NAMED_SHAPES[name], which != "forward"
    if name in GPU_ONLY_SHAPES and training:
        pytest.skip("gradients at the size of 16384 pixels are of no model's training")
    case = make_case_there(shape, DTYPES[dtype])
    peer = EagerPyramid(case, torch.channels_last)
    function = peer.gradients if training else peer.forward
    times = checked_times(case, training)
    times["channels_last"] = {"cold": cold_microseconds(function), "graph": graph_microseconds(function)}
    report(benchmark, add_row, "operator", which, name, dtype, times, ours(case, training))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("name", COMPILED_SHAPES)
@pytest.mark.parametrize("which", PASSES)
def test_against_compile(benchmark, add_row, which, name, dtype):
    case, training = make_case_there(NAMED_SHAPES[name], DTYPES[dtype]), which != "forward"
    torch._dynamo.reset()
    peer = EagerPyramid(case, torch.channels_last)
    compiled = torch.compile(peer.__call__, dynamic=False)
    if training:
        function = partial(peer.gradients, compiled)
    else:
        function = torch.no_grad()(partial(compiled, peer.x, peer.filters, peer.biases))
    times = checked_times(case, training)
    times["compile"] = {"cold": cold_microseconds(function), "graph": graph_microseconds(function)}
    report(benchmark, add_row, "against compile", which, name, dtype, times, ours(case, training))


@pytest.fixture(scope="module")
def block_ratios() -> dict[str, dict[int, float]]:
    """Attention's time over the block's by number of tokens, measured so far: eager, compiled, as a graph."""
    return {}


def block_functions(side: int) -> dict[str, Callable[[], Any]]:
    """A block, fused and composed of operators, and the self-attention that it replaces; compiled ones too.

    "exact" is the block in float32.
    """
    torch.manual_seed(0)
    block = dk.DeltaConvBlock(WIDTH, KERNEL_SIZE, device=DEVICE, dtype=torch.bfloat16).eval()
    composed = copy.deepcopy(block)
    composed.in_proj.register_forward_hook(lambda module, arguments, output: None)  # so that the parts are called
    attention = SelfAttention(WIDTH, HEADS, torch.bfloat16).to(DEVICE).eval()
    x = torch.randn(1, side, side, WIDTH, device=DEVICE, dtype=torch.bfloat16)
    torch._dynamo.reset()
    modules = {"blocks": block, "composed": composed, "attention": attention}
    modules |= {f"{name} compiled": torch.compile(modules[name], dynamic=False) for name in ("blocks", "attention")}
    inputs = {name: x.flatten(1, 2) if name.startswith("attention") else x for name in modules}
    functions = {name: torch.no_grad()(partial(module, inputs[name])) for name, module in modules.items()}
    return functions | {"exact": torch.no_grad()(lambda: copy.deepcopy(block).float()(x.float()))}


@pytest.mark.parametrize("side", SIDES_OF_BLOCK)
def test_block(benchmark, add_row, block_ratios, side):
    """The whole block against the self-attention that it replaces, projections included, in bfloat16."""
    functions = block_functions(side)
    with dk.use_backend("reference"):
        expected = functions.pop("exact")()
    for name in ("blocks", "composed", "blocks compiled"):
        assert relative_error(functions[name](), expected) <= ERROR_BUDGET[torch.bfloat16], name
    times = {
        name: {"cold": cold_microseconds(function), "graph": graph_microseconds(function)}
        for name, function in functions.items()
    }
    for how, (ours, peer, clock) in WAYS_OF_BLOCK.items():
        if times[ours][clock] and times[peer][clock]:
            block_ratios.setdefault(how, {})[side**2] = times[peer][clock] / times[ours][clock]
    even = {how: break_even(ratios) for how, ratios in block_ratios.items()}
    memory = {name: peak_memory(functions[name]) for name in ("blocks", "attention")}
    fields = {"times": times, "peak_bytes": memory, "break_even_tokens": even}
    record(kind="block", tokens=side**2, width=WIDTH, kernel_size=KERNEL_SIZE, **fields)
    benchmark.extra_info.update(tokens=side**2, **fields)
    benchmark.pedantic(functions["blocks"], rounds=3)
    add_row("block against SDPA, bfloat16, µs", tokens=str(side**2), **rows(times))
    add_row("block against SDPA, break-even so far, tokens", tokens=str(side**2), **even)


@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_host(benchmark, add_row, backend):
    """What a call costs the host: a problem so small that the GPU waits for it."""
    if backend not in available():
        pytest.skip(f"{backend} cannot run: {dk.backends()[backend].reason}")
    case = make_case(Shape(1, 8, 8, 32, 3), torch.bfloat16, DEVICE)
    with dk.use_backend(backend):
        times = {which: host_microseconds(ours(case, which != "forward")) for which in PASSES}
        benchmark.pedantic(ours(case, False), rounds=3)
    record(kind="host", backend=backend, microseconds=times)
    add_row("host, µs a call", backend=backend, **{which: f"{time:.1f}" for which, time in times.items()})


def report(benchmark, add_row, kind, which, name, dtype, times, function):
    shape = NAMED_SHAPES[name]
    problem = {"shape": name, "flops": shape.flops, "bytes": shape.bytes(DTYPES[dtype])}
    fields = {"kind": kind, "pass": which, "dtype": dtype, **problem, "times": times}
    record(**fields)
    benchmark.extra_info.update(fields)
    benchmark.pedantic(function, rounds=3)
    add_row(f"{kind}: {which}, {dtype}, µs", shape=name, **rows(times))


def rows(times: dict[str, dict[str, float | None]]) -> dict[str, str]:
    cells = ((f"{name} {how}", value) for name, both in times.items() for how, value in both.items())
    return {column: "-" if value is None else f"{value:.1f}" for column, value in cells}
