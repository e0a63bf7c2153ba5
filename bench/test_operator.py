"""The operator on the named shapes against PyTorch: eager (channels_last, contiguous) and torch.compile.

On all threads and on one, in every dtype. Eager PyTorch takes seconds for some shapes in float64 and in 16 bits: what
takes more than half a second is timed once, and in float64 and float16 in one layout.
"""

from functools import lru_cache, partial

import pytest
import torch
from compile_ahead import compile_ahead
from peers import EagerPyramid
from tables import Ratio, Share
from targets import ALL_THREADS, EAGER, FEW_CHANNELS, FORWARD, ONE_THREAD, TRAINING, pyramid_table
from timing import interleaved_medians, timed

import deltaconv_kernels as dk
from deltaconv_kernels import reference
from deltaconv_kernels.testing import (
    ERROR_BUDGET,
    GPU_ONLY_SHAPES,
    NAMED_SHAPES,
    Shape,
    assert_matches_oracle,
    make_case,
    relative_error,
    run_with_gradients,
)

SHAPES = {name: shape for name, shape in NAMED_SHAPES.items() if name not in GPU_ONLY_SHAPES}
# Far from any model: most lanes of a vector are empty.
NARROW_SHAPES = {f"128-c{inter}-k{k}": Shape(1, 128, 128, inter, k) for inter in (2, 8, 16) for k in (3, 9, 13)}
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
LAYOUTS = {"channels_last": torch.channels_last, "NCHW": torch.contiguous_format}
MATRIX_SIZE = 1024
ONCE_ABOVE = 0.5  # seconds

# In these eager PyTorch's channels_last is mostly several times slower than its NCHW, and is left out where that one
# takes more than ONCE_ABOVE.
NCHW_FIRST = (torch.float64, torch.float16)
TOO_LONG_ON_ONE_THREAD = ("pixart-64-k13", "hires-256-k11")  # for eager PyTorch in these


def dtype_name(dtype):
    return str(dtype).removeprefix("torch.")


def all_passes(test):
    return pytest.mark.parametrize("training", [False, True], ids=["forward", "forward-backward"])(test)


@pytest.fixture
def threads_before():
    """One thread inside the test; as many as there were before it after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield before
    torch.set_num_threads(before)


def eager_peers(case, training):
    peers = {name: EagerPyramid(case, memory_format) for name, memory_format in LAYOUTS.items()}
    return {name: peer.gradients if training else peer.forward for name, peer in peers.items()}


def medians_beside_eager(case, training, functions):
    """Median seconds of the functions and of eager PyTorch in its layouts, interleaved."""
    peers = eager_peers(case, training)
    if case.x.dtype in NCHW_FIRST and (seconds := timed(peers["NCHW"])) > ONCE_ABOVE:
        return {"NCHW": seconds, **interleaved_medians(functions, seconds=0.2)}
    return interleaved_medians({**functions, **peers}, seconds=0.2, once_above=ONCE_ABOVE)


def compiled_peer(case, training):
    torch._dynamo.reset()
    peer = EagerPyramid(case, torch.channels_last)
    compiled = torch.compile(peer.__call__, dynamic=False)
    if training:
        return lambda: peer.gradients(compiled)
    return torch.no_grad()(lambda: compiled(peer.x, peer.filters, peer.biases))


def compiled_peer_of(name, training):
    return compiled_peer(make_case(SHAPES[name]), training)


@pytest.fixture(scope="session")
def compiled_ahead(request):
    """torch.compile finds the code of every problem that `test_pyramid` is about to measure in its cache."""
    chosen = [item.callspec.params for item in request.session.items if item.originalname == "test_pyramid"]
    compile_ahead(compiled_peer_of, [(params["name"], params["training"]) for params in chosen])


def ours(case, training):
    if training:
        return partial(run_with_gradients, dk.pyramid, case)
    return torch.no_grad()(partial(dk.pyramid, *case.arguments))


def matrix_product_median(dtype):
    """Seconds of a float32 (float64 for float64) matrix product, the yardstick for this machine's arithmetic.

    Alone: the threads of another library spin on for a while, which whatever runs next would pay for.
    """
    kind = torch.float64 if dtype == torch.float64 else torch.float32
    a, b = (torch.randn(MATRIX_SIZE, MATRIX_SIZE, dtype=kind) for _ in range(2))
    return interleaved_medians({"matrix product": lambda: a @ b}, seconds=0.1)


@lru_cache(maxsize=1)
def expected_results(name, dtype):
    """By the reference in float32: in float64, as the tests do it, the backward of the large shapes takes too long."""
    return run_with_gradients(reference.pyramid_forward, make_case(SHAPES[name], dtype).to(torch.float32))


def assert_correct(case, name):
    dtype = case.x.dtype
    expected = expected_results(name, dtype)
    budget = max(ERROR_BUDGET[dtype], ERROR_BUDGET[torch.float32])
    for result, value in run_with_gradients(dk.pyramid, case).items():
        assert relative_error(value, expected[result]) <= budget, result
    if dtype == torch.float32:  # the comparison is fair; in 16 bits PyTorch rounds at every step
        peer = EagerPyramid(case, torch.channels_last).forward().permute(0, 2, 3, 1)
        assert relative_error(peer, expected["y"]) <= ERROR_BUDGET[dtype]


def assert_same_bits_on_one_thread(case, threads):
    """What is right on all threads, as the other tests check, is right on one, which is left set."""
    torch.set_num_threads(threads)
    expected = run_with_gradients(dk.pyramid, case)
    torch.set_num_threads(1)
    results = run_with_gradients(dk.pyramid, case)
    assert all(torch.equal(results[name], value) for name, value in expected.items())


def report(benchmark, add_row, table, shape, name, dtype, training, medians):
    # Forward and backward: the forward pass, the convolutions that backward repeats, and two gradients.
    flops = (4 if training else 1) * shape.flops
    traffic = shape.bytes(dtype, training)
    seconds = medians["ours"]
    layouts = [layout for layout in LAYOUTS if layout in medians]
    ratios = {EAGER: min(medians[layout] for layout in layouts) / seconds}
    ratios |= {f"over {peer}": medians[peer] / seconds for peer in (*layouts, "compile") if peer in medians}
    if "ours_float32" in medians:
        ratios["time over float32"] = seconds / medians["ours_float32"]
    share = flops / seconds / (2 * MATRIX_SIZE**3 / medians["matrix product"])
    product = "dgemm" if dtype == torch.float64 else "sgemm"
    info = {"shape": str(shape), "flops": flops, "bytes": traffic, "seconds": medians, f"share_of_{product}": share}
    benchmark.extra_info.update(info | ratios)
    add_row(
        table,
        shape=name,
        GFLOP=f"{flops / 1e9:.2f}",
        MB=f"{traffic / 1e6:.1f}",
        **{
            "GFLOP/s": f"{flops / seconds / 1e9:.0f}",
            f"of {product}": Share(share),
            "GB/s": f"{traffic / seconds / 1e9:.1f}",
        },
        **{column: Ratio(ratio) for column, ratio in ratios.items()},
    )


def table_of(dtype, training, setting=ALL_THREADS):
    return pyramid_table(TRAINING if training else FORWARD, dtype_name(dtype), setting)


@pytest.mark.quoted
@all_passes
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.usefixtures("compiled_ahead")
def test_pyramid(benchmark, add_row, name, training):
    case = make_case(SHAPES[name])
    assert_correct(case, name)
    functions = {"ours": ours(case, training), **eager_peers(case, training)}
    medians = matrix_product_median(case.x.dtype) | interleaved_medians(functions)
    medians |= interleaved_medians({"compile": compiled_peer(case, training)}, seconds=0.3)  # threads of its own, too
    benchmark.pedantic(functions["ours"], rounds=3)
    table = table_of(case.x.dtype, training)
    report(benchmark, add_row, table, SHAPES[name], name, case.x.dtype, training, medians)


@all_passes
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=dtype_name)
def test_pyramid_in_other_types(benchmark, add_row, name, dtype, training):
    case = make_case(SHAPES[name], dtype)
    assert_correct(case, name)
    functions = {"ours": ours(case, training), "ours_float32": ours(make_case(SHAPES[name]), training)}
    medians = matrix_product_median(dtype) | medians_beside_eager(case, training, functions)
    benchmark.pedantic(functions["ours"], rounds=3)
    report(benchmark, add_row, table_of(dtype, training), SHAPES[name], name, dtype, training, medians)


@all_passes
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
def test_pyramid_on_one_thread(benchmark, add_row, threads_before, name, dtype, training):
    if dtype in NCHW_FIRST and name in TOO_LONG_ON_ONE_THREAD:
        pytest.skip("eager PyTorch takes up to half a minute; on all threads it is timed")
    case = make_case(SHAPES[name], dtype)
    assert_same_bits_on_one_thread(case, threads_before)
    functions = {"ours": ours(case, training)}
    medians = matrix_product_median(dtype) | medians_beside_eager(case, training, functions)
    benchmark.pedantic(functions["ours"], rounds=3)
    table = table_of(dtype, training, ONE_THREAD)
    report(benchmark, add_row, table, SHAPES[name], name, dtype, training, medians)


@all_passes
@pytest.mark.parametrize("name", NARROW_SHAPES)
def test_few_channels(benchmark, add_row, name, training):
    case = make_case(NARROW_SHAPES[name])
    assert_matches_oracle(case)
    functions = {"ours": ours(case, training), **eager_peers(case, training)}
    medians = matrix_product_median(case.x.dtype) | interleaved_medians(functions, seconds=0.2)
    benchmark.pedantic(functions["ours"], rounds=3)
    table = table_of(case.x.dtype, training, FEW_CHANNELS)
    report(benchmark, add_row, table, NARROW_SHAPES[name], name, case.x.dtype, training, medians)
