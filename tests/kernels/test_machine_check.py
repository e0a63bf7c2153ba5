"""`--check`: its problems reach every path of the kernels, and a wrong backend is called wrong."""

import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from deltaconv_kernels import check as checking
from deltaconv_kernels import native
from deltaconv_kernels.backends import _BACKENDS, _choose
from deltaconv_kernels.check import BLOCKS, PROBLEMS, Row, check, print_check
from deltaconv_kernels.cuda_plan import GPUS, explain_block_plan, explain_cuda_plan
from deltaconv_kernels.testing import Shape

needs_plan = pytest.mark.skipif(native.why_not_loaded("cpu") is not None, reason="the plan is in the CPU library")
SMALL = (Shape(1, 5, 13, 34, 5, (1, 2, 3)), Shape(1, 1, 1, 2, 1, (1,)))


def launches(shape: Shape, dtype: torch.dtype, gpu: str) -> list[tuple[str, str]]:
    """Pass and path of every launch that the plan makes of a problem."""
    plan = explain_cuda_plan(
        (shape.batch, shape.height, shape.width, shape.inter), shape.kernel_size, shape.factors, dtype, gpu
    )
    return re.findall(r"^(.+), (CUDA cores|tensor cores):", plan, re.MULTILINE)


@needs_plan
@pytest.mark.parametrize("gpu", GPUS)
def test_the_problems_reach_every_kernel(gpu):
    """Every pass of every compiled kernel size, and of one beyond, on each path that this GPU's plan knows for it."""
    reached = {
        (shape.kernel_size, *launch)
        for shape in PROBLEMS
        for dtype in (torch.float32, torch.bfloat16)
        for launch in launches(shape, dtype, gpu)
    }
    there_are = {
        (K, *launch)
        for K in (1, 3, 5, 7, 9, 11, 13, 15, 21, 25, 31)
        for dtype in (torch.float32, torch.bfloat16)
        for launch in launches(Shape(2, 64, 64, 64, K), dtype, gpu)
        if launch[0] != "backward, inputs of reduced stages"  # the kernel of x, on the other stages
    }
    assert there_are - reached == set()
    assert {path for _, _, path in there_are} == {"CUDA cores", "tensor cores"}


@needs_plan
def test_the_blocks_are_fused():
    for shape in BLOCKS:
        sizes = (shape.batch, shape.height, shape.width, 2 * shape.inter)
        assert "4 launches" in explain_block_plan(sizes, shape.kernel_size, shape.factors)


def test_this_machine_computes_right(monkeypatch, capsys):
    monkeypatch.setattr(checking, "PROBLEMS", SMALL)
    assert print_check(row for row in check())
    printed = capsys.readouterr().out
    assert "1x5x13x34-k5-f1.2.3 sigmoid" in printed
    assert "all within their budgets" in printed


@pytest.mark.parametrize(
    ("spoil", "verdict"),
    [
        (lambda y, calls: y * 1.001, "OFF: y may be off by 1e-05"),
        (lambda y, calls: y * torch.nan, "OFF: y may be off by 1e-05"),
        (lambda y, calls: y if len(calls) % 2 else y * (1 + 1e-6), "OFF: a second run gave other bits"),
    ],
    ids=["wrong", "not a number", "not the same twice"],
)
def test_a_wrong_backend_is_called_wrong(monkeypatch, spoil, verdict):
    reference, calls = _BACKENDS["reference"], []

    def forward(*arguments):
        calls.append(arguments)
        return spoil(reference.forward(*arguments), calls)

    monkeypatch.setattr(checking, "PROBLEMS", SMALL[:1])
    monkeypatch.setattr(checking, "runnable", lambda: [("reference", torch.device("cpu"))])
    monkeypatch.setitem(_BACKENDS, "reference", replace(reference, forward=forward))
    _choose.cache_clear()
    try:
        row = next(check())
    finally:
        _choose.cache_clear()
    assert (row.dtype, row.verdict, row.ok) == (torch.float32, verdict, False)
    assert not print_check([row])


def test_the_command_says_what_can_run_and_exits_by_the_verdict():
    command = [sys.executable, "-m", "deltaconv_kernels"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.search(r"^cpu +can run$", printed, re.MULTILINE)
    wrong = Row("cpu", "cpu", "problem", torch.float32, 1.0, "grad_x", True, 0.1)
    assert "OFF: grad_x may be off by 1e-05" in str(wrong)
    assert wrong.verdict != replace(wrong, error=1e-6).verdict == "ok"
