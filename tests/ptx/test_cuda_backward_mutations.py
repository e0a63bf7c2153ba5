"""What is wrong in any launch of the backward pass is noticed, by an error or in a gradient."""

from functools import cache

import pytest
import torch
from cuda_launches import Executor, backward
from mutations import AFTER_ANOTHER, MUTATIONS, WAITS, Subject, unnoticed

from deltaconv_kernels.testing import ERROR_BUDGET, Shape, make_case, oracle, relative_error

CORES, TENSOR_CORES = "cuda_cores", "tensor_cores"
LAUNCHES = "gate", "pooled input", "input", "weight", "sum of weights"
OF_TENSOR_CORES = {"a warp's barrier removed", "operands of a product swapped", "matrices 2 bytes off"}
NOT_IN = {  # kinds of instructions that a kernel does not have
    (CORES, "gate"): {AFTER_ANOTHER, *OF_TENSOR_CORES, "a store's tail negated"},
    **{(CORES, launch): {*OF_TENSOR_CORES, "another lane shuffled"} for launch in ("pooled input", "input", "weight")},
    (TENSOR_CORES, "gate"): {AFTER_ANOTHER, *WAITS, "a warp's barrier removed"},
    **{(TENSOR_CORES, launch): {"another lane shuffled"} for launch in ("pooled input", "input")},
    (TENSOR_CORES, "weight"): {"a global load 2 bytes off"},
    **{
        (path, "sum of weights"): {*MUTATIONS} - {AFTER_ANOTHER, "a global load 2 bytes off", "a result 2 bytes off"}
        for path in (CORES, TENSOR_CORES)
    },
}
# Only 16-byte pieces of float32 are copied asynchronously to where CUDA cores read them; then nothing else brings them.
CONVERTED = {(CORES, launch): WAITS for launch in LAUNCHES}
COPIED = {
    (CORES, "pooled input"): {"a store to shared memory 2 bytes off", "a global load 2 bytes off"},
    (CORES, "input"): {"a store to shared memory 2 bytes off"},
}
WITHOUT_EFFECT = {  # of the instructions that `make test` tries, and of all
    # Each task sums the bias's gradient, and the first stores it. Of the two that there are the other might as well.
    (CORES, "weight", "a store's tail negated"): (1, 1),
    # What is behind a tile keeps the next one but one out of its place: here a CTA has two tiles at most.
    (TENSOR_CORES, "weight", "a warp's barrier removed"): (1, 1),
    # The largest of a tile's scales, which are all 1 in bfloat16.
    (TENSOR_CORES, "weight", "another lane shuffled"): (1, 1),
}


def kinds(path: str, without: dict[tuple[str, str], set[str]]) -> list[tuple[str, str, str]]:
    """Paths, launches and what may be wrong in them."""
    return [
        (path, launch, kind)
        for launch in LAUNCHES
        for kind in MUTATIONS
        if kind not in NOT_IN[path, launch] | without.get((path, launch), set())
    ]


@cache
def case_and_expected(shape: Shape, dtype: torch.dtype):
    case = make_case(shape, dtype)
    return case, oracle(case)


@cache
def subject(path: str, shape: Shape, dtype: torch.dtype, launch: str) -> Subject:
    case, expected = case_and_expected(shape, dtype)

    def is_right(executor: Executor) -> bool:
        executor.path = path
        results = backward(case, executor)
        return all(relative_error(results[name], expected[name]) <= ERROR_BUDGET[dtype] for name in results)

    return Subject(is_right, LAUNCHES.index(launch))


def assert_noticed(path: str, inter: int, dtype: torch.dtype, launch: str, kind: str, **options):
    sizes = (1, 9, 21, (1, 2)), (2, 23, 37, (1, 2)), (1, 33, 35, (3, 1)), (1, 17, 30, (2, 4))
    shapes = [Shape(batch, height, width, inter, 7, factors) for batch, height, width, factors in sizes]
    first, *others = (subject(path, shape, dtype, launch) for shape in shapes)
    found = unnoticed(kind, first, others, **options)
    without_effect = WITHOUT_EFFECT.get((path, launch, kind), (0, 0))[options.get("all_of_them", False)]
    assert len(found) == without_effect, found


@pytest.mark.parametrize(("path", "launch", "kind"), kinds(CORES, CONVERTED) + kinds(TENSOR_CORES, {}))
def test_noticed(path, launch, kind):
    assert_noticed(path, 18, torch.bfloat16, launch, kind, some=1)


@pytest.mark.ptx_full
@pytest.mark.parametrize(("path", "launch", "kind"), kinds(CORES, CONVERTED) + kinds(TENSOR_CORES, {}))
def test_every_instruction_noticed(path, launch, kind):
    assert_noticed(path, 18, torch.bfloat16, launch, kind, all_of_them=True)


@pytest.mark.ptx_full
@pytest.mark.parametrize(("path", "launch", "kind"), kinds(CORES, COPIED))
def test_every_instruction_noticed_in_float32(path, launch, kind):
    assert_noticed(path, 32, torch.float32, launch, kind, all_of_them=True)


@pytest.mark.ptx_full
def test_every_barrier_between_three_tiles_of_a_cta_noticed():
    many_tiles = subject(TENSOR_CORES, Shape(1, 264, 256, 2, 7), torch.bfloat16, "weight")
    assert unnoticed("a warp's barrier removed", many_tiles) == []
