"""One instruction of Triton's PTX made wrong: the executor, or the comparison with float64, must notice each."""

import re
from functools import cache

import pytest
import torch

from deltaconv_kernels.testing import ERROR_BUDGET, Shape, make_case, oracle, relative_error

pytest.importorskip("triton", reason="triton is not installed")

from ptx_executor import PtxError
from triton_on_executor import Gpu, triton_backend

SHAPE = Shape(1, 5, 9, 6, 3)  # both stages, and tails of H, W and C; test_triton_ptx.py compiles the same
FORWARD, GATE, INPUT, WEIGHT = (
    f"pyramid_{name}_kernel" for name in ("forward", "backward_gate", "backward_input", "backward_weight")
)
MUTATIONS = {
    "barrier removed": (r"bar\.sync \t0;", ""),
    "another lane shuffled": (r"(shfl\.sync\.bfly\.b32 .*, )16(, 31)", r"\g<1>1\2"),
    "predicate of a store negated": (r"@(%p\d+ st\.global)", r"@!\1"),
    "predicate of a load negated": (r"@(%p\d+ ld\.global)", r"@!\1"),
    "store 2 bytes off": (r"(st\.global\.\w+ \[ %rd\d+ \+) 0", r"\1 2"),
    "load 2 bytes off": (r"(ld\.global\.\w+ \{ %\w+ \}, \[ %rd\d+ \+) 0", r"\1 2"),
    "factor and sum swapped": (r"(fma\.rn\.f32 \t%r\d+, %r\d+), (%r\d+), (%r\d+);", r"\1, \3, \2;"),
}


@cache
def case_and_expected():
    case = make_case(SHAPE, torch.bfloat16, residual=True)
    return case, oracle(case)


def run(gpu):
    """What each launch counted; AssertionError where a result is wrong."""
    case, expected = case_and_expected()
    with triton_backend(gpu) as launches:
        y = torch.ops.deltaconv.pyramid(*case.arguments)
        gradients = torch.ops.deltaconv.pyramid_backward(*case.backward_arguments, (True, True, True))
    results = dict(zip(("y", "grad_x", "grad_weight", "grad_bias"), (y, *gradients), strict=True))
    for name, result in results.items():
        assert relative_error(result, expected[name]) <= ERROR_BUDGET[torch.bfloat16], name
    return {launched.name: launched.counts for launched in launches}


@cache
def unchanged():
    """Every kernel's PTX, and what its instructions counted."""
    ptx = {}

    def keep(name, text):
        ptx[name] = text
        return text

    return ptx, run(Gpu(90, rewrite=keep))


def occurrences(kernel, kind):
    """Where the PTX has such an instruction, and some lane executes it."""
    ptx, counts = unchanged()
    lanes = dict(zip(counts[kernel].lines, counts[kernel].lanes, strict=True))
    matches = re.finditer(MUTATIONS[kind][0], ptx[kernel])
    return [match for match in matches if lanes[1 + ptx[kernel].count("\n", 0, match.start())]]


def is_noticed(kernel, kind, match):
    changed = match.expand(MUTATIONS[kind][1])
    assert changed != match[0]

    def rewrite(name, text):
        return text[: match.start()] + changed + text[match.end() :] if name == kernel else text

    try:
        run(Gpu(90, rewrite=rewrite))
    except (PtxError, AssertionError):
        return True
    return False


PLACES = [
    (FORWARD, "predicate of a store negated"),
    (FORWARD, "predicate of a load negated"),
    (FORWARD, "store 2 bytes off"),
    (FORWARD, "load 2 bytes off"),
    (GATE, "predicate of a load negated"),
    (GATE, "store 2 bytes off"),
    (INPUT, "factor and sum swapped"),
    (WEIGHT, "factor and sum swapped"),
    (WEIGHT, "another lane shuffled"),
]
# Instructions that are executed for nothing.
WITHOUT_EFFECT = {
    (FORWARD, "load 2 bytes off"): 4,  # taps of the reduced stage's rows beyond its image, whose results are replaced
    (
        WEIGHT,
        "another lane shuffled",
    ): 2,  # a stage's sum for the bias beside the middle kernel row, which nothing reads
}


@pytest.mark.parametrize(("kernel", "kind"), PLACES)
def test_is_noticed(kernel, kind):
    found = occurrences(kernel, kind)
    for match in (found[0], found[len(found) // 2], found[-1]):
        assert is_noticed(kernel, kind, match), match


@pytest.mark.ptx_full
@pytest.mark.parametrize(("kernel", "kind"), PLACES)
def test_each_is_noticed(kernel, kind):
    missed = [match for match in occurrences(kernel, kind) if not is_noticed(kernel, kind, match)]
    assert len(missed) <= WITHOUT_EFFECT.get((kernel, kind), 0), missed


@pytest.mark.parametrize("step", [8, pytest.param(1, marks=pytest.mark.ptx_full)])
def test_removed_barriers_are_noticed(step):
    """Each of every `step`, but for the first, before which nothing has touched shared memory."""
    found = occurrences(WEIGHT, "barrier removed")
    assert len(found) > 8
    assert [match for match in found[1::step] if not is_noticed(WEIGHT, "barrier removed", match)] == []
